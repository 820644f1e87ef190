//! The ledger of all seeds ever run, a row per range of commits, kept in a document.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::document;
use crate::driver::Total;

/// The marks between which it stands.
const NAME: &str = "ledger";
/// A row that counts this many seeds is complete: later commits get one of their own.
const FULL: u64 = 2_000;
const HEAD: &str = "\
| commits of the repository | seeds | failed | simulated hours | wall hours | commits | aborts | in doubt | faults |
|---|---|---|---|---|---|---|---|---|";

/// Adds what came of a run at the present commit.
pub fn add(file: &Path, total: &Total) -> Result<(), String> {
    let head = git(&["rev-parse", "--short=9", "HEAD"])?;
    document::replace(file, NAME, |old| {
        let mut rows = read(old)?;
        let goes_on = |row: &Row| {
            let is_ancestor = git(&["merge-base", "--is-ancestor", &row.last, &head]).is_ok();
            row.last == head || (row.seeds < FULL && is_ancestor)
        };
        if !rows.last().is_some_and(goes_on) {
            rows.push(Row::new(&head));
        }
        if let Some(row) = rows.last_mut() {
            row.last.clone_from(&head);
            row.add(total);
        }
        Ok(write(&rows))
    })
}

fn read(table: &str) -> Result<Vec<Row>, String> {
    document::rows(table)
        .filter(|cells| cells.first() != Some(&"**all**"))
        .map(|cells| Row::parse(&cells).ok_or_else(|| format!("not a row of the ledger: {cells:?}")))
        .collect()
}

fn write(rows: &[Row]) -> String {
    let mut text = HEAD.to_owned();
    for row in rows {
        text += &format!("\n| {}..{} {row}", row.first, row.last);
    }
    let sum = rows.iter().fold(Row::new(""), |sum, row| sum.and(row));
    text + &format!("\n| **all** {sum}")
}

fn git(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git").args(arguments).output();
    let output = output.map_err(|error| format!("git: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!(
            "git {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    first: String,
    last: String,
    seeds: u64,
    failed: u64,
    simulated_hours: f64,
    wall_hours: f64,
    outcomes: [u64; 3],
    faults: BTreeMap<String, u64>,
}

impl Row {
    fn new(commit: &str) -> Self {
        Self {
            first: commit.to_owned(),
            last: commit.to_owned(),
            ..Self::default()
        }
    }

    fn add(&mut self, total: &Total) {
        let run = Self {
            seeds: total.seeds,
            failed: total.failed_seeds().len() as u64,
            simulated_hours: total.simulated.as_secs_f64() / 3_600.0,
            wall_hours: total.wall.as_secs_f64() / 3_600.0,
            outcomes: total.outcomes,
            faults: total.faults.clone(),
            ..Self::default()
        };
        *self = std::mem::take(self).and(&run);
    }

    fn and(mut self, other: &Self) -> Self {
        self.seeds += other.seeds;
        self.failed += other.failed;
        self.simulated_hours += other.simulated_hours;
        self.wall_hours += other.wall_hours;
        for (sum, count) in self.outcomes.iter_mut().zip(other.outcomes) {
            *sum += count;
        }
        for (kind, count) in &other.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
        self
    }

    fn parse(cells: &[&str]) -> Option<Self> {
        let [
            range,
            seeds,
            failed,
            simulated,
            wall,
            committed,
            aborted,
            unknown,
            faults,
        ] = *cells
        else {
            return None;
        };
        let (first, last) = range.split_once("..")?;
        let fault = |one: &str| {
            let (kind, count) = one.rsplit_once(' ')?;
            Some((kind.trim().to_owned(), count.parse().ok()?))
        };
        let faults = faults.split(',').filter(|one| !one.trim().is_empty());
        Some(Self {
            first: first.to_owned(),
            last: last.to_owned(),
            seeds: seeds.parse().ok()?,
            failed: failed.parse().ok()?,
            simulated_hours: simulated.parse().ok()?,
            wall_hours: wall.parse().ok()?,
            outcomes: [
                committed.parse().ok()?,
                aborted.parse().ok()?,
                unknown.parse().ok()?,
            ],
            faults: faults.map(fault).collect::<Option<_>>()?,
        })
    }
}

/// Everything but the commits.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [committed, aborted, unknown] = self.outcomes;
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        write!(
            f,
            "| {} | {} | {:.3} | {:.3} | {committed} | {aborted} | {unknown} | {} |",
            self.seeds,
            self.failed,
            self.simulated_hours,
            self.wall_hours,
            faults.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_ledger_is_read_as_it_was_written_and_summed() {
        let total = Total {
            seeds: 20,
            failed: vec![(3, Vec::new())],
            simulated: Duration::from_secs(3_600),
            wall: Duration::from_secs(36),
            outcomes: [100, 20, 1],
            faults: [("crash".to_owned(), 7), ("hold".to_owned(), 2)].into(),
            ..Total::default()
        };
        let mut rows = vec![Row::new("abc"), Row::new("def")];
        rows.iter_mut().for_each(|row| row.add(&total));
        let text = write(&rows);
        assert_eq!(read(&text).unwrap(), rows);
        assert!(
            text.ends_with("| **all** | 40 | 2 | 2.000 | 0.020 | 200 | 40 | 2 | crash 14, hold 4 |"),
            "{text}"
        );
        assert_eq!(read("").unwrap(), []);
        assert!(read("|a|\n|-|\n| nonsense |").is_err());
    }
}
