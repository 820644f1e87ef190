//! The limits of the public interface. They are checked where a request enters and named in the
//! error; beyond that point every service may rely on them.

use std::time::Duration;

/// Longest key, in bytes. The shortest has one byte.
pub const MAX_KEY_BYTES: usize = 4_096;
/// Longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// Most bytes (keys and values) that a transaction may write.
pub const MAX_TXN_BYTES: usize = 10 << 20;
/// Most keys that a transaction may write.
pub const MAX_TXN_KEYS: usize = 10_000;
/// Most keys and ranges that a transaction may have checked at commit (`for update` and serializable reads).
pub const MAX_TXN_READS: usize = 10_000;
/// Most bytes that the bounds of those keys and ranges may have together: writes and reads of one commit fit
/// into one message.
pub const MAX_TXN_READ_BYTES: usize = 4 << 20;
/// Oldest age of a transaction.
pub const MAX_TXN_AGE: Duration = Duration::from_secs(5 * 60);
/// A transaction that nobody uses for this long is rolled back.
pub const DEFAULT_TXN_IDLE: Duration = Duration::from_secs(60);
/// Longest deadline of one request.
pub const MAX_DEADLINE: Duration = Duration::from_secs(60);
/// Deadline of a request that does not name one.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// Versions older than this are dropped, except the newest: the age of a transaction, the longest
/// deadline, and room for the clocks.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(6 * 60);
/// How long an outcome stays answerable at least: twice the age a transaction may have.
pub const OUTCOME_RETENTION: Duration = Duration::from_secs(10 * 60);
/// Largest gRPC message that anyone accepts: a full transaction and its frame.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// About how many bytes one message of a scan carries (at least one row, whatever its size).
pub const SCAN_PAGE_BYTES: usize = 256 << 10;
/// Most keys of one batch read.
pub const MAX_BATCH_KEYS: usize = 10_000;
/// Most open savepoints of a transaction.
pub const MAX_SAVEPOINTS: usize = 1_000;
