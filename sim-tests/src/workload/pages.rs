//! Long scans beside writers: pages with pauses between them, again and again in one transaction, in every shape that a
//! scan has. All of it is one snapshot, however many writers get through meanwhile. Some ask for the past.

use std::time::Duration;

use meridian_client::{Error, Timestamp};
use rand::Rng;
use rand::rngs::StdRng;

use super::PAGES;
use super::recorded::Handle;
use super::recorder::Recorder;
use crate::history::{Mode, Part};
use crate::plan::Plan;

/// How many keys there are.
const KEYS: usize = 30;
/// What makes a value long: several pages must be needed.
const FILLING: &str = "..........................................................................";

/// Writes some of them, or reads all of them.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan, number: u64) {
    if rng.random_bool(0.6) {
        write(recorder, rng, number).await;
    } else {
        read(recorder, rng, plan).await;
    }
}

async fn write(recorder: &mut Recorder, rng: &mut StdRng, number: u64) {
    let who = format!("{}.{number}", recorder.name);
    let Some(txn) = recorder.begin(Mode::default()).await else {
        return;
    };
    let done = change(&txn, rng, &who).await;
    txn.finish(done).await;
}

async fn change(txn: &Handle, rng: &mut StdRng, who: &str) -> Result<(), Error> {
    if rng.random_bool(0.1) {
        // Ten keys at most.
        let tens = rng.random_range(0..KEYS / 10);
        txn.clear(&format!("{PAGES}{tens}")).await?;
    }
    for place in 0..rng.random_range(1..=6) {
        let key = format!("{PAGES}{:02}", rng.random_range(0..KEYS));
        if rng.random_bool(0.2) {
            txn.delete(&key).await?;
        } else {
            // Every third can be found by its value.
            let word = ["red", "green", "blue"][place % 3];
            txn.put(&key, format!("{who}.{place} {word} {FILLING}")).await?;
        }
    }
    Ok(())
}

async fn read(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan) {
    let mode = match (rng.random_range(0..10), recorder.last_commit()) {
        (0 | 1, Some(last)) => {
            // Between the last thing it did and a second before that.
            let back = rng.random_range(0..1_000_000_000);
            Mode::at(Timestamp(last.0.saturating_sub(back)))
        }
        (2, _) => Mode::not_older_than(rng.random_range(1..=500)),
        (3, _) => Mode {
            serializable: true,
            ..Mode::default()
        },
        _ => Mode::read_only(),
    };
    let Some(txn) = recorder.begin(mode).await else {
        return;
    };
    let pause = plan.think.mul_f64(rng.random_range(0.0..0.5));
    let done = look(&txn, rng, pause).await;
    txn.finish(done).await;
}

/// Everything, then parts of it in other ways.
async fn look(txn: &Handle, rng: &mut StdRng, pause: Duration) -> Result<(), Error> {
    txn.slow_scan(PAGES, false, pause).await?;
    for _ in 0..rng.random_range(1..=3) {
        txn.part(PAGES, part(rng), pause).await?;
    }
    let key = format!("{PAGES}{:02}", rng.random_range(0..KEYS));
    txn.get(&key).await?;
    Ok(())
}

fn part(rng: &mut StdRng) -> Part {
    if rng.random_bool(0.2) {
        return Part {
            count_only: true,
            ..Part::default()
        };
    }
    Part {
        reverse: rng.random_bool(0.5),
        limit: rng.random_bool(0.5).then(|| rng.random_range(1..=KEYS as u64)),
        keys_only: rng.random_bool(0.3),
        count_only: false,
        contains: rng.random_bool(0.3).then(|| "blue".to_owned()),
    }
}
