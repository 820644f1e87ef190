//! A whole transaction in one call.

use bytes::Bytes;
use meridian_rpc::KvError;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{self, precondition::Test};
use meridian_types::{CommitToken, Key, Timestamp, limits};
use tokio::time::Instant;

use crate::client::Inner;
use crate::error::{Error, Result};
use crate::options::Isolation;
use crate::outcome::{Outcome, resolve_commit};
use crate::session::Failure;
use crate::trace::{self, Trace};
use crate::transaction::Committed;
use crate::txn::{Versioned, check_key, check_limit};

/// A whole transaction: preconditions, reads, writes. Built step by step, run with
/// [`Client::execute`](crate::Client::execute).
#[derive(Clone, Debug, Default)]
pub struct Execute {
    isolation: Isolation,
    preconditions: Vec<v1::Precondition>,
    reads: Vec<Key>,
    writes: Vec<(Key, Option<Bytes>)>,
    trace: bool,
}

/// What an [`Execute`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// What the reads found, in their order, before the writes. Empty when the answer was lost and the
    /// outcome had to be asked for: see `values_known`.
    pub values: Vec<Option<Versioned>>,
    /// False when the commit is certain but the values were lost with the answer.
    pub values_known: bool,
    /// The commit.
    pub committed: Committed,
    /// Where its time went, if that was asked for ([`Execute::traced`]) and the answer was not lost: of the attempt that succeeded.
    pub trace: Option<Trace>,
}

impl Execute {
    /// Does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Measures what each step waits for: see [`Executed::trace`].
    #[must_use]
    pub fn traced(mut self) -> Self {
        self.trace = true;
        self
    }

    /// Checks everything that is read at commit as well.
    #[must_use]
    pub fn serializable(mut self) -> Self {
        self.isolation = Isolation::Serializable;
        self
    }

    /// Only if the key has a value, or has none.
    #[must_use]
    pub fn if_exists(self, key: impl Into<Key>, exists: bool) -> Self {
        self.precondition(key.into(), Test::Exists(exists))
    }

    /// Only if the key has this value.
    #[must_use]
    pub fn if_equals(self, key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        self.precondition(key.into(), Test::ValueEquals(value.into()))
    }

    /// Only if the key's value is the one that was committed then, as a read returned it.
    #[must_use]
    pub fn if_version(self, key: impl Into<Key>, timestamp: Timestamp) -> Self {
        self.precondition(key.into(), Test::TimestampEquals(timestamp.0))
    }

    /// Reads a key.
    #[must_use]
    pub fn get(mut self, key: impl Into<Key>) -> Self {
        self.reads.push(key.into());
        self
    }

    /// Sets a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        self.writes.push((key.into(), Some(value.into())));
        self
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Key>) -> Self {
        self.writes.push((key.into(), None));
        self
    }

    fn precondition(mut self, key: Key, test: Test) -> Self {
        self.preconditions.push(v1::Precondition {
            key: key.0,
            test: Some(test),
        });
        self
    }

    /// Refuses what the server would refuse, before anything is sent.
    pub(crate) fn check(&self) -> Result<()> {
        let mut bytes = 0;
        for (key, value) in &self.writes {
            check_key(key)?;
            let value_bytes = value.as_ref().map_or(0, Bytes::len);
            check_limit("value length in bytes", value_bytes, limits::MAX_VALUE_BYTES)?;
            bytes += key.0.len() + value_bytes;
        }
        check_limit("bytes written by a transaction", bytes, limits::MAX_TXN_BYTES)?;
        check_limit(
            "keys written by a transaction",
            self.writes.len(),
            limits::MAX_TXN_KEYS,
        )?;
        check_limit("keys of a batch read", self.reads.len(), limits::MAX_BATCH_KEYS)?;
        self.reads.iter().try_for_each(check_key)
    }

    /// The client knows that a repetition cannot do harm.
    fn only_reads(&self) -> bool {
        self.writes.is_empty()
    }

    fn to_request(&self, txn_id: Bytes, min_start: Timestamp) -> v1::ExecuteRequest {
        let mutation = |(key, value): &(Key, Option<Bytes>)| v1::Mutation {
            key: key.0.clone(),
            value: value.clone(),
        };
        v1::ExecuteRequest {
            txn_id,
            isolation: self.isolation.to_proto().into(),
            min_start: min_start.0,
            preconditions: self.preconditions.clone(),
            reads: self.reads.iter().map(|key| key.0.clone()).collect(),
            mutations: self.writes.iter().map(mutation).collect(),
            trace: self.trace,
        }
    }

    /// Runs it once, under a new transaction id. Every error but `OutcomeUnknown` is definite.
    pub(crate) async fn attempt(
        &self,
        client: &Inner,
        min_start: Timestamp,
        deadline: Instant,
    ) -> Result<Executed> {
        let session = client.pool.session(deadline).await?;
        let txn = session.new_txn_id(&client.random);
        let mut token = CommitToken {
            txn,
            start: session.lower_bound(),
            home: None,
        };
        let request = self.to_request(txn.to_bytes(), min_start);
        let began = Instant::now();
        let doubt = match session.call(0, deadline, Op::Execute(request)).await {
            Ok(Reply::Executed(executed)) => return Ok(finished(executed, token, began)),
            Ok(_) => KvError::internal("a transaction was answered with something else"),
            Err(Failure::Kv(error)) if error.is_definite() => return Err(error.into()),
            Err(Failure::Kv(error)) => error,
            Err(Failure::NotSent) => {
                let why = "the deadline passed before it was sent: too much is under way".to_owned();
                return Err(KvError::Aborted { why }.into());
            }
            Err(Failure::Refused(error)) => return Err(Error::Refused(error)),
            Err(Failure::Lost(why)) => KvError::Aborted { why },
            Err(Failure::Timeout) => KvError::DeadlineExceeded {
                waiting_for: "the transaction".to_owned(),
            },
        };
        if self.only_reads() {
            return Err(doubt.into());
        }
        if let KvError::OutcomeUnknown { token: told } = &doubt {
            token = *told;
        }
        match resolve_commit(client, token, deadline).await? {
            Outcome::Committed(timestamp) => Ok(Executed {
                values: Vec::new(),
                values_known: false,
                committed: Committed { timestamp, token },
                trace: None,
            }),
            Outcome::Aborted => Err(KvError::Aborted {
                why: doubt.to_string(),
            }
            .into()),
            Outcome::Forgotten => Err(KvError::OutcomeUnknown { token }.into()),
        }
    }
}

fn finished(executed: v1::ExecuteResponse, token: CommitToken, began: Instant) -> Executed {
    let told = executed.token.as_ref().and_then(|told| told.try_into().ok());
    Executed {
        values: executed.values.into_iter().map(Versioned::from_proto).collect(),
        values_known: true,
        committed: Committed {
            timestamp: Timestamp(executed.commit_timestamp),
            token: told.unwrap_or(token),
        },
        trace: trace::of_execute(began, executed.trace),
    }
}
