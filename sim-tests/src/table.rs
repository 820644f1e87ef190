//! The table of mutations: how many seeds each took to be caught, and by what.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::document;
use crate::driver::{self, Job};
use crate::mutation::Mutation;

/// The marks between which it stands in a document.
pub const NAME: &str = "mutations";
const HEAD: &str = "\
| mutation | what is broken | caught by | seeds | bias of the plans |
|---|---|---|---|---|";
/// Invariants that are named of a seed that violates many.
const NAMED: usize = 3;

/// What came of one mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was broken.
    pub mutation: Mutation,
    /// The seeds needed, and the invariants that the last of them violated; `None` if none did.
    pub caught: Option<(u64, Vec<String>)>,
    /// How many seeds it was given.
    pub seeds: u64,
}

/// Runs the seeds with the mutation, up to the first that fails.
pub fn run(job: &Job, mutation: Mutation, seeds: Range<u64>) -> Result<Row, String> {
    let first = seeds.start;
    let total = driver::run(job, seeds).map_err(|error| error.to_string())?;
    // Seeds run in parallel; the lowest that failed is the same every time.
    let caught = total.failed.iter().min_by_key(|(seed, _)| *seed);
    Ok(Row {
        mutation,
        caught: caught.map(|(seed, violated)| (seed - first + 1, violated.clone())),
        seeds: total.seeds,
    })
}

/// Puts the rows into the table in place of those of the same mutations, in the order of the mutations.
pub fn merge(old: &str, rows: &[Row]) -> String {
    let mut lines: BTreeMap<String, String> = document::rows(old)
        .map(|cells| {
            let name = cells.first().copied().unwrap_or_default().trim_matches('`');
            (name.to_owned(), format!("| {} |", cells.join(" | ")))
        })
        .collect();
    for row in rows {
        lines.insert(row.mutation.to_string(), row.to_string());
    }
    let ordered = Mutation::all().filter_map(|mutation| lines.remove(&mutation.to_string()));
    let mut text = HEAD.to_owned();
    for line in ordered {
        text += "\n";
        text += &line;
    }
    text
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, seeds) = match &self.caught {
            Some((seeds, violated)) => {
                let mut named = violated.clone();
                named.truncate(NAMED);
                if violated.len() > NAMED {
                    named.push("and others".to_owned());
                }
                (named.join("; "), seeds.to_string())
            }
            None => ("**nothing**".to_owned(), format!("> {}", self.seeds)),
        };
        write!(
            f,
            "| `{}` | {} | {by} | {seeds} | {} |",
            self.mutation,
            self.mutation.says(),
            self.mutation.bias().map_or("", |bias| bias.says)
        )
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::mutation::Rule;

    use super::*;

    #[test]
    fn new_rows_take_the_place_of_old_ones() {
        let caught = |rule, seeds| Row {
            mutation: Mutation::Rule(rule),
            caught: Some((seeds, vec!["I1".to_owned(), "I2".to_owned()])),
            seeds,
        };
        let first = merge("", &[caught(Rule::WindowLow, 7), caught(Rule::CommitWait, 3)]);
        let rows: Vec<_> = document::rows(&first).map(|cells| (cells[0], cells[3])).collect();
        assert_eq!(rows, [("`commit-wait`", "3"), ("`window-low`", "7")]);
        let missed = Row {
            caught: None,
            ..caught(Rule::WindowLow, 500)
        };
        let second = merge(&first, &[missed]);
        let rows: Vec<_> = document::rows(&second)
            .map(|cells| (cells[2], cells[3]))
            .collect();
        assert_eq!(rows, [("I1; I2", "3"), ("**nothing**", "> 500")]);
    }
}
