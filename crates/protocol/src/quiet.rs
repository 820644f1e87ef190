//! How far ahead of the present a range is closed for a reader who asks (R15), while nobody writes it.
//!
//! A closure that reaches a little further than the present answers the reads that follow as well, without another question to the
//! owner. What it costs is paid by the next transaction: it commits after what is closed (R13), so it waits until that is past (R3), as
//! far as the journal does not take as long anyway. So a range is closed further ahead the longer it was not written, and the more
//! often it was asked for since: no transaction waits for more than a fiftieth of the time in which there was none.
//!
//! ```text
//!          quiet for 500 ms                     closed: 10 ms
//! write ──────────────────────────── read, read, read ─────┤ write: commits here at the earliest
//! ```
//! Nothing that is safe depends on it: it is a part of the lead (R2, R13), which may be any.

use std::time::Duration;

use meridian_types::{Interval, Timestamp};

/// No closure on demand reaches further than this.
pub const LONGEST_AHEAD: Duration = Duration::from_millis(10);
/// It reaches no further than this part of the time since the last write.
const SHARE: u32 = 50;
/// And no further than this for each closure that was asked for since: who reads and then writes waits for nothing that only many
/// readers gain from.
const EACH: Duration = Duration::from_micros(100);

/// Counts what is asked of a range since it was last written.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    written: Timestamp,
    asked: u32,
}

impl Quiet {
    /// A range of which nothing is known before `now`.
    pub fn new(now: Interval) -> Self {
        Self {
            written: now.latest,
            asked: 0,
        }
    }

    /// A transaction that writes the range was decided, or voted on.
    pub fn on_write(&mut self, now: Interval) {
        *self = Self::new(now);
    }

    /// A reader asks for a closure: how far ahead of the present it may reach.
    pub fn on_asked(&mut self, now: Interval) -> Duration {
        self.asked = self.asked.saturating_add(1);
        let quiet = now.latest.since(self.written) / SHARE;
        quiet.min(EACH.saturating_mul(self.asked)).min(LONGEST_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Interval {
        let now = Timestamp(micros * 1_000);
        Interval {
            earliest: now,
            latest: now,
        }
    }

    #[test]
    fn the_longer_it_is_quiet_and_the_more_is_asked_the_further_it_is_closed() {
        let micros = Duration::from_micros;
        let mut quiet = Quiet::new(at(0));
        assert_eq!(quiet.on_asked(at(0)), micros(0));
        assert_eq!(quiet.on_asked(at(500)), micros(10));
        assert_eq!(
            quiet.on_asked(at(1_000_000)),
            micros(300),
            "it was asked for three times"
        );
        for _ in 0..200 {
            assert!(quiet.on_asked(at(1_000_000)) <= LONGEST_AHEAD);
        }
        assert_eq!(quiet.on_asked(at(1_000_000)), LONGEST_AHEAD);
        quiet.on_write(at(1_000_000));
        assert_eq!(quiet.on_asked(at(1_000_050)), micros(1));
    }

    /// Whatever is asked and written when: a write waits for a fiftieth of the quiet before it at most.
    #[test]
    fn no_write_waits_for_more_than_its_share() {
        for step in [1, 7, 100, 5_000, 90_000] {
            let (mut quiet, mut now, mut written, mut closed) = (Quiet::new(at(0)), 0, 0, 0);
            for round in 0..2_000u64 {
                now += (round * round * 31) % step + 1;
                if round % 37 == 0 {
                    assert!(
                        closed <= now + (now - written) / u64::from(SHARE),
                        "{step} {round}"
                    );
                    quiet.on_write(at(now));
                    written = now;
                } else {
                    let ahead = quiet.on_asked(at(now)).as_micros();
                    closed = closed.max(now + u64::try_from(ahead).unwrap());
                }
            }
        }
    }

    /// The clock of the owner may be set back: that is no long time without a write.
    #[test]
    fn a_clock_that_goes_back_closes_nothing_ahead() {
        let mut quiet = Quiet::new(at(1_000));
        assert_eq!(quiet.on_asked(at(10)), Duration::ZERO);
    }
}
