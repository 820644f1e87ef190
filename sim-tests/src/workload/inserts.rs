//! Unique inserts: a key that has no value gets one, and whoever comes second must not. The ways to say so: read and
//! write, read for update and write, one call with a condition, and the library's own retries.

use std::cell::Cell;

use meridian_client::Error;
use rand::Rng;
use rand::rngs::StdRng;

use super::INSERTS;
use super::call::Call;
use super::recorded::Handle;
use super::recorder::Recorder;
use crate::history::Mode;

/// How many keys are wanted by all at the same time.
const WANTED: u64 = 2;

/// The first key that may still be free.
#[derive(Default)]
pub struct Frontier(Cell<u64>);

impl Frontier {
    fn taken(&self, number: u64) {
        self.0.set(self.0.get().max(number + 1));
    }
}

/// Tries to be the first to write a key.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, frontier: &Frontier, number: u64) {
    let wanted = frontier.0.get() + rng.random_range(0..WANTED);
    let key = format!("{INSERTS}{wanted:05}");
    let value = format!("{}.{number}", recorder.name);
    match rng.random_range(0..4) {
        0 => {
            let Some(txn) = recorder.begin(Mode::default()).await else {
                return;
            };
            let done = insert(&txn, &key, value, false).await;
            txn.finish(done).await;
        }
        1 => {
            let Some(txn) = recorder.begin(Mode::default()).await else {
                return;
            };
            let done = insert(&txn, &key, value, true).await;
            txn.finish(done).await;
        }
        2 => {
            let call = Call::new().only_if(&key, None).put(&key, value);
            recorder.execute(call).await;
        }
        _ => {
            let (key, value) = (&key, &value);
            let run = |txn: Handle, run| async move {
                let value = format!("{value}.{run}");
                insert(&txn, key, value, false).await
            };
            recorder.transact(Mode::default(), run).await;
        }
    }
    // Whoever got it, it is taken; or nobody did, and then it stays free.
    if rng.random_bool(0.7) {
        frontier.taken(wanted);
    }
}

async fn insert(txn: &Handle, key: &str, value: String, for_update: bool) -> Result<(), Error> {
    let present = match for_update {
        true => txn.get_for_update(key).await?,
        false => txn.get(key).await?,
    };
    match present {
        Some(_) => Ok(()),
        None => txn.put(key, value).await,
    }
}
