//! How far ahead of the present commits are put (R16).
//!
//! With `lead` as long as it takes until the readers' journal nodes know an entry to be committed, plus what it takes
//! to close the range, a strong read at the present never waits for a commit in flight. Only journal nodes count whose
//! feed is read from: not a witness, nor a region where nobody reads the range.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use meridian_types::{Interval, Timestamp};

/// What a range's lead may be, and how long a measurement counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeadPolicy {
    /// Never less than this. Zero: commits cost their quorum and no more, reads under writes wait.
    pub floor: Duration,
    /// Never more than this.
    pub ceiling: Duration,
    /// A measurement is forgotten after this long.
    pub window: Duration,
    /// Time between two periodic closures of a range that nobody reads, or that is read nearby.
    pub closed_interval: Duration,
}

/// How far ahead of the present a range works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// How far ahead transactions commit at least (R2).
    pub commit: Duration,
    /// How far the range is closed (R13): one interval further, for a closure has to do until the next one arrives.
    pub close: Duration,
    /// Time between two periodic closures (R15).
    pub interval: Duration,
}

impl LeadPolicy {
    /// Commits and closures this far ahead, whatever was measured.
    pub fn fixed(&self, lead: Duration) -> Lead {
        Lead {
            commit: lead,
            close: lead,
            interval: self.closed_interval,
        }
    }

    /// What follows from a measurement: it takes `known` until the readers can have what was committed.
    fn lead(&self, known: Duration) -> Lead {
        let interval = self.interval(known);
        // Not `clamp`: it panics when a configuration puts the floor above the ceiling.
        let bounded = |lead: Duration| lead.min(self.ceiling).max(self.floor);
        let close = bounded(known.saturating_add(interval));
        Lead {
            commit: bounded(close.saturating_sub(interval)),
            close,
            interval,
        }
    }

    /// The time between closures is part of what a commit waits for, so it is short beside the rest; a power of two of milliseconds, so
    /// that ranges close at the same time and share messages. What is near has to wait anyway for longer than this would gain.
    fn interval(&self, known: Duration) -> Duration {
        if known < FAR {
            return self.closed_interval;
        }
        let share = (known / INTERVALS).as_millis().clamp(1, 1 << 10);
        let millis = 1 << share.ilog2();
        Duration::from_millis(millis).min(self.closed_interval)
    }
}

/// Whoever needs at least so long to know of a commit is far.
const FAR: Duration = Duration::from_millis(8);
/// A range that is read from afar is closed at least so many times while an entry is on its way there.
const INTERVALS: u32 = 10;

/// Tunes the lead of one range from the measurements of a sliding window. Journal nodes are numbered by the caller, from
/// a small fixed set.
#[derive(Clone, Debug)]
pub struct LeadTuner {
    policy: LeadPolicy,
    known: BTreeMap<usize, Window>,
    /// When the range was last read through the journal node's feed.
    read: BTreeMap<usize, Timestamp>,
}

impl LeadTuner {
    /// A tuner that has measured nothing: its lead is the floor.
    pub fn new(policy: LeadPolicy) -> Self {
        Self {
            policy,
            known: BTreeMap::new(),
            read: BTreeMap::new(),
        }
    }

    /// It took `latency` from sending an entry until the journal node knew it to be committed.
    pub fn on_commit_known(&mut self, journal: usize, latency: Duration, now: Interval) {
        let known = self.known.entry(journal).or_default();
        known.push(now.latest, latency);
    }

    /// The range is read by somebody who follows the journal node's feed.
    pub fn on_read(&mut self, journal: usize, now: Interval) {
        self.read.insert(journal, now.latest);
    }

    /// Whether the range was read lately by somebody who follows the journal node's feed.
    pub fn is_read(&self, journal: usize, now: Interval) -> bool {
        let oldest = self.oldest(now);
        self.read.get(&journal).is_some_and(|at| *at >= oldest)
    }

    fn oldest(&self, now: Interval) -> Timestamp {
        now.latest.saturating_sub(self.policy.window)
    }

    /// The lead to use now (R2, R13): commit known wherever the range was read lately + closing interval + clock
    /// bound, between floor and ceiling. The floor where nobody reads, or nothing was measured.
    pub fn lead(&mut self, now: Interval) -> Lead {
        let oldest = self.oldest(now);
        self.read.retain(|_, at| *at >= oldest);
        let is_read = |journal: &usize| self.read.contains_key(journal);
        let measured = self.known.iter_mut().filter(|(journal, _)| is_read(journal));
        match measured.filter_map(|(_, known)| known.usual(oldest)).max() {
            Some(known) => self.policy.lead(known.saturating_add(now.bound())),
            None => self.policy.fixed(self.policy.floor),
        }
    }
}

/// The latest values of a sliding window.
///
/// Invariant: times do not fall from front to back.
#[derive(Clone, Debug, Default)]
struct Window {
    samples: VecDeque<(Timestamp, Duration)>,
    /// What [`Self::usual`] found, until the samples change.
    usual: Option<Duration>,
}

/// More samples than this are not kept, whatever their age.
const MAX_SAMPLES: usize = 256;
/// Of so many samples the largest does not count: one slow sync would make every commit of the window's length wait for it, while
/// without it a few reads wait once.
const OUTLIERS: usize = 32;
/// Of so few samples all count.
const FEW: usize = 8;

impl Window {
    fn push(&mut self, at: Timestamp, value: Duration) {
        if self.samples.len() == MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((at, value));
        self.usual = None;
    }

    /// The largest value not older than this, but for the outliers.
    fn usual(&mut self, oldest: Timestamp) -> Option<Duration> {
        while self.samples.front().is_some_and(|(at, _)| *at < oldest) {
            self.samples.pop_front();
            self.usual = None;
        }
        if self.usual.is_none() && !self.samples.is_empty() {
            let mut values: Vec<Duration> = self.samples.iter().map(|(_, value)| *value).collect();
            let outliers = match values.len() {
                ..FEW => 0,
                count => count.div_ceil(OUTLIERS),
            };
            let index = values.len() - 1 - outliers;
            let (_, usual, _) = values.select_nth_unstable(index);
            self.usual = Some(*usual);
        }
        self.usual
    }
}
