//! The errors that a client can meet, and the only place that maps them to the wire and back.
//!
//! Both mappings are exhaustive: a new error does not compile until it has a code, a reason and a way back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use meridian_types::{CommitToken, Key, StreamId, Timestamp, TxnId};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::v1;

/// The domain of our `google.rpc.ErrorInfo`. An error without it did not come from Meridian.
pub const DOMAIN: &str = "meridian";

/// What can go wrong, as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The request makes no sense as it is.
    #[error("invalid request: {what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// A limit of `meridian_types::limits`.
    #[error("{limit} is {got}, the limit is {allowed}")]
    LimitExceeded {
        /// What is limited, with its unit, for example "key length in bytes".
        limit: String,
        /// The limit.
        allowed: u64,
        /// What was asked for.
        got: u64,
    },
    /// The query processor does not know the transaction: it was rolled back, it ended, or its query
    /// processor was restarted. Safe to run again from the start unless its commit was asked for; if it
    /// was, ask for the outcome.
    #[error("transaction {txn} is not open here: run it again, or ask for its outcome if commit was sent")]
    TransactionNotFound {
        /// The transaction, as text.
        txn: String,
    },
    /// The transaction was rolled back by the server before any commit was attempted.
    #[error("transaction was rolled back: {why}")]
    Aborted {
        /// Why.
        why: String,
    },
    /// Another transaction wrote a key after this one's snapshot.
    #[error("conflict on key {key}: written at {with}, after this transaction's snapshot; run it again")]
    Conflict {
        /// The key.
        key: Key,
        /// A transaction that begins at or after this does not meet the same conflict.
        with: Timestamp,
    },
    /// The snapshot is older than what is still remembered.
    #[error("snapshot too old: begin again at {min_start} or later")]
    SnapshotTooOld {
        /// The oldest snapshot that can succeed.
        min_start: Timestamp,
    },
    /// A precondition of `Execute` does not hold. Nothing was written.
    #[error("precondition {index} on key {key} does not hold; nothing was written")]
    PreconditionFailed {
        /// The key.
        key: Key,
        /// Which one, from 0.
        index: u64,
    },
    /// A write in a read-only transaction.
    #[error("the transaction is read-only: writes are refused")]
    ReadOnly,
    /// Whether the transaction committed is not known. Ask with the token.
    #[error("outcome of transaction {} unknown: ask again with its token", .token.txn)]
    OutcomeUnknown {
        /// What to ask with.
        token: CommitToken,
    },
    /// Refused before any work was spent on it. Not applied.
    #[error("overloaded: {what}; try again in {retry_after:?}")]
    Overloaded {
        /// Which limit was hit.
        what: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// Nobody could do it now. Not applied.
    #[error("unavailable: {what}")]
    Unavailable {
        /// What is missing: which node, which service, why.
        what: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The deadline passed before the answer. Not used for a commit: that is `OutcomeUnknown`.
    #[error("deadline passed while {waiting_for}")]
    DeadlineExceeded {
        /// What was still missing.
        waiting_for: String,
    },
    /// A node or client of another cluster.
    #[error("wrong cluster: this is node {node} of cluster {ours}, the caller belongs to {theirs}")]
    WrongCluster {
        /// The node that refuses.
        node: String,
        /// Its cluster.
        ours: String,
        /// The caller's cluster.
        theirs: String,
    },
    /// A peer speaks a format version that this node does not.
    #[error("format version {theirs} is not understood: node {node} speaks version {ours}")]
    UnsupportedFormat {
        /// The node that refuses.
        node: String,
        /// What it speaks.
        ours: u32,
        /// What the caller speaks.
        theirs: String,
    },
    /// Something that must not happen did. A bug, or a corrupt disk.
    #[error("internal error: {what}")]
    Internal {
        /// What happened.
        what: String,
    },
}

/// Shorthand for results of the public interface.
pub type KvResult<T> = Result<T, KvError>;

impl KvError {
    /// Every reason that there is, see [`Self::reason`].
    pub const REASONS: [&'static str; 15] = [
        "INVALID",
        "LIMIT_EXCEEDED",
        "TRANSACTION_NOT_FOUND",
        "TRANSACTION_ABORTED",
        "CONFLICT",
        "SNAPSHOT_TOO_OLD",
        "PRECONDITION_FAILED",
        "READ_ONLY",
        "OUTCOME_UNKNOWN",
        "OVERLOADED",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "WRONG_CLUSTER",
        "UNSUPPORTED_FORMAT",
        "INTERNAL",
    ];

    /// A request that makes no sense as it is.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    /// Something that must not happen did.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::Internal { what: what.into() }
    }

    /// Nobody could do it now; come back after a moment.
    pub fn unavailable(what: impl Into<String>) -> Self {
        Self::Unavailable {
            what: what.into(),
            retry_after: Duration::from_millis(100),
        }
    }

    /// Refused at the front.
    pub fn overloaded(what: impl Into<String>, retry_after: Duration) -> Self {
        Self::Overloaded {
            what: what.into(),
            retry_after,
        }
    }

    /// Whether running the whole transaction again from the start is safe and may help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Aborted { .. }
            | Self::Conflict { .. }
            | Self::SnapshotTooOld { .. }
            | Self::Overloaded { .. }
            | Self::Unavailable { .. } => true,
            Self::Invalid { .. }
            | Self::LimitExceeded { .. }
            | Self::TransactionNotFound { .. }
            | Self::PreconditionFailed { .. }
            | Self::ReadOnly
            | Self::OutcomeUnknown { .. }
            | Self::DeadlineExceeded { .. }
            | Self::WrongCluster { .. }
            | Self::UnsupportedFormat { .. }
            | Self::Internal { .. } => false,
        }
    }

    /// Whether this says for certain that the transaction was not applied.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::OutcomeUnknown { .. }
            | Self::TransactionNotFound { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Internal { .. } => false,
            Self::Invalid { .. }
            | Self::LimitExceeded { .. }
            | Self::Aborted { .. }
            | Self::Conflict { .. }
            | Self::SnapshotTooOld { .. }
            | Self::PreconditionFailed { .. }
            | Self::ReadOnly
            | Self::Overloaded { .. }
            | Self::Unavailable { .. }
            | Self::WrongCluster { .. }
            | Self::UnsupportedFormat { .. } => true,
        }
    }

    /// How long to wait before trying again, where the server said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                Some(*retry_after)
            }
            _ => None,
        }
    }

    /// The reason as it stands in `google.rpc.ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        self.code_and_reason().1
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.code_and_reason().0
    }

    fn code_and_reason(&self) -> (Code, &'static str) {
        match self {
            Self::Invalid { .. } => (Code::InvalidArgument, "INVALID"),
            Self::LimitExceeded { .. } => (Code::InvalidArgument, "LIMIT_EXCEEDED"),
            Self::TransactionNotFound { .. } => (Code::NotFound, "TRANSACTION_NOT_FOUND"),
            Self::Aborted { .. } => (Code::Aborted, "TRANSACTION_ABORTED"),
            Self::Conflict { .. } => (Code::Aborted, "CONFLICT"),
            Self::SnapshotTooOld { .. } => (Code::Aborted, "SNAPSHOT_TOO_OLD"),
            Self::PreconditionFailed { .. } => (Code::FailedPrecondition, "PRECONDITION_FAILED"),
            Self::ReadOnly => (Code::FailedPrecondition, "READ_ONLY"),
            Self::OutcomeUnknown { .. } => (Code::Unknown, "OUTCOME_UNKNOWN"),
            Self::Overloaded { .. } => (Code::ResourceExhausted, "OVERLOADED"),
            Self::Unavailable { .. } => (Code::Unavailable, "UNAVAILABLE"),
            Self::DeadlineExceeded { .. } => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Self::WrongCluster { .. } => (Code::FailedPrecondition, "WRONG_CLUSTER"),
            Self::UnsupportedFormat { .. } => (Code::FailedPrecondition, "UNSUPPORTED_FORMAT"),
            Self::Internal { .. } => (Code::Internal, "INTERNAL"),
        }
    }

    /// What travels beside the message, so that the other side can rebuild the error.
    fn metadata(&self) -> BTreeMap<&'static str, String> {
        let pairs: Vec<(&'static str, String)> = match self {
            Self::Invalid { what } | Self::Internal { what } => vec![("what", what.clone())],
            Self::LimitExceeded { limit, allowed, got } => {
                vec![
                    ("limit", limit.clone()),
                    ("allowed", allowed.to_string()),
                    ("got", got.to_string()),
                ]
            }
            Self::TransactionNotFound { txn } => vec![("txn", txn.clone())],
            Self::Aborted { why } => vec![("why", why.clone())],
            Self::Conflict { key, with } => {
                vec![("key", encode_key(key)), ("min_start", with.to_string())]
            }
            Self::SnapshotTooOld { min_start } => vec![("min_start", min_start.to_string())],
            Self::PreconditionFailed { key, index } => {
                vec![("key", encode_key(key)), ("index", index.to_string())]
            }
            Self::ReadOnly => vec![],
            Self::OutcomeUnknown { token } => vec![
                ("txn", token.txn.to_string()),
                ("start", token.start.to_string()),
                ("home", token.home.map_or(0, |home| home.0).to_string()),
            ],
            Self::Overloaded { what, .. } | Self::Unavailable { what, .. } => vec![("what", what.clone())],
            Self::DeadlineExceeded { waiting_for } => vec![("waiting_for", waiting_for.clone())],
            Self::WrongCluster { node, ours, theirs } => {
                vec![
                    ("node", node.clone()),
                    ("ours", ours.clone()),
                    ("theirs", theirs.clone()),
                ]
            }
            Self::UnsupportedFormat { node, ours, theirs } => {
                vec![
                    ("node", node.clone()),
                    ("ours", ours.to_string()),
                    ("theirs", theirs.clone()),
                ]
            }
        };
        pairs.into_iter().collect()
    }

    /// Rebuilds an error from what travelled. `None` when the reason or its metadata is not ours.
    fn from_parts(
        reason: &str,
        metadata: &HashMap<String, String>,
        retry_after: Option<Duration>,
    ) -> Option<Self> {
        let text = |name: &str| metadata.get(name).cloned().unwrap_or_default();
        let number = |name: &str| metadata.get(name).and_then(|value| value.parse::<u64>().ok());
        let retry_after = retry_after.unwrap_or_default();
        Some(match reason {
            "INVALID" => Self::Invalid { what: text("what") },
            "LIMIT_EXCEEDED" => Self::LimitExceeded {
                limit: text("limit"),
                allowed: number("allowed")?,
                got: number("got")?,
            },
            "TRANSACTION_NOT_FOUND" => Self::TransactionNotFound { txn: text("txn") },
            "TRANSACTION_ABORTED" => Self::Aborted { why: text("why") },
            "CONFLICT" => Self::Conflict {
                key: decode_key(&text("key"))?,
                with: Timestamp(number("min_start")?),
            },
            "SNAPSHOT_TOO_OLD" => Self::SnapshotTooOld {
                min_start: Timestamp(number("min_start")?),
            },
            "PRECONDITION_FAILED" => Self::PreconditionFailed {
                key: decode_key(&text("key"))?,
                index: number("index")?,
            },
            "READ_ONLY" => Self::ReadOnly,
            "OUTCOME_UNKNOWN" => Self::OutcomeUnknown {
                token: CommitToken {
                    txn: text("txn").parse::<TxnId>().ok()?,
                    start: Timestamp(number("start")?),
                    home: number("home").filter(|home| *home != 0).map(StreamId),
                },
            },
            "OVERLOADED" => Self::Overloaded {
                what: text("what"),
                retry_after,
            },
            "UNAVAILABLE" => Self::Unavailable {
                what: text("what"),
                retry_after,
            },
            "DEADLINE_EXCEEDED" => Self::DeadlineExceeded {
                waiting_for: text("waiting_for"),
            },
            "WRONG_CLUSTER" => Self::WrongCluster {
                node: text("node"),
                ours: text("ours"),
                theirs: text("theirs"),
            },
            "UNSUPPORTED_FORMAT" => Self::UnsupportedFormat {
                node: text("node"),
                ours: u32::try_from(number("ours")?).ok()?,
                theirs: text("theirs"),
            },
            "INTERNAL" => Self::Internal { what: text("what") },
            _ => return None,
        })
    }

    /// Reads a gRPC status. `None` when it does not carry our ErrorInfo: then it is a transport's error and
    /// says nothing about whether the request was applied.
    pub fn from_status(status: &Status) -> Option<Self> {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
        let retry = details.retry_info().and_then(|retry| retry.retry_delay);
        Self::from_parts(&info.reason, &info.metadata, retry)
    }

    /// Reads an error out of a session stream.
    pub fn from_proto(error: &v1::Error) -> Self {
        let retry = (error.retry_delay_ms > 0).then(|| Duration::from_millis(error.retry_delay_ms));
        Self::from_parts(&error.reason, &error.metadata, retry)
            .unwrap_or_else(|| Self::internal(format!("{} ({})", error.message, error.reason)))
    }

    /// As it travels inside a session stream.
    pub fn to_proto(&self) -> v1::Error {
        let metadata = self
            .metadata()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let retry = self
            .retry_after()
            .map_or(0, |delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        v1::Error {
            code: self.code() as i32,
            reason: self.reason().to_owned(),
            message: self.to_string(),
            metadata: metadata.collect(),
            retry_delay_ms: retry,
        }
    }
}

