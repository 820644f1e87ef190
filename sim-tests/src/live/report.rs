//! What came of a run.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use super::strikes::{Kind, Struck};
use crate::history::{Outcome, Txn};

/// The end of a run.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// How long clients were at work.
    pub lasted: Duration,
    /// Transactions committed, aborted, and never known.
    pub counts: [usize; 3],
    /// What clients were told when something was aborted, but for conflicts, and how often.
    pub errors: BTreeMap<String, usize>,
    /// What was done to the cluster.
    pub strikes: Vec<Struck>,
    /// Everything that should not have been. Empty: all held.
    pub wrong: Vec<String>,
}

impl Verdict {
    pub(super) fn new(lasted: Duration, txns: &[Txn], strikes: Vec<Struck>, wrong: Vec<String>) -> Self {
        let mut counts = [0; 3];
        let mut errors = BTreeMap::new();
        for txn in txns {
            match &txn.outcome {
                Outcome::Committed(_) => counts[0] += 1,
                Outcome::Unknown => counts[2] += 1,
                Outcome::Aborted(why) => {
                    counts[1] += 1;
                    *errors.entry(kind_of(why)).or_default() += 1;
                }
            }
        }
        Self {
            lasted,
            counts,
            errors,
            strikes,
            wrong,
        }
    }

    /// Whether all held.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }

    /// A table of recovery times, one row for each kind of fault.
    pub fn table(strikes: &[Struck]) -> String {
        let mut kinds: BTreeMap<Kind, Vec<&Struck>> = BTreeMap::new();
        for struck in strikes {
            kinds.entry(struck.strike.kind).or_default().push(struck);
        }
        let mut table = String::from(
            "| fault | times | while it lasts: p50 s | worst s | not before its end | after its end: p50 s | worst s |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for (kind, struck) in kinds {
            let during: Vec<Duration> = struck
                .iter()
                .filter_map(|struck| struck.recovered_during)
                .collect();
            let after: Vec<Duration> = struck
                .iter()
                .filter_map(|struck| struck.recovered_after)
                .collect();
            let (missing, [during_p50, during_worst], [after_p50, after_worst]) =
                (struck.len() - during.len(), shown(during), shown(after));
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "| {kind} | {} | {during_p50} | {during_worst} | {missing} | {after_p50} | {after_worst} |",
                struck.len()
            );
        }
        table
    }
}

/// The middle one and the longest, in seconds.
fn shown(mut times: Vec<Duration>) -> [String; 2] {
    times.sort_unstable();
    let seconds =
        |time: Option<&Duration>| time.map_or("-".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
    [seconds(times.get(times.len() / 2)), seconds(times.last())]
}

/// The words of an error that say what kind it is: no keys, ids and numbers.
fn kind_of(why: &str) -> String {
    let words = why
        .split_whitespace()
        .take_while(|word| !word.contains(|c: char| c.is_ascii_digit() || c == '"'));
    let words: Vec<&str> = words.take(8).collect();
    words.join(" ")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Self::table(&self.strikes))?;
        let [committed, aborted, unknown] = self.counts;
        writeln!(f, "what ended aborted, by what clients were told:")?;
        for (why, count) in &self.errors {
            writeln!(f, "{count:>7} {why}")?;
        }
        for wrong in &self.wrong {
            writeln!(f, "WRONG {wrong}")?;
        }
        let verdict = if self.is_good() { "PASSED" } else { "FAILED" };
        write!(
            f,
            "{verdict}: {} faults in {:.0} s, {committed} commits, {aborted} aborts, {unknown} unknown, {} wrong",
            self.strikes.len(),
            self.lasted.as_secs_f64(),
            self.wrong.len()
        )
    }
}

/// All that clients did and saw, to look at.
pub fn write_history(file: &Path, txns: &[Txn]) -> Result<(), String> {
    let mut text = String::new();
    for txn in txns {
        let _ = writeln!(text, "{txn}");
    }
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}
