//! Registers: reads, scans, writes after reads, and blind writes of unique values, some of them serializable.

use rand::Rng;
use rand::rngs::StdRng;

use super::REGISTERS;
use super::recorded::Handle;
use super::recorder::Recorder;
use crate::history::Mode;
use crate::plan::Plan;

/// A few reads and writes.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan, number: u64) {
    let is_read_only = rng.random_bool(0.3);
    let mode = Mode {
        serializable: rng.random_bool(0.3),
        read_only: is_read_only,
        past: None,
    };
    let name = recorder.name.clone();
    let Some(txn) = recorder.begin(mode).await else {
        return;
    };
    if rng.random_bool(0.1)
        && let Err(error) = txn.scan(REGISTERS, !is_read_only && rng.random_bool(0.5)).await
    {
        txn.give_up(&error);
        return;
    }
    for place in 0..rng.random_range(1..=4) {
        let key = format!("{REGISTERS}{:02}", rng.random_range(0..plan.keys));
        let value = (!is_read_only && rng.random_bool(0.5)).then(|| format!("{name}.{number}.{place}"));
        let is_blind = value.is_some() && rng.random_bool(0.5);
        let for_update = !is_read_only && rng.random_bool(0.2);
        if let Err(error) = touch(&txn, &key, value, is_blind, for_update).await {
            txn.give_up(&error);
            return;
        }
    }
    txn.commit().await;
}

async fn touch(
    txn: &Handle,
    key: &str,
    value: Option<String>,
    is_blind: bool,
    for_update: bool,
) -> Result<(), meridian_client::Error> {
    match (is_blind, for_update) {
        (true, _) => None,
        (false, true) => txn.get_for_update(key).await?,
        (false, false) => txn.get(key).await?,
    };
    match value {
        Some(value) => txn.put(key, value).await,
        None => Ok(()),
    }
}
