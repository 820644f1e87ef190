//! The auditor prepares the accounts and reads everything at the end.

use std::time::Duration;

use super::{ACCOUNT_START, Control, Phase, Recorder, accounts};
use crate::cluster::Shared;

/// Its name.
pub const AUDITOR: &str = "auditor";
const PAUSE: Duration = Duration::from_millis(50);

/// Prepares, waits until everybody has finished, reads.
pub async fn run(mut recorder: Recorder, control: &Control, shared: &Shared) {
    while !prepare(&mut recorder, shared).await {
        tokio::time::sleep(PAUSE).await;
    }
    control.phase.set(Phase::Chaos);
    control.reached(Phase::Audit).await;
    recorder.settle().await;
    while !read_all(&mut recorder).await {
        tokio::time::sleep(PAUSE).await;
    }
    control.phase.set(Phase::Done);
}

async fn prepare(recorder: &mut Recorder, shared: &Shared) -> bool {
    let Some(mut txn) = recorder.begin(false).await else {
        return false;
    };
    for account in accounts(&shared.plan) {
        if let Err(error) = txn.put(&account, ACCOUNT_START.to_string()).await {
            txn.give_up(&error);
            return false;
        }
    }
    txn.commit().await
}

async fn read_all(recorder: &mut Recorder) -> bool {
    let Some(mut txn) = recorder.begin(true).await else {
        return false;
    };
    match txn.scan("").await {
        Ok(_) => txn.commit().await,
        Err(error) => {
            txn.give_up(&error);
            false
        }
    }
}
