//! What became of the arrivals, by tenths of a second.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::load::{Event, Failure, Sink, count_kind, record};

/// Recovery is looked for in windows of this length.
pub(super) const WINDOW: Duration = Duration::from_millis(100);
/// A longer latency counts as this one. Microseconds.
const MOST_MICROS: u64 = 600_000_000;

/// What became of the arrivals of some time.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    pub(super) offered: u64,
    pub(super) answered: u64,
    pub(super) shed: u64,
    pub(super) given_up: u64,
    /// Answers that came in this time, whenever their arrivals were due.
    pub(super) answers: u64,
    latencies: Histogram<u64>,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        let latencies = match Histogram::new_with_bounds(1, MOST_MICROS, 2) {
            Ok(latencies) => latencies,
            Err(error) => unreachable!("constant bounds: {error}"),
        };
        Self {
            offered: 0,
            answered: 0,
            shed: 0,
            given_up: 0,
            answers: 0,
            latencies,
        }
    }

    pub(super) fn add(&mut self, event: &Event) {
        self.offered += 1;
        match &event.result {
            Ok(_) => {
                self.answered += 1;
                record(&mut self.latencies, event.latency());
            }
            Err(Failure::Shed(_)) => self.shed += 1,
            Err(Failure::NotBegun) => self.given_up += 1,
            Err(Failure::Failed(_)) => {}
        }
    }

    pub(super) fn merge<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::new();
        for one in all {
            sum.offered += one.offered;
            sum.answered += one.answered;
            sum.shed += one.shed;
            sum.given_up += one.given_up;
            sum.answers += one.answers;
            // All have the same bounds.
            let _ = sum.latencies.add(&one.latencies);
        }
        sum
    }

    pub(super) fn millis(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Arrivals by the window in which they were due.
pub(super) struct Windows {
    begin: Instant,
    each: Mutex<Vec<Arrivals>>,
    kinds: Mutex<BTreeMap<String, u64>>,
}

impl Windows {
    pub(super) fn new(begin: Instant, count: usize) -> Self {
        let each = (0..count).map(|_| Arrivals::new());
        Self {
            begin,
            each: Mutex::new(each.collect()),
            kinds: Mutex::default(),
        }
    }
}

impl Windows {
    /// What became of the arrivals of each window.
    pub(super) fn each(&self) -> Vec<Arrivals> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was said by whatever failed or was refused, and how often.
    pub(super) fn kinds(&self) -> BTreeMap<String, u64> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn index(&self, moment: Instant) -> usize {
        let offset = moment.saturating_duration_since(self.begin).as_micros();
        usize::try_from(offset / WINDOW.as_micros()).unwrap_or(usize::MAX)
    }
}

impl Sink for Windows {
    fn record(&self, _: usize, event: &Event) {
        if let Err(failure) = &event.result {
            let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            count_kind(&mut kinds, &failure.to_string(), 1);
        }
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = each.get_mut(self.index(event.due)) {
            window.add(event);
        }
        if event.result.is_ok()
            && let Some(window) = each.get_mut(self.index(event.ended))
        {
            window.answers += 1;
        }
    }

    /// There may be ten times as many as of all others; they have a column of their own.
    fn given_up(&self, _: usize, due: &mut dyn Iterator<Item = Instant>, _: Instant) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        for due in due {
            if let Some(window) = each.get_mut(self.index(due)) {
                window.offered += 1;
                window.given_up += 1;
            }
        }
    }
}
