//! What Meridian's processes count and measure: one table of names, units and meanings ([`names`]), and how a service gets a
//! handle to one of them.
//!
//! A handle is made once, when a service starts, and costs an atomic operation when it is used. In a process that publishes no
//! metrics nothing is installed that could hear of them: every handle does nothing, so simulations are not affected.
//!
//! ```text
//! services ──handles──> the recorder of the process ─┐
//! services ──status──────────────────────────────────┴─> GET /metrics      (crates/meridian/src/metrics.rs)
//! ```
//! What status tells anyway is taken from it when somebody asks, so series of ranges that went away go away as well.
//!
//! Invariant: labels are bounded: roles, methods, reasons, nodes, ranges and streams; never a key or a client.
#![forbid(unsafe_code)]

pub mod names;

pub use metrics::{Counter, Gauge, Histogram};
use metrics::{Key, Label, Level, Metadata, with_recorder};

/// What a series of a family is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Rises only, from 0 at the start of the process.
    Counter,
    /// A level.
    Gauge,
    /// How often which values were met, with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As it stands in the exposition.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A metric with all of its series.
#[derive(Debug)]
pub struct Family {
    /// Its full name: the unit comes last, but for `_total` of counters.
    pub name: &'static str,
    /// What its series are.
    pub kind: Kind,
    /// The labels of its series, beside `node` and `region`, which all have.
    pub labels: &'static [&'static str],
    /// The roles of processes that have it; none: all processes have it.
    pub roles: &'static [&'static str],
    /// Since when a process has it: from its start if empty, otherwise only as long as this holds.
    pub only: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// Who records: the level and target that recorders may filter by, which ours does not.
static METADATA: Metadata<'static> = Metadata::new("meridian", Level::INFO, Some("meridian"));

impl Family {
    /// A counter of this family.
    pub fn counter(&self, values: &[&str]) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        with_recorder(|recorder| recorder.register_counter(&self.key(values), &METADATA))
    }

    /// A gauge of this family.
    pub fn gauge(&self, values: &[&str]) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        with_recorder(|recorder| recorder.register_gauge(&self.key(values), &METADATA))
    }

    /// A histogram of this family.
    pub fn histogram(&self, values: &[&str]) -> Histogram {
        debug_assert!(matches!(self.kind, Kind::Histogram(_)), "{}", self.name);
        with_recorder(|recorder| recorder.register_histogram(&self.key(values), &METADATA))
    }

    /// Whether a process of these roles has it.
    pub fn is_of(&self, roles: &[&str]) -> bool {
        self.roles.is_empty() || self.roles.iter().any(|role| roles.contains(role))
    }

    /// `values` in the order of the family's labels.
    fn key(&self, values: &[&str]) -> Key {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        let labels = self.labels.iter().zip(values);
        let labels: Vec<Label> = labels
            .map(|(label, value)| Label::new(*label, (*value).to_owned()))
            .collect();
        Key::from_parts(self.name, labels)
    }
}

/// One counter for each of some values that are all known beforehand, so that all of them are there from the start.
#[derive(Debug)]
pub struct Counters {
    values: &'static [&'static str],
    counters: Vec<Counter>,
}

impl Counters {
    /// The counters of a family whose last label has one of these values. `first`: its other labels.
    pub fn new(family: &Family, first: &[&str], values: &'static [&'static str]) -> Self {
        let each = |value: &&str| family.counter(&[first, &[value]].concat());
        Self {
            values,
            counters: values.iter().map(each).collect(),
        }
    }

    /// Counts one. A value that is not among the known ones counts as the last of them.
    pub fn count(&self, value: &str) {
        let place = self.values.iter().position(|known| *known == value);
        let counter = place.map_or(self.counters.last(), |place| self.counters.get(place));
        if let Some(counter) = counter {
            counter.increment(1);
        }
    }
}

#[cfg(test)]
mod tests;
