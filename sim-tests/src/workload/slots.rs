//! Shelves with room for two: a transaction looks at what is there, and adds something new if there is room. The shape of
//! a phantom: what would be in the way is not there yet when the transaction looks. A guarded shelf must never be found
//! overfull; a plain one may be.

use std::time::Duration;

use meridian_client::Error;
use rand::Rng;
use rand::rngs::StdRng;

use super::recorded::Handle;
use super::recorder::Recorder;
use super::{Guard, SLOTS};
use crate::plan::Plan;

/// So much is on a shelf at most.
pub const ROOM: usize = 2;
const GUARDS: [Guard; 3] = [Guard::None, Guard::Range, Guard::Serializable];

/// What the keys of a shelf begin with.
pub fn shelf(guard: Guard) -> String {
    format!("{SLOTS}{guard}/")
}

/// Adds something, or clears the shelf.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan, number: u64) {
    let guard = GUARDS[rng.random_range(0..GUARDS.len())];
    let who = format!("{}.{number}", recorder.name);
    let Some(txn) = recorder.begin(guard.mode()).await else {
        return;
    };
    let pause = plan.think.mul_f64(rng.random_range(0.0..1.0));
    let all_at_once = rng.random_bool(0.5);
    let done = fill(&txn, guard, all_at_once, pause, &who).await;
    txn.finish(done).await;
}

async fn fill(
    txn: &Handle,
    guard: Guard,
    all_at_once: bool,
    pause: Duration,
    who: &str,
) -> Result<(), Error> {
    let shelf = shelf(guard);
    let rows = txn.scan(&shelf, guard == Guard::Range).await?;
    tokio::time::sleep(pause).await;
    if rows.len() < ROOM {
        return txn.put(&format!("{shelf}{who}"), who.to_owned()).await;
    }
    if all_at_once {
        return txn.clear(&shelf).await;
    }
    for (key, _) in rows {
        txn.delete(&key).await?;
    }
    Ok(())
}
