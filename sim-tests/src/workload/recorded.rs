//! Operations of a transaction of the real library, put on record as they succeed.

use std::time::Duration;

use meridian_client::{Error, Key, KeyRange, Predicate, Row, ScanOptions, Timestamp, Txn};

use crate::history::{Found, History, Op, Part};

/// An open transaction, on record. What fails ends it.
#[derive(Clone)]
pub struct Handle {
    pub(super) history: History,
    pub(super) id: usize,
    pub(super) txn: Txn,
}

impl Handle {
    /// Reads a key.
    pub async fn get(&self, key: &str) -> Result<Option<String>, Error> {
        let found = self.txn.get_versioned(Key::from(key.as_bytes())).await?;
        let found = found.map(|found| Found {
            value: text(&found.value),
            timestamp: found.timestamp,
        });
        let value = found.as_ref().map(|found| found.value.clone());
        self.note(Op::Read {
            key: key.to_owned(),
            found,
            for_update: false,
        });
        Ok(value)
    }

    /// Reads a key that nobody else may write until this commits.
    pub async fn get_for_update(&self, key: &str) -> Result<Option<String>, Error> {
        // It does not tell the version's timestamp; a plain read of the same snapshot does.
        let plain = self.txn.get_versioned(Key::from(key.as_bytes())).await?;
        let value = self
            .txn
            .get_for_update(Key::from(key.as_bytes()))
            .await?
            .map(text);
        // If they differ there is no such version, and the checkers say so.
        let timestamp = plain.map_or(Timestamp(1), |plain| plain.timestamp);
        let found = value.clone().map(|value| Found { value, timestamp });
        self.note(Op::Read {
            key: key.to_owned(),
            found,
            for_update: true,
        });
        Ok(value)
    }

    /// Writes a key.
    pub async fn put(&self, key: &str, value: String) -> Result<(), Error> {
        self.txn.put(Key::from(key.as_bytes()), value.clone()).await?;
        let key = key.to_owned();
        self.note(Op::Write { key, value });
        Ok(())
    }

    /// Deletes a key.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        self.txn.delete(Key::from(key.as_bytes())).await?;
        let key = key.to_owned();
        self.note(Op::Delete { key });
        Ok(())
    }

    /// Deletes all keys with a prefix, in one call.
    pub async fn clear(&self, prefix: &str) -> Result<(), Error> {
        let rows = self.scan(prefix, false).await?;
        let count = self.txn.delete_range(range(prefix)).await?;
        // It says how many it saw, as a count does.
        self.note(Op::Part {
            prefix: prefix.to_owned(),
            part: Part {
                count_only: true,
                ..Part::default()
            },
            rows: Vec::new(),
            count,
        });
        for (key, _) in rows {
            self.note(Op::Delete { key });
        }
        Ok(())
    }

    /// Reads all keys with a prefix.
    pub async fn scan(&self, prefix: &str, for_update: bool) -> Result<Vec<(String, String)>, Error> {
        self.slow_scan(prefix, for_update, Duration::ZERO).await
    }

    /// Reads all keys with a prefix, with a pause after each page.
    pub async fn slow_scan(
        &self,
        prefix: &str,
        for_update: bool,
        pause: Duration,
    ) -> Result<Vec<(String, String)>, Error> {
        let options = ScanOptions {
            for_update,
            ..ScanOptions::default()
        };
        let rows = self.pages(prefix, options, pause).await?;
        let values = rows
            .iter()
            .map(|(key, found)| (key.clone(), found.value.clone()))
            .collect();
        let prefix = prefix.to_owned();
        self.note(Op::Scan {
            prefix,
            rows,
            for_update,
        });
        Ok(values)
    }

    /// Reads a part of what is there.
    pub async fn part(&self, prefix: &str, part: Part, pause: Duration) -> Result<(), Error> {
        let (rows, count) = if part.count_only {
            (Vec::new(), self.txn.count(range(prefix)).await?)
        } else {
            let contains = part.contains.iter().cloned();
            let options = ScanOptions {
                limit: part.limit,
                reverse: part.reverse,
                keys_only: part.keys_only,
                predicates: contains.map(|text| Predicate::Contains(text.into())).collect(),
                for_update: false,
            };
            let rows = self.pages(prefix, options, pause).await?;
            let count = rows.len() as u64;
            (rows, count)
        };
        self.note(Op::Part {
            prefix: prefix.to_owned(),
            part,
            rows,
            count,
        });
        Ok(())
    }

    /// Marks a place to go back to.
    pub async fn savepoint(&self, name: &str) -> Result<(), Error> {
        self.txn.savepoint(name).await?;
        let name = name.to_owned();
        self.note(Op::Savepoint { name });
        Ok(())
    }

    /// Goes back there.
    pub async fn rollback_to(&self, name: &str) -> Result<(), Error> {
        self.txn.rollback_to(name).await?;
        let name = name.to_owned();
        self.note(Op::RollbackTo { name });
        Ok(())
    }

    async fn pages(
        &self,
        prefix: &str,
        options: ScanOptions,
        pause: Duration,
    ) -> Result<Vec<(String, Found)>, Error> {
        let mut scan = self.txn.scan(range(prefix), options).await?;
        let mut rows = Vec::new();
        loop {
            let page = scan.next_page().await?;
            if page.is_empty() {
                return Ok(rows);
            }
            rows.extend(page.into_iter().map(named));
            tokio::time::sleep(pause).await;
        }
    }

    fn note(&self, op: Op) {
        self.history.op(self.id, op);
    }
}

fn range(prefix: &str) -> KeyRange {
    KeyRange::prefix(Key::from(prefix.as_bytes()))
}

pub(super) fn named(row: Row) -> (String, Found) {
    let found = Found {
        value: text(&row.value),
        timestamp: row.timestamp,
    };
    (text(&row.key.0), found)
}

pub(super) fn text(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(bytes.as_ref()).into_owned()
}
