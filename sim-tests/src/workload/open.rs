//! A transaction that a client began by hand, until its end.

use std::ops::Deref;
use std::time::Duration;

use meridian_client::{Error, Transaction};

use super::recorded::Handle;
use super::recorder::{Doubt, Recorder};
use crate::history::Outcome;

/// An open transaction, on record.
pub struct Recorded<'a> {
    pub(super) recorder: &'a mut Recorder,
    pub(super) handle: Handle,
    pub(super) is_calm: bool,
    pub(super) transaction: Transaction,
}

impl Deref for Recorded<'_> {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Recorded<'_> {
    /// Commits; whether that succeeded.
    pub async fn commit(self) -> bool {
        self.commit_within(Duration::MAX, Doubt::AskLater).await
    }

    /// Commits, but stops waiting for the answer after `patience`: then the outcome is in doubt.
    pub async fn commit_within(self, patience: Duration, doubt: Doubt) -> bool {
        let Self {
            recorder,
            handle,
            is_calm,
            transaction,
        } = self;
        let id = handle.id;
        match tokio::time::timeout(patience, transaction.commit()).await {
            Ok(Ok(committed)) => {
                recorder.acknowledged(id, committed, is_calm);
                true
            }
            Ok(Err(error)) => {
                recorder.ended_with(id, &error, Some(handle.txn.token()), is_calm, doubt);
                false
            }
            Err(_) => {
                let token = handle.txn.token();
                recorder.history.token(id, token);
                match doubt {
                    Doubt::AskNow => recorder.resolve(id, token, is_calm).await,
                    Doubt::AskLater => recorder.doubts.unknown(id, token, is_calm),
                    Doubt::NeverAsk => {}
                }
                false
            }
        }
    }

    /// Commits, and asks what became of it while that is under way: the two answers must agree.
    pub async fn commit_and_ask(self, after: Duration) -> bool {
        let Self {
            recorder,
            handle,
            is_calm,
            transaction,
        } = self;
        let (id, client) = (handle.id, recorder.client.clone());
        let question = async {
            tokio::time::sleep(after).await;
            client.outcome(handle.txn.token()).await
        };
        let (committed, said) = tokio::join!(transaction.commit(), question);
        let is_committed = committed.is_ok();
        match committed {
            Ok(committed) => recorder.acknowledged(id, committed, is_calm),
            Err(error) => {
                let token = Some(handle.txn.token());
                recorder.ended_with(id, &error, token, is_calm, Doubt::AskLater);
            }
        }
        if let Ok(said) = said {
            recorder.history.asked(id, said.into());
        }
        is_committed
    }

    /// Commits after success, gives up after an error.
    pub async fn finish(self, done: Result<(), Error>) -> bool {
        match done {
            Ok(()) => self.commit().await,
            Err(error) => {
                self.give_up(&error);
                false
            }
        }
    }

    /// Ends after an error of an operation.
    pub fn give_up(self, error: &Error) {
        self.recorder.failed(self.handle.id, error);
    }

    /// Ends without a word more than the library says by itself.
    pub fn vanish(self) {
        let history = &self.recorder.history;
        history.end(
            self.handle.id,
            Outcome::Aborted("its client went away".to_owned()),
        );
    }

    /// Ends without a word: the cluster finds out by itself, some time.
    pub fn abandon(self) {
        let history = &self.recorder.history;
        history.end(self.handle.id, Outcome::Aborted("its client hangs".to_owned()));
        self.recorder.abandoned.push(self.transaction);
    }

    /// Rolls back on purpose.
    pub async fn rollback(self) {
        // Nothing is applied whatever it answers.
        let _ = self.transaction.rollback().await;
        self.recorder
            .history
            .end(self.handle.id, Outcome::Aborted("rolled back".to_owned()));
    }
}
