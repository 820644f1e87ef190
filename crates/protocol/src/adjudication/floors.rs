//! R19: before an owner closes below its opening floor, the other streams promise not to commit there any more.
//!
//! ```text
//! owner of s1, just opened                              owner of s2
//!   close() ── x stays below what s2 answered
//!   wanted_raises() ──> RaiseFloor(y) ───────────────> answer_raise_floor(y): floor, lease, lsn
//!   on_raised(s2, y, lsn) <────── once lsn is committed ──┘
//! ```
//! A predecessor may have voted for attempts whose records are in other streams, and this owner knows nothing of them. All of them
//! commit at or below the opening floor.

use std::time::Duration;

use meridian_types::{Interval, Lsn, StreamId, Timestamp};

use super::Adjudication;

/// What to do before `RaiseFloor` is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaiseAnswer {
    /// The floor that is promised: answer it. Below the one asked for when that lies too far ahead.
    pub floor: Timestamp,
    /// Append a `Lease` with a `lease_end` of at least this first, unless one is on its way; then its lsn is the one to
    /// wait for and to answer (if it is higher than `lsn`).
    pub lease: Option<Timestamp>,
    /// The last lsn that was handed out: answer it when it is committed.
    pub lsn: Lsn,
}

impl Adjudication {
    /// To be called once after [`Self::open`], with the other streams that hold keys in the map version that this owner's
    /// `Opened` record names (which is not older than any that the adopted log names): those that R19 asks, and whose
    /// attempts are voted on. Without it: none.
    #[must_use]
    pub fn with_streams(self, _others: impl IntoIterator<Item = StreamId>) -> Self {
        self
    }

    /// A `Lease` or `Opened` record that names a newer map version is committed: votes are given for the homes in that
    /// version from now on, and for no other (section 5, 5.1).
    pub fn on_map_durable(&mut self, _others: impl IntoIterator<Item = StreamId>) {}

    /// What to ask of whom before the range can be closed through `now.latest + lead`: each stream that has not answered
    /// enough, and the `y` for it. Empty when no more is needed. Says the same again until [`Self::on_raised`].
    pub fn wanted_raises(&self, _now: Interval, _lead: Duration) -> Vec<(StreamId, Timestamp)> {
        Vec::new()
    }

    /// A stream's owner answered: nothing commits there at or below `y` but up to `lsn`. For a stream that ended (merged):
    /// [`Timestamp::MAX`] and the lsn of its last record.
    pub fn on_raised(&mut self, _stream: StreamId, _y: Timestamp, _lsn: Lsn) {}

    /// Another owner asks to raise the floor of this stream to `y`. At most `allowance` ahead of the present, which is to
    /// be the longest lead and `max_clock_error` together. Call [`Self::settle_homes`] afterwards.
    ///
    /// `None`: stopped, not the owner any more. It is answered without waiting for this owner's own R19.
    pub fn answer_raise_floor(
        &mut self,
        _y: Timestamp,
        _now: Interval,
        _allowance: Duration,
    ) -> Option<RaiseAnswer> {
        None
    }
}
