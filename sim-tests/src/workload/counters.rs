//! Counters: read, add one, write. Whatever way that is done and however often it is retried, each acknowledged
//! increment counts once.
//!
//! A counter's value is its number and who wrote it, so that every version is unique.

use meridian_client::Error;
use rand::Rng;
use rand::rngs::StdRng;

use super::COUNTERS;
use super::call::Call;
use super::recorded::{Handle, text};
use super::recorder::Recorder;
use crate::history::{Found, Mode};

/// How many there are.
const COUNT: usize = 2;

/// The number in a counter's value.
pub fn number_of(value: &str) -> Option<u64> {
    value.split(' ').next()?.parse().ok()
}

/// Adds one.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, number: u64) {
    let key = format!("{COUNTERS}{}", rng.random_range(0..COUNT));
    let who = format!("{}.{number}", recorder.name);
    match rng.random_range(0..4) {
        0 => {
            let Some(txn) = recorder.begin(Mode::default()).await else {
                return;
            };
            let done = increment(&txn, &key, &who).await;
            txn.finish(done).await;
        }
        1 => compare_and_set(recorder, &key, &who).await,
        _ => {
            let mode = Mode {
                serializable: rng.random_bool(0.3),
                ..Mode::default()
            };
            let (key, who) = (&key, &who);
            let run = |txn: Handle, run| async move {
                let who = format!("{who}.{run}");
                increment(&txn, key, &who).await
            };
            recorder.transact(mode, run).await;
        }
    }
}

async fn increment(txn: &Handle, key: &str, who: &str) -> Result<(), Error> {
    let present = txn.get(key).await?;
    txn.put(key, one_more(present.as_deref(), who)).await
}

fn one_more(present: Option<&str>, who: &str) -> String {
    let before = present.and_then(number_of).unwrap_or_default();
    format!("{} {who}", before + 1)
}

/// Reads in one call, and writes in another if the version is still the same.
async fn compare_and_set(recorder: &mut Recorder, key: &str, who: &str) {
    let Some(executed) = recorder.execute(Call::new().get(key)).await else {
        return;
    };
    let Some(found) = executed.values.into_iter().next() else {
        return;
    };
    let found = found.map(|found| Found {
        value: text(&found.value),
        timestamp: found.timestamp,
    });
    let value = one_more(found.as_ref().map(|found| found.value.as_str()), who);
    let call = Call::new().only_if(key, found).put(key, value);
    recorder.execute(call).await;
}
