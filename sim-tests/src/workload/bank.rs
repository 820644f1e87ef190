//! Transfers between accounts, and sums over all of them.

use rand::Rng;
use rand::rngs::StdRng;

use super::recorded::Handle;
use super::recorder::Recorder;
use crate::history::Mode;
use crate::plan::Plan;

/// What account keys begin with.
pub const PREFIX: &str = "bank/";
/// What each account holds at first.
pub const ACCOUNT_START: i64 = 100;

/// The keys of all accounts.
pub fn accounts(plan: &Plan) -> Vec<String> {
    (0..plan.keys.max(2))
        .map(|number| format!("{PREFIX}{number:02}"))
        .collect()
}

/// A transfer or a sum.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan, number: u64) {
    let is_sum = rng.random_bool(0.3);
    let mode = Mode {
        read_only: is_sum,
        ..Mode::default()
    };
    let who = format!("{}.{number}", recorder.name);
    let Some(txn) = recorder.begin(mode).await else {
        return;
    };
    let done = match is_sum {
        true => txn.scan(PREFIX, false).await.map(|_| ()),
        false => transfer(&txn, rng, plan, &who).await,
    };
    txn.finish(done).await;
}

/// The balance in an account's value; who wrote it follows, so that every version is unique.
pub fn balance(value: &str) -> Option<i64> {
    value.split(' ').next()?.parse().ok()
}

async fn transfer(
    txn: &Handle,
    rng: &mut StdRng,
    plan: &Plan,
    who: &str,
) -> Result<(), meridian_client::Error> {
    let accounts = accounts(plan);
    let from = rng.random_range(0..accounts.len());
    let to = (from + rng.random_range(1..accounts.len())) % accounts.len();
    let amount = rng.random_range(1..=20);
    for (account, change) in [(from, -amount), (to, amount)] {
        let Some(account) = accounts.get(account) else {
            continue;
        };
        let value = txn.get(account).await?;
        let balance = value.and_then(|value| balance(&value)).unwrap_or_default();
        txn.put(account, format!("{} {who}", balance + change)).await?;
    }
    Ok(())
}
