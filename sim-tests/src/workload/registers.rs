//! Registers: reads, writes after reads, and blind writes of unique values.

use rand::Rng;
use rand::rngs::StdRng;

use super::REGISTERS;
use super::recorder::{Recorded, Recorder};
use crate::plan::Plan;

/// A few reads and writes.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan, number: u64) {
    let is_read_only = rng.random_bool(0.3);
    let name = recorder.name.clone();
    let Some(mut txn) = recorder.begin(is_read_only).await else {
        return;
    };
    for place in 0..rng.random_range(1..=4) {
        let key = format!("{REGISTERS}{:02}", rng.random_range(0..plan.keys));
        let value = (!is_read_only && rng.random_bool(0.5)).then(|| format!("{name}.{number}.{place}"));
        let is_blind = value.is_some() && rng.random_bool(0.5);
        if let Err(error) = touch(&mut txn, &key, value, is_blind).await {
            txn.give_up(&error);
            return;
        }
    }
    txn.commit().await;
}

async fn touch(
    txn: &mut Recorded<'_>,
    key: &str,
    value: Option<String>,
    is_blind: bool,
) -> Result<(), meridian_client::Error> {
    if !is_blind {
        txn.get(key).await?;
    }
    match value {
        Some(value) => txn.put(key, value).await,
        None => Ok(()),
    }
}
