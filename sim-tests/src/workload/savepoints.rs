//! Transactions that go back to savepoints: what they took back must never be seen by others, and they themselves must
//! see exactly what they have left.

use meridian_client::Error;
use rand::Rng;
use rand::rngs::StdRng;

use super::SAVEPOINTS;
use super::recorded::Handle;
use super::recorder::Recorder;
use crate::history::{Mode, Part};

/// How many keys there are.
const KEYS: usize = 6;
const NAMES: [&str; 3] = ["one", "two", "three"];

/// Writes, goes back, reads.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, number: u64) {
    let who = format!("{}.{number}", recorder.name);
    let Some(txn) = recorder.begin(Mode::default()).await else {
        return;
    };
    match zigzag(&txn, rng, &who).await {
        Ok(()) if rng.random_bool(0.1) => txn.rollback().await,
        done => {
            txn.finish(done).await;
        }
    }
}

async fn zigzag(txn: &Handle, rng: &mut StdRng, who: &str) -> Result<(), Error> {
    // Going back to a name that is not there would end the transaction.
    let mut open: Vec<&str> = Vec::new();
    for place in 0..rng.random_range(4..=12) {
        let key = format!("{SAVEPOINTS}{}", rng.random_range(0..KEYS));
        match rng.random_range(0..10) {
            0..4 => txn.put(&key, format!("{who}.{place}")).await?,
            4 => txn.delete(&key).await?,
            5 | 6 => {
                let name = NAMES[rng.random_range(0..NAMES.len())];
                txn.savepoint(name).await?;
                open.push(name);
            }
            7 if !open.is_empty() => {
                let back = rng.random_range(0..open.len());
                // The newest of that name is meant.
                let name = open[back];
                let newest = open.iter().rposition(|other| *other == name).unwrap_or(back);
                txn.rollback_to(name).await?;
                open.truncate(newest + 1);
            }
            8 => {
                txn.scan(SAVEPOINTS, false).await?;
            }
            9 => {
                let part = Part {
                    reverse: rng.random_bool(0.5),
                    limit: Some(rng.random_range(1..=KEYS as u64)),
                    count_only: false,
                    ..Part::default()
                };
                txn.part(SAVEPOINTS, part, std::time::Duration::ZERO).await?;
            }
            _ => {
                txn.get(&key).await?;
            }
        }
    }
    Ok(())
}
