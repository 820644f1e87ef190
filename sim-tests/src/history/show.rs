//! Transactions as a person reads them.

use std::fmt;

use super::{Found, Op, Outcome, Part, Past, Txn};

impl fmt::Display for Txn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self
            .ended
            .map_or("-".to_owned(), |end| format!("{:.3}", end.at.as_secs_f64()));
        write!(
            f,
            "T{} {} [{:.3} {end}]",
            self.id,
            self.client,
            self.began.at.as_secs_f64()
        )?;
        if self.mode.serializable {
            write!(f, " serializable")?;
        }
        match self.mode.past {
            Some(Past::At(at)) => write!(f, " at {}", at.0)?,
            Some(Past::NotOlderThan(ms)) => write!(f, " not older than {ms} ms")?,
            None => {}
        }
        if let Some(start) = self.start() {
            write!(f, " start {}", start.0)?;
        }
        match &self.outcome {
            Outcome::Unknown => write!(f, " unknown")?,
            Outcome::Committed(timestamp) => write!(f, " committed {}", timestamp.0)?,
            Outcome::Aborted(why) => write!(f, " aborted ({why})")?,
        }
        self.ops.iter().try_for_each(|op| write!(f, "\n      {op}"))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let update = |for_update: &bool| if *for_update { " for update" } else { "" };
        match self {
            Self::Read {
                key,
                found,
                for_update,
            } => {
                write!(f, "read {key}{} ->", update(for_update))?;
                match found {
                    Some(found) => write!(f, " {found}"),
                    None => write!(f, " nothing"),
                }
            }
            Self::Write { key, value } => write!(f, "write {key} = {}", tail(value)),
            Self::Delete { key } => write!(f, "delete {key}"),
            Self::Scan {
                prefix,
                rows,
                for_update,
            } => {
                write!(f, "scan {prefix}{} ->", update(for_update))?;
                show_rows(f, rows)
            }
            Self::Part {
                prefix,
                part,
                rows,
                count,
            } => {
                write!(f, "scan {prefix}{part} -> {count} rows:")?;
                show_rows(f, rows)
            }
            Self::Savepoint { name } => write!(f, "savepoint {name}"),
            Self::RollbackTo { name } => write!(f, "rollback to {name}"),
        }
    }
}

fn show_rows(f: &mut fmt::Formatter<'_>, rows: &[(String, Found)]) -> fmt::Result {
    rows.iter()
        .try_for_each(|(key, found)| write!(f, " {key}={found}"))
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", tail(&self.value), self.timestamp.0)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.reverse, ", reversed"),
            (self.keys_only, ", keys only"),
            (self.count_only, ", count only"),
        ];
        words
            .iter()
            .filter(|(is_so, _)| *is_so)
            .try_for_each(|(_, word)| f.write_str(word))?;
        if let Some(limit) = self.limit {
            write!(f, ", at most {limit}")?;
        }
        if let Some(text) = &self.contains {
            write!(f, ", containing {text:?}")?;
        }
        Ok(())
    }
}

/// The end of a value that is too long to be read: of a list, what came last.
pub(crate) fn tail(value: &str) -> String {
    const SHOWN: usize = 40;
    match value.len().checked_sub(SHOWN).and_then(|cut| value.get(cut..)) {
        Some(end) if !end.is_empty() && end.len() < value.len() => format!("...{end}"),
        _ => value.to_owned(),
    }
}
