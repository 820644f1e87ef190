//! An append ledger: new keys only, so that whatever was acknowledged must be there at the end.

use rand::Rng;
use rand::rngs::StdRng;

use super::LEDGER;
use super::call::Call;
use super::recorder::Recorder;
use crate::history::Mode;

/// Writes one or a few new keys, in one call or in a transaction.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, number: u64) {
    let name = recorder.name.clone();
    let count = rng.random_range(1..=3);
    let entry = |place: u32| {
        (
            format!("{LEDGER}{name}/{number:05}/{place}"),
            format!("{number}.{place}"),
        )
    };
    let entries: Vec<(String, String)> = (0..count).map(entry).collect();
    if rng.random_bool(0.5) {
        let call = entries
            .into_iter()
            .fold(Call::new(), |call, (key, value)| call.put(&key, value));
        recorder.execute(call).await;
        return;
    }
    let Some(txn) = recorder.begin(Mode::default()).await else {
        return;
    };
    for (key, value) in entries {
        if let Err(error) = txn.put(&key, value).await {
            txn.give_up(&error);
            return;
        }
    }
    txn.commit().await;
}
