//! Timestamps and intervals of time.

use std::fmt;
use std::time::Duration;

/// Nanoseconds since the Unix epoch.
///
/// A timestamp is never taken from anything but a clock, or from another timestamp by the rules
/// of the protocol. All arithmetic is checked: a timestamp from a peer may be any `u64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

/// A timestamp computation left the range of `u64`. Only a corrupt or hostile input can cause it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timestamp arithmetic overflowed")]
pub struct TimestampOverflow;

impl Timestamp {
    /// The smallest timestamp: before everything.
    pub const ZERO: Self = Self(0);
    /// The largest timestamp: after everything.
    pub const MAX: Self = Self(u64::MAX);

    /// The next representable instant.
    pub fn next(self) -> Result<Self, TimestampOverflow> {
        self.0.checked_add(1).map(Self).ok_or(TimestampOverflow)
    }

    /// `self + duration`, or an error when it does not fit.
    pub fn checked_add(self, duration: Duration) -> Result<Self, TimestampOverflow> {
        let nanos = u64::try_from(duration.as_nanos()).map_err(|_| TimestampOverflow)?;
        self.0.checked_add(nanos).map(Self).ok_or(TimestampOverflow)
    }

    /// `self + duration`, or [`Timestamp::MAX`] when it does not fit.
    pub fn saturating_add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self::MAX)
    }

    /// `self - duration`, or [`Timestamp::ZERO`] when it does not fit.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a clock knows: true time lies between `earliest` and `latest`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// True time is not before this.
    pub earliest: Timestamp,
    /// True time is not after this.
    pub latest: Timestamp,
}

impl Interval {
    /// Half of the width: the clock's error bound.
    pub fn bound(&self) -> Duration {
        self.latest.since(self.earliest) / 2
    }
}
