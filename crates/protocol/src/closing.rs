//! Up to when a range is complete, and when a subscriber may know (R13, R14, R5).
//!
//! ```text
//! owner: OwnCommits, Dependencies ──> Closure{x, after} ──message──> journal node: FeedGate
//!   ── after all of `after` was sent ──> storage node: ClosedMap ── closed >= s ──> read at s
//! ```
//! A closure is a message, not a log record: its safety rests on the durable lease (R18).
//! [`crate::adjudication::Adjudication::close`] makes them.

mod gate;
mod owner;

pub use gate::{ClosedMap, FeedGate};
pub use owner::{Dependencies, OwnCommits};

use meridian_types::{Epoch, Lsn, RangeId, StreamId, Timestamp};

/// R13: a promise by a range's owner that no transaction that writes the range ever gets `commit <= x`,
/// except those recorded at or before the positions in `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closure {
    /// The range.
    pub range: RangeId,
    /// The owner's epoch. For display and for dropping old messages: a closure stays true whoever owns the
    /// range later.
    pub epoch: Epoch,
    /// Complete up to and including this timestamp.
    pub x: Timestamp,
    /// What a subscriber must have had before it may believe this; at most one lsn per stream, ordered by stream.
    pub after: Vec<(StreamId, Lsn)>,
}
