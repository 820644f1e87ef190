//! Clients that die: in the middle of a transaction or of its commit, alone or with their whole process, or that fall
//! asleep until the cluster has given them up. What they did not ask to commit is never seen; what they asked for happens
//! wholly or not at all, and whoever asks later gets one answer.

use std::time::Duration;

use meridian_client::Error;
use rand::Rng;
use rand::rngs::StdRng;

use super::MORTALS;
use super::connector::Connect;
use super::recorded::Handle;
use super::recorder::{Doubt, Recorder};
use crate::history::Mode;

/// How many keys there are.
const KEYS: usize = 4;
/// A sleeper is given up after this.
const IDLE: Duration = Duration::from_millis(300);

/// A transaction, and perhaps a death.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, connector: &dyn Connect, number: u64) {
    let who = format!("{}.{number}", recorder.name);
    let dies = rng.random_range(0..12);
    let patience = Duration::from_millis(rng.random_range(0..=60));
    let doubt = match rng.random_bool(0.5) {
        true => Doubt::AskLater,
        false => Doubt::NeverAsk,
    };
    let idle = (dies == 4).then_some(IDLE);
    let Some(txn) = recorder.begin_idle(Mode::default(), idle).await else {
        return;
    };
    if let Err(error) = touch(&txn, rng, &who).await {
        txn.give_up(&error);
        return;
    }
    let goes_on = match dies {
        // With no more than the library says when a transaction is dropped.
        0 | 1 => {
            txn.vanish();
            true
        }
        2 | 3 => {
            txn.commit_within(patience, doubt).await;
            true
        }
        4 => {
            tokio::time::sleep(IDLE + patience * 20).await;
            txn.commit().await
        }
        5 => {
            txn.commit_within(patience, Doubt::AskNow).await;
            true
        }
        6 | 7 => txn.commit_and_ask(patience).await,
        8 => {
            txn.abandon();
            true
        }
        _ => txn.commit().await,
    };
    // With all its connections, whatever it had open.
    let is_last = dies == 1 || dies == 3;
    if goes_on
        && is_last
        && let Ok(client) = connector.client()
    {
        recorder.reborn(client);
    }
}

async fn touch(txn: &Handle, rng: &mut StdRng, who: &str) -> Result<(), Error> {
    for place in 0..rng.random_range(1..=3) {
        let key = format!("{MORTALS}{}", rng.random_range(0..KEYS));
        if rng.random_bool(0.5) {
            txn.get(&key).await?;
        }
        txn.put(&key, format!("{who}.{place}")).await?;
    }
    // What was queued is sent before the client dies.
    txn.get(&format!("{MORTALS}{}", rng.random_range(0..KEYS)))
        .await?;
    Ok(())
}
