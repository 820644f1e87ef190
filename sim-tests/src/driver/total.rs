//! What came of many seeds, counted from what each says last.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::checker::promises;
use crate::run::Report;

/// What the line begins with that a seed ends with, for the driver.
const SUMMARY: &str = "SUMMARY";
/// What a line begins with that names a violated invariant.
const VIOLATED: &str = "VIOLATED";

/// What a seed says last. Equal for two runs of a seed if they were the same run.
pub fn summary(report: &Report) -> String {
    let (committed, aborted, unknown) = report.outcomes();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for (what, count) in &report.faults {
        // "Crash journal": the kind, and what it struck.
        let kind = what.split_whitespace().next().unwrap_or_default();
        *kinds.entry(kind.to_lowercase()).or_default() += count;
    }
    let mut line = format!(
        "{SUMMARY} {:016x}/{} {} {committed} {aborted} {unknown}",
        report.digest,
        report.lines,
        report.simulated.as_millis(),
    );
    for (kind, count) in kinds {
        line += &format!(" {kind}={count}");
    }
    for (workload, [committed, aborted, unknown]) in report.workloads() {
        line += &format!(" {workload}:{committed}/{aborted}/{unknown}");
    }
    for (what, count) in promises::sights(&report.txns) {
        line += &format!(" {}:{count}", what.replace(' ', "-"));
    }
    line
}

/// The line that names a violation, for a reader and for the driver.
pub fn violated(invariant: &str, count: usize, what: &str) -> String {
    format!("{VIOLATED}: {invariant} ({count} times): {what}")
}

/// What one seed said.
#[derive(Debug, Default)]
pub struct Said {
    /// Its last line, without its mark.
    pub summary: String,
    /// Which invariants were violated.
    pub violated: Vec<String>,
    /// Everything but its last line, for a reader.
    pub report: Vec<String>,
}

impl Said {
    /// Takes apart what it printed.
    pub fn new(output: &str) -> Self {
        let mut said = Self::default();
        for line in output.lines() {
            if let Some(summary) = line.strip_prefix(SUMMARY) {
                summary.clone_into(&mut said.summary);
                continue;
            }
            let named = line
                .strip_prefix(VIOLATED)
                .and_then(|rest| rest.strip_prefix(": "))
                .and_then(|rest| Some(rest.split_once(" times): ")?.0.rsplit_once(" (")?.0));
            said.violated.extend(named.map(str::to_owned));
            said.report.push(line.to_owned());
        }
        said
    }
}

/// What came of all seeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Total {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those that failed, in the order in which they did, with what they violated.
    pub failed: Vec<(u64, Vec<String>)>,
    /// Simulated time.
    pub simulated: Duration,
    /// Transactions acknowledged, aborted, and in doubt.
    pub outcomes: [u64; 3],
    /// Faults injected, by kind.
    pub faults: BTreeMap<String, u64>,
    /// In how many seeds each workload had transactions, and how many of them were acknowledged, aborted, and in doubt;
    /// and in how many something was seen that has to occur in some, and how often.
    pub workloads: BTreeMap<String, (u64, Vec<u64>)>,
    /// The longest that one seed took.
    pub slowest: (Duration, u64),
    /// Real time of all seeds together.
    pub busy: Duration,
    /// Real time from the first to the last.
    pub wall: Duration,
}

impl Total {
    /// A seed came to its end.
    pub fn count(&mut self, seed: u64, said: &Said, is_success: bool, took: Duration) {
        self.seeds += 1;
        if took > self.slowest.0 {
            self.slowest = (took, seed);
        }
        let mut figures = Vec::new();
        for word in said.summary.split_whitespace().skip(1) {
            if let Some((workload, counts)) = word.split_once(':') {
                self.count_workload(workload, counts);
                continue;
            }
            match word.split_once('=') {
                Some((kind, count)) => {
                    *self.faults.entry(kind.to_owned()).or_default() += count.parse().unwrap_or(0);
                }
                None => figures.extend(word.parse::<u64>().ok()),
            }
        }
        if let [simulated_ms, committed, aborted, unknown] = figures[..] {
            self.simulated += Duration::from_millis(simulated_ms);
            for (sum, count) in self.outcomes.iter_mut().zip([committed, aborted, unknown]) {
                *sum += count;
            }
        }
        if !is_success {
            self.failed.push((seed, said.violated.clone()));
        }
    }

    fn count_workload(&mut self, name: &str, counts: &str) {
        let counts: Vec<u64> = counts.split('/').filter_map(|count| count.parse().ok()).collect();
        if counts.first().is_none_or(|first| *first == 0) {
            return;
        }
        let (seeds, sums) = self.workloads.entry(name.to_owned()).or_default();
        *seeds += 1;
        sums.resize(counts.len(), 0);
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }

    /// What each workload did, for a reader.
    pub fn describe_workloads(&self) -> String {
        let each = self.workloads.iter().map(|(name, (seeds, sums))| match sums[..] {
            [committed, aborted, unknown] => {
                format!("{name} {committed} commits, {aborted} aborts, {unknown} in doubt in {seeds} seeds")
            }
            _ => format!("{name} seen {} times in {seeds} seeds", sums.iter().sum::<u64>()),
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// Seeds that failed, in order.
    pub fn failed_seeds(&self) -> Vec<u64> {
        let mut seeds: Vec<u64> = self.failed.iter().map(|(seed, _)| *seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        seeds
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [committed, aborted, unknown] = self.outcomes;
        write!(
            f,
            "{} seeds, {} failed; {:.0} s simulated, {} faults, {committed} commits, {aborted} aborts, {unknown} in doubt; \
             {:.2} s per seed, at most {:.1} s (seed {})",
            self.seeds,
            self.failed.len(),
            self.simulated.as_secs_f64(),
            self.faults.values().sum::<u64>(),
            self.busy.as_secs_f64() / self.seeds.max(1) as f64,
            self.slowest.0.as_secs_f64(),
            self.slowest.1,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_seed_prints_is_understood() {
        let output = format!(
            "{}\n  T3 a line\n{}\n{SUMMARY} 00ff/12 1500 10 2 1 crash=3 hold=1 bank:7/1/0 lists:0/1/0 skew:2\n",
            violated("I1 recency", 2, "T1 (of 2 times): ..."),
            violated("acknowledged writes are durable (I9)", 1, "lost")
        );
        let said = Said::new(&output);
        assert_eq!(
            said.violated,
            ["I1 recency", "acknowledged writes are durable (I9)"]
        );
        assert_eq!(said.report.len(), 3);
        let mut total = Total::default();
        total.count(4, &said, false, Duration::from_secs(1));
        total.count(5, &said, true, Duration::from_secs(2));
        assert_eq!(total.outcomes, [20, 4, 2]);
        assert_eq!(total.simulated, Duration::from_secs(3));
        assert_eq!(
            total.faults,
            [("crash".to_owned(), 6), ("hold".to_owned(), 2)].into()
        );
        let bank = (2, vec![14, 2, 0]);
        let skew = (2, vec![4]);
        assert_eq!(
            total.workloads,
            [("bank".to_owned(), bank), ("skew".to_owned(), skew)].into()
        );
        assert_eq!((total.failed_seeds(), total.slowest.1), (vec![4], 5), "{total}");
    }

    #[test]
    fn a_seed_that_said_nothing_counts_as_failed() {
        let mut total = Total::default();
        total.count(4, &Said::new(""), false, Duration::ZERO);
        assert_eq!((total.seeds, total.failed_seeds()), (1, vec![4]));
    }
}
