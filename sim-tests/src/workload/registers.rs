//! Registers: reads, scans, writes after reads, and blind writes of unique values, some of them serializable.

use rand::Rng;
use rand::rngs::StdRng;

use super::REGISTERS;
use super::call::Call;
use super::recorded::Handle;
use super::recorder::Recorder;
use crate::history::Mode;
use crate::plan::Plan;

/// A few reads and writes, now and then in one call.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan, number: u64) {
    if rng.random_bool(0.15) {
        recorder.execute(call(&recorder.name, rng, plan, number)).await;
        return;
    }
    transaction(recorder, rng, plan, number).await;
}

fn call(name: &str, rng: &mut StdRng, plan: &Plan, number: u64) -> Call {
    let mut call = match rng.random_bool(0.5) {
        true => Call::new().serializable(),
        false => Call::new(),
    };
    for place in 0..rng.random_range(1..=4) {
        let key = format!("{REGISTERS}{:02}", rng.random_range(0..plan.keys));
        call = match rng.random_bool(0.5) {
            true => call.get(&key),
            false => call.put(&key, format!("{name}.{number}.{place}")),
        };
    }
    call
}

async fn transaction(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan, number: u64) {
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
    let first = match rng.random_range(0..10) {
        0 => {
            let for_update = !is_read_only && rng.random_bool(0.5);
            txn.scan(REGISTERS, for_update).await.map(|_| ())
        }
        1 => at_once(&txn, plan).await,
        _ => Ok(()),
    };
    if let Err(error) = first {
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

/// Reads of one transaction may be under way together.
async fn at_once(txn: &Handle, plan: &Plan) -> Result<(), meridian_client::Error> {
    let keys: Vec<String> = (0..plan.keys.min(5))
        .map(|place| format!("{REGISTERS}{place:02}"))
        .collect();
    let reads = keys.iter().map(|key| txn.get(key));
    futures::future::try_join_all(reads).await.map(|_| ())
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
