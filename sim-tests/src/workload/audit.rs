//! The auditor prepares the accounts and reads everything at the end.

use std::time::Duration;

use super::recorded::Handle;
use super::{ACCOUNT_START, Control, Phase, Recorder, accounts};
use crate::history::{Mode, Part};
use crate::plan::Plan;

/// Its name.
pub const AUDITOR: &str = "auditor";
const PAUSE: Duration = Duration::from_millis(50);

/// Prepares, waits until everybody has finished, reads.
pub async fn run(mut recorder: Recorder, control: &Control, plan: &Plan) {
    while !prepare(&mut recorder, plan).await {
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

async fn prepare(recorder: &mut Recorder, plan: &Plan) -> bool {
    let Some(txn) = recorder.begin(Mode::default()).await else {
        return false;
    };
    for account in accounts(plan) {
        if let Err(error) = txn.put(&account, ACCOUNT_START.to_string()).await {
            txn.give_up(&error);
            return false;
        }
    }
    txn.commit().await
}

async fn read_all(recorder: &mut Recorder) -> bool {
    let Some(txn) = recorder.begin(Mode::read_only()).await else {
        return false;
    };
    let done = read_parts(&txn).await;
    txn.finish(done).await
}

/// All of it, and the same as the other ways of reading show it.
async fn read_parts(txn: &Handle) -> Result<(), meridian_client::Error> {
    txn.scan("", false).await?;
    let parts = [
        Part {
            count_only: true,
            ..Part::default()
        },
        Part {
            reverse: true,
            keys_only: true,
            ..Part::default()
        },
    ];
    for part in parts {
        txn.part("", part, Duration::ZERO).await?;
    }
    Ok(())
}
