//! What must be waited for, and which timestamps are absurd (R3, R4, R20).

use std::time::Duration;

use meridian_types::{Interval, Timestamp};

/// R3 (commit wait): whether "committed" may be told now, given that the record is durable.
pub fn may_tell_committed(now: Interval, commit: Timestamp) -> bool {
    now.earliest > commit
}

/// R4 (uncertainty wait): whether a read may be answered now that consulted a version of this
/// timestamp. See [`crate::visibility::Consulted`] for the largest one.
pub fn may_answer_read(now: Interval, consulted: Timestamp) -> bool {
    now.earliest >= consulted
}

/// R20: whether a timestamp lies further ahead of this node's `now.latest` than `allowance`.
///
/// An adjudicator allows a start `max_clock_error`. A journal node allows the timestamps of an
/// entry the longest lease, lead and prepare timeout together plus `max_clock_error`.
pub fn is_too_far_ahead(timestamp: Timestamp, now: Interval, allowance: Duration) -> bool {
    timestamp > now.latest.saturating_add(allowance)
}
