//! What a transaction's reads must have shown at a snapshot.

use std::collections::BTreeMap;

use meridian_client::Timestamp;

use super::super::Anomaly;
use super::snapshot::Snapshot;
use super::versions::{Row, Versions};
use crate::history::{Buffer, Found, Op, Part, Txn, tail};

/// A read that does not show what it should.
pub struct Mismatch {
    /// What was read, and what should have been.
    pub what: String,
    /// The version that should have been seen, by its key and timestamp.
    missed: Option<(String, Timestamp)>,
}

impl From<String> for Mismatch {
    fn from(what: String) -> Self {
        Self { what, missed: None }
    }
}

/// Replays one transaction.
pub struct Reader<'a, 'b> {
    pub txn: &'b Txn,
    pub versions: &'b Versions<'a>,
}

impl Reader<'_, '_> {
    /// The first snapshot of those that are possible at which every read shows what the transaction saw.
    pub fn fits(&self, snapshot: &Snapshot) -> Result<Timestamp, Anomaly> {
        let first = self.all_fit(snapshot.at_least, |_| true);
        let Err(mismatch) = first else {
            return Ok(snapshot.at_least);
        };
        let mut later = snapshot.later.iter();
        if let Some(at) = later.find(|at| self.all_fit(**at, |_| true).is_ok()) {
            return Ok(*at);
        }
        let told = match snapshot.exact {
            Some(_) => "its snapshot is",
            None => "its snapshot is not before",
        };
        Err(Anomaly {
            name: "R6 reads see the snapshot",
            what: format!(
                "T{} {}; {told} {}",
                self.txn.id, mismatch.what, snapshot.at_least.0
            ),
            txns: self.shown_by(&mismatch),
        })
    }

    /// The transaction, and whoever wrote what it should have seen.
    pub fn shown_by(&self, mismatch: &Mismatch) -> Vec<usize> {
        let missed = mismatch.missed.as_ref();
        let version = missed.and_then(|(key, at)| self.versions.at_exactly(key, *at));
        let writer = version.and_then(|version| version.writer);
        writer.into_iter().chain([self.txn.id]).collect()
    }

    /// Whether these reads show what the transaction saw; if not, the first that does not.
    pub fn all_fit(&self, at: Timestamp, of: impl Fn(&Op) -> bool) -> Result<(), Mismatch> {
        let mut own = Buffer::default();
        for op in &self.txn.ops {
            if of(op) {
                self.fits_one(op, &own, at)?;
            }
            own.apply(op);
        }
        Ok(())
    }

    fn fits_one(&self, op: &Op, own: &Buffer<'_>, at: Timestamp) -> Result<(), Mismatch> {
        match op {
            Op::Read { key, found, .. } => {
                let expected = match own.get(key) {
                    Some(value) => value.map(|value| (value, Timestamp::ZERO)),
                    None => self.versions.get(key, at),
                };
                let found = found
                    .as_ref()
                    .map(|found| (found.value.as_str(), found.timestamp));
                same(key, found, expected)
            }
            Op::Scan { prefix, rows, .. } => {
                let expected = self.rows(prefix, own, at);
                compare(prefix, rows, &expected, false)
            }
            Op::Part {
                prefix,
                part,
                rows,
                count,
            } => {
                let expected = take(part, self.rows(prefix, own, at));
                if *count != expected.len() as u64 {
                    return Err(format!(
                        "counted {count} rows in {prefix}{part} instead of {}",
                        expected.len()
                    )
                    .into());
                }
                match part.count_only {
                    true => Ok(()),
                    false => compare(prefix, rows, &expected, part.keys_only),
                }
            }
            _ => Ok(()),
        }
    }

    /// All rows with a prefix, own ones included.
    fn rows<'c>(&'c self, prefix: &str, own: &'c Buffer<'_>, at: Timestamp) -> Vec<Row<'c>> {
        let mut rows: BTreeMap<&str, (&str, Timestamp)> = self.versions.scan(prefix, at);
        for (key, value) in own.writes().iter().filter(|(key, _)| key.starts_with(prefix)) {
            match value {
                Some(value) => rows.insert(key, (value, Timestamp::ZERO)),
                None => rows.remove(key),
            };
        }
        rows.into_iter()
            .map(|(key, (value, timestamp))| (key, value, timestamp))
            .collect()
    }
}

fn take<'a>(part: &Part, mut rows: Vec<Row<'a>>) -> Vec<Row<'a>> {
    if let Some(text) = &part.contains {
        rows.retain(|(_, value, _)| value.contains(text.as_str()));
    }
    if part.reverse {
        rows.reverse();
    }
    if let Some(limit) = part.limit {
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    rows
}

fn compare(
    prefix: &str,
    rows: &[(String, Found)],
    expected: &[Row<'_>],
    keys_only: bool,
) -> Result<(), Mismatch> {
    let mut expected_rows = expected.iter();
    for (key, found) in rows {
        let Some((wanted, value, timestamp)) = expected_rows.next() else {
            return Err(format!("scanned {prefix} and found {key}={found}, one row too many").into());
        };
        if key != wanted {
            return Err(Mismatch {
                what: format!("scanned {prefix} and found {key}={found} where {wanted} belongs"),
                missed: Some(((*wanted).to_owned(), *timestamp)),
            });
        }
        let value = if keys_only { "" } else { value };
        same(
            key,
            Some((&found.value, found.timestamp)),
            Some((value, *timestamp)),
        )?;
    }
    match expected_rows.next() {
        Some((key, value, timestamp)) => Err(Mismatch {
            what: format!(
                "scanned {prefix} and missed {key}={}@{}",
                tail(value),
                timestamp.0
            ),
            missed: Some(((*key).to_owned(), *timestamp)),
        }),
        None => Ok(()),
    }
}

fn same(
    key: &str,
    found: Option<(&str, Timestamp)>,
    expected: Option<(&str, Timestamp)>,
) -> Result<(), Mismatch> {
    if found == expected {
        return Ok(());
    }
    let show = |version: Option<(&str, Timestamp)>| match version {
        Some((value, Timestamp::ZERO)) => format!("{} (its own)", tail(value)),
        Some((value, timestamp)) => format!("{}@{}", tail(value), timestamp.0),
        None => "nothing".to_owned(),
    };
    Err(Mismatch {
        what: format!("read {key} -> {} instead of {}", show(found), show(expected)),
        missed: expected.map(|(_, timestamp)| (key.to_owned(), timestamp)),
    })
}