impl From<KvError> for Status {
    fn from(error: KvError) -> Self {
        let (code, reason) = error.code_and_reason();
        let metadata: HashMap<String, String> = error
            .metadata()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        if let Some(delay) = error.retry_after() {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code, error.to_string(), details)
    }
}

/// Keys are bytes, metadata is text: `\xNN` for what is not printable.
fn encode_key(key: &Key) -> String {
    key.to_string()
}

fn decode_key(text: &str) -> Option<Key> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next()? {
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            other => bytes.push(other),
        }
    }
    Some(Key(bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<KvError> {
        let every_byte: Vec<u8> = (0..=255).collect();
        let key = Key(every_byte.into());
        let token = CommitToken {
            txn: TxnId(uuid::Uuid::from_u128(7)),
            start: Timestamp(5),
            home: Some(StreamId(3)),
        };
        let text = || "some text: é".to_owned();
        vec![
            KvError::invalid(text()),
            KvError::LimitExceeded {
                limit: text(),
                allowed: 1,
                got: 2,
            },
            KvError::TransactionNotFound { txn: text() },
            KvError::Aborted { why: text() },
            KvError::Conflict {
                key: key.clone(),
                with: Timestamp(u64::MAX),
            },
            KvError::SnapshotTooOld {
                min_start: Timestamp(9),
            },
            KvError::PreconditionFailed { key, index: 4 },
            KvError::ReadOnly,
            KvError::OutcomeUnknown { token },
            KvError::OutcomeUnknown {
                token: CommitToken { home: None, ..token },
            },
            KvError::overloaded(text(), Duration::from_millis(20)),
            KvError::unavailable(text()),
            KvError::DeadlineExceeded { waiting_for: text() },
            KvError::WrongCluster {
                node: text(),
                ours: text(),
                theirs: text(),
            },
            KvError::UnsupportedFormat {
                node: text(),
                ours: 1,
                theirs: text(),
            },
            KvError::internal(text()),
        ]
    }

    #[test]
    fn every_error_survives_both_ways_of_travelling() {
        for error in one_of_each() {
            let status = Status::from(error.clone());
            assert_eq!(KvError::from_status(&status).as_ref(), Some(&error));
            assert_eq!(status.code(), error.code());
            assert_eq!(KvError::from_proto(&error.to_proto()), error);
        }
    }

    #[test]
    fn every_reason_is_listed() {
        let mut reasons: Vec<_> = one_of_each().iter().map(KvError::reason).collect();
        reasons.dedup();
        assert_eq!(reasons, KvError::REASONS);
    }

    #[test]
    fn a_transport_error_is_not_mistaken_for_ours() {
        assert_eq!(
            KvError::from_status(&Status::unavailable("connection reset")),
            None
        );
        assert_eq!(KvError::from_status(&Status::aborted("proxy says no")), None);
    }

    #[test]
    fn what_is_aborted_is_safe_to_run_again() {
        for error in one_of_each() {
            if error.code() == Code::Aborted {
                assert!(error.is_retryable() && error.is_definite(), "{error}");
            }
            if error.is_retryable() {
                assert!(error.is_definite(), "{error} may have been applied");
            }
        }
    }
}
