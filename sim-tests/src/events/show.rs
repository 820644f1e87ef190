//! Events as a person reads them: one line each, timestamps in seconds since the run began.

use std::fmt;

use meridian_protocol::closing::Closure;
use meridian_types::{Key, KeyRange, Timestamp, TxnId};

use super::{Event, Happened, Outcome};
use crate::cluster::time::SimTime;

/// Seconds since the run began; whole nanoseconds, because those decide.
pub struct Seconds(pub Timestamp);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = SimTime::begin_ns();
        match self.0.0.checked_sub(begin) {
            Some(since) => write!(f, "{}.{:09}", since / 1_000_000_000, since % 1_000_000_000),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The end of a transaction's id, which is enough to tell those of one run apart.
pub struct Short(pub TxnId);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "..{:06x}", self.0.0.as_u128() & 0xff_ffff)
    }
}

struct Keys<'a>(&'a [Key]);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for key in self.0 {
            write!(f, " {key}")?;
        }
        Ok(())
    }
}

struct Range<'a>(&'a KeyRange);

impl fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.end {
            Some(end) if *end == self.0.start.successor() => write!(f, "{}", self.0.start),
            Some(end) => write!(f, "{}..{end}", self.0.start),
            None => write!(f, "{}..", self.0.start),
        }
    }
}

struct Closing<'a>(&'a Closure);

impl fmt::Display for Closing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Closure {
            range,
            epoch,
            x,
            after,
        } = self.0;
        write!(f, "{range} through {} ({epoch}) after", Seconds(*x))?;
        after
            .iter()
            .try_for_each(|(stream, lsn)| write!(f, " {stream}/{lsn}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed(commit) => write!(f, "committed at {}", Seconds(*commit)),
            Self::Aborted => write!(f, "aborted"),
            Self::Unknown => write!(f, "unknown"),
        }
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7.3} {:<13} {:<9} ",
            self.at.as_secs_f64(),
            self.node,
            self.event.name()
        )?;
        write!(f, "{}", self.event)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { txn, start, present } => {
                let how = if *present { "" } else { ", an older snapshot" };
                write!(f, "{} at {}{how}", Short(*txn), Seconds(*start))
            }
            Self::Ended { txn, start, outcome } => {
                write!(f, "{} (start {}) {outcome}", Short(*txn), Seconds(*start))
            }
            Self::Told { txn, outcome } => write!(f, "{} {outcome}", Short(*txn)),
            Self::Decided(decided) => {
                let (start, commit) = (Seconds(decided.start), Seconds(decided.commit));
                write!(
                    f,
                    "{} {} start {start} commit {commit}",
                    decided.at,
                    Short(decided.txn)
                )?;
                write!(f, " attempt {} writes{}", decided.attempt, Keys(&decided.written))?;
                let mut checked = decided.checked.iter();
                checked.try_for_each(|range| write!(f, " checks {}", Range(range)))
            }
            Self::LookedUp { at, key, newest } => {
                write!(f, "{key} at {}: newest {}", Seconds(*at), Seconds(*newest))
            }
            Self::Scanned { at, keys, newest } => {
                write!(
                    f,
                    "{} at {}: newest {}",
                    Range(keys),
                    Seconds(*at),
                    Seconds(*newest)
                )
            }
            Self::Shown { at, newest } => write!(f, "read at {}: newest {}", Seconds(*at), Seconds(*newest)),
            Self::Closed { closure, .. } | Self::Complete(closure) => write!(f, "{}", Closing(closure)),
            other => show_record(f, other),
        }
    }
}

/// Events about positions and epochs.
fn show_record(f: &mut fmt::Formatter<'_>, event: &Event) -> fmt::Result {
    match event {
        Event::Opening {
            at,
            adopted,
            floor,
            lease_end,
            resumed,
            handed,
            ..
        } => {
            let how = match (resumed, handed) {
                (true, _) => " (resumed)",
                (false, true) => " (handed over)",
                (false, false) => "",
            };
            let (floor, lease_end) = (Seconds(*floor), Seconds(*lease_end));
            write!(f, "{at} after {adopted}{how} floor {floor} lease_end {lease_end}")
        }
        Event::Serving {
            epoch,
            floor,
            window_low,
            lease_end,
            ..
        } => {
            let (floor, low, lease_end) = (Seconds(*floor), Seconds(*window_low), Seconds(*lease_end));
            write!(f, "{epoch} floor {floor} window_low {low} lease_end {lease_end}")
        }
        Event::Leased { epoch, lease_end, .. } => write!(f, "{epoch} until {}", Seconds(*lease_end)),
        Event::Voted(voted) => {
            let (lower, promise) = (Seconds(voted.lower), Seconds(voted.promise));
            write!(
                f,
                "{} of {} {} attempt {} to {} {}, from {lower} to {promise}, writes{}",
                voted.epoch,
                voted.stream,
                Short(voted.txn),
                voted.attempt,
                voted.home,
                voted.home_epoch,
                Keys(&voted.written)
            )
        }
        Event::PrepareEnded {
            stream,
            epoch,
            txn,
            attempt,
            home,
            outcome,
            ..
        } => write!(
            f,
            "{epoch} of {stream} {} attempt {attempt} of {home}: {outcome}",
            Short(*txn)
        ),
        Event::Raised {
            stream,
            epoch,
            floor,
            lsn,
        } => write!(f, "{epoch} of {stream} floor {} up to {lsn}", Seconds(*floor)),
        Event::Barred { at, txn, .. } => write!(f, "{at} {}", Short(*txn)),
        Event::GivenUp {
            epoch,
            txn,
            attempt,
            home_epoch,
            ..
        } => {
            write!(f, "{epoch} {} attempt {attempt} of {home_epoch}", Short(*txn))
        }
        Event::Released {
            at,
            floor,
            window_low,
            sealed,
            ..
        } => {
            let how = if *sealed { " (sealed)" } else { "" };
            let (floor, low) = (Seconds(*floor), Seconds(*window_low));
            write!(f, "{at} floor {floor} window_low {low}{how}")
        }
        Event::Followed { stream, lsn } => write!(f, "{stream} after {lsn}"),
        Event::Named { stream, epoch, map } => write!(f, "{epoch} of {stream}: version {map}"),
        Event::Mapped { at, map, .. } => {
            let ranges = map.entries.len();
            let pending = map.reshaping.pending.len();
            write!(
                f,
                "{at} version {} of the map: {ranges} ranges, {pending} changes under way",
                map.version
            )
        }
        Event::Answered { at, commit, .. } => write!(f, "{at} commit {}", Seconds(*commit)),
        Event::Stopped { epoch, .. } | Event::Promised { epoch, .. } => write!(f, "{epoch}"),
        Event::Counted { owner, at, .. } => write!(f, "{at} by the owner of {owner}"),
        Event::Accepted { owner, matched, .. } => write!(f, "an append of {owner}, up to {matched}"),
        Event::Mounted { disk } => write!(f, "disk {:06x}", disk & 0xff_ffff),
        Event::Recovered { promised, last, .. } => write!(f, "up to {last}, promised {promised}"),
        Event::Persisted { at, timestamp, .. } => write!(f, "{at} timestamp {}", Seconds(*timestamp)),
        Event::Restored { at, .. } | Event::Checkpointed { at, .. } => write!(f, "up to {at}"),
        Event::Applied {
            at, commit, written, ..
        } => {
            write!(f, "{at} commit {} writes{}", Seconds(*commit), Keys(written))
        }
        _ => Ok(()),
    }
}
