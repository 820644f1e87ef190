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
    /// Time between two periodic closures.
    pub closed_interval: Duration,
}

/// Tunes the lead of one range from the largest measurements of a sliding window. Journal nodes are numbered by the caller, from
/// a small fixed set.
#[derive(Clone, Debug)]
pub struct LeadTuner {
    policy: LeadPolicy,
    known: BTreeMap<usize, WindowMax>,
    append: WindowMax,
    /// When the range was last read through the journal node's feed.
    read: BTreeMap<usize, Timestamp>,
}

impl LeadTuner {
    /// A tuner that has measured nothing: its lead is the floor.
    pub fn new(policy: LeadPolicy) -> Self {
        Self {
            policy,
            known: BTreeMap::new(),
            append: WindowMax::default(),
            read: BTreeMap::new(),
        }
    }

    /// It took `latency` from sending an entry until the journal node knew it to be committed.
    pub fn on_commit_known(&mut self, journal: usize, latency: Duration, now: Interval) {
        let known = self.known.entry(journal).or_default();
        known.push(now.latest, latency, self.policy.window);
    }

    /// The range is read by somebody who follows the journal node's feed.
    pub fn on_read(&mut self, journal: usize, now: Interval) {
        self.read.insert(journal, now.latest);
    }

    /// It took `latency` from deciding a transaction until its record was sent.
    pub fn on_append(&mut self, latency: Duration, now: Interval) {
        self.append.push(now.latest, latency, self.policy.window);
    }

    /// The lead to use now (R2, R13): commit known wherever the range was read lately + append + closing interval + clock
    /// bound, between floor and ceiling. The floor where nobody reads, or nothing was measured.
    pub fn lead(&mut self, now: Interval) -> Duration {
        let oldest = now.latest.saturating_sub(self.policy.window);
        self.read.retain(|_, at| *at >= oldest);
        let is_read = |journal: &usize| self.read.contains_key(journal);
        let measured = self.known.iter_mut().filter(|(journal, _)| is_read(journal));
        let Some(known) = measured.filter_map(|(_, known)| known.max_since(oldest)).max() else {
            return self.policy.floor;
        };
        let append = self.append.max_since(oldest).unwrap_or_default();
        let wanted = known
            .saturating_add(append)
            .saturating_add(self.policy.closed_interval)
            .saturating_add(now.bound());
        // Not `clamp`: it panics when a configuration puts the floor above the ceiling.
        wanted.min(self.policy.ceiling).max(self.policy.floor)
    }
}

/// The largest of the recent values: only those are kept that no later one exceeds, so that the
/// first is the largest.
///
/// Invariant: values strictly decrease from front to back, times do not.
#[derive(Clone, Debug, Default)]
struct WindowMax {
    samples: VecDeque<(Timestamp, Duration)>,
}

/// More samples than this are not kept; the oldest (and largest) stays, which errs towards a longer lead.
const MAX_SAMPLES: usize = 64;

impl WindowMax {
    fn push(&mut self, at: Timestamp, value: Duration, window: Duration) {
        self.max_since(at.saturating_sub(window));
        while self.samples.back().is_some_and(|(_, last)| *last <= value) {
            self.samples.pop_back();
        }
        if self.samples.len() == MAX_SAMPLES {
            self.samples.pop_back();
        }
        self.samples.push_back((at, value));
    }

    fn max_since(&mut self, oldest: Timestamp) -> Option<Duration> {
        while self.samples.front().is_some_and(|(at, _)| *at < oldest) {
            self.samples.pop_front();
        }
        self.samples.front().map(|(_, value)| *value)
    }
}
