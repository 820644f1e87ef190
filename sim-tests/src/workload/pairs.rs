//! Pairs of switches of which at least one has to stay on: the shape of write skew. Each transaction looks at both, and
//! turns one off if both are on. Under plain snapshot isolation two of them may turn off one each; a pair that is
//! guarded must never be found dark.

use std::fmt;
use std::time::Duration;

use meridian_client::Error;
use rand::Rng;
use rand::rngs::StdRng;

use super::PAIRS;
use super::recorded::Handle;
use super::recorder::Recorder;
use crate::history::Mode;
use crate::plan::Plan;

/// Pairs of each guard.
const PAIRS_EACH: usize = 1;

/// What keeps two transactions from turning off a pair together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// Nothing: it may happen.
    None,
    /// Both switches are read for update.
    Update,
    /// The range of both is scanned for update.
    Range,
    /// The transactions are serializable.
    Serializable,
}

impl Guard {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Update, Self::Range, Self::Serializable];

    /// The mode of its transactions.
    pub fn mode(self) -> Mode {
        match self {
            Self::Serializable => Mode::serializable(),
            _ => Mode::default(),
        }
    }

    /// What the keys of its pairs begin with.
    pub fn prefix(self) -> String {
        format!("{PAIRS}{self}/")
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Update => "update",
            Self::Range => "range",
            Self::Serializable => "serializable",
        })
    }
}

/// Turns one off, or both on again.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan, number: u64) {
    let guard = Guard::ALL[rng.random_range(0..Guard::ALL.len())];
    let pair = format!("{}{}/", guard.prefix(), rng.random_range(0..PAIRS_EACH));
    let who = format!("{}.{number}", recorder.name);
    let Some(txn) = recorder.begin(guard.mode()).await else {
        return;
    };
    let side = rng.random_range(0..2);
    // Time for another one to do the same.
    let pause = plan.think.mul_f64(rng.random_range(0.0..1.0));
    let done = turn(&txn, guard, &pair, side, pause, &who).await;
    txn.finish(done).await;
}

async fn turn(
    txn: &Handle,
    guard: Guard,
    pair: &str,
    side: usize,
    pause: Duration,
    who: &str,
) -> Result<(), Error> {
    let keys = [format!("{pair}a"), format!("{pair}b")];
    let mut are_on = [true; 2];
    if guard == Guard::Range {
        let rows = txn.scan(pair, true).await?;
        for (is_on, key) in are_on.iter_mut().zip(&keys) {
            *is_on = rows.iter().all(|(other, value)| other != key || is_on_at(value));
        }
    } else {
        for (is_on, key) in are_on.iter_mut().zip(&keys) {
            let value = match guard {
                Guard::Update => txn.get_for_update(key).await?,
                _ => txn.get(key).await?,
            };
            *is_on = value.is_none_or(|value| is_on_at(&value));
        }
    }
    tokio::time::sleep(pause).await;
    if are_on == [true; 2] {
        return txn.put(&keys[side], format!("off {who}")).await;
    }
    for key in &keys {
        txn.put(key, format!("on {who}")).await?;
    }
    Ok(())
}

/// Whether a switch with this value is on.
pub fn is_on_at(value: &str) -> bool {
    value.starts_with("on")
}
