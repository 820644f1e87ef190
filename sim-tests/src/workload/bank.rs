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
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, plan: &Plan) {
    let is_sum = rng.random_bool(0.3);
    let mode = Mode {
        read_only: is_sum,
        ..Mode::default()
    };
    let Some(txn) = recorder.begin(mode).await else {
        return;
    };
    let done = match is_sum {
        true => txn.scan(PREFIX, false).await.map(|_| ()),
        false => transfer(&txn, rng, plan).await,
    };
    txn.finish(done).await;
}

async fn transfer(txn: &Handle, rng: &mut StdRng, plan: &Plan) -> Result<(), meridian_client::Error> {
    let accounts = accounts(plan);
    let from = rng.random_range(0..accounts.len());
    let to = (from + rng.random_range(1..accounts.len())) % accounts.len();
    let amount = rng.random_range(1..=20);
    for (account, change) in [(from, -amount), (to, amount)] {
        let Some(account) = accounts.get(account) else {
            continue;
        };
        let balance: i64 = txn
            .get(account)
            .await?
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        txn.put(account, (balance + change).to_string()).await?;
    }
    Ok(())
}
