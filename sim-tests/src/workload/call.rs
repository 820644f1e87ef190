//! A whole transaction in one call: what is sent, and what goes on record of it.

use meridian_client::{Execute, Executed};

use super::recorded::text;
use crate::history::{Found, Mode, Op};

/// One call.
#[derive(Default)]
pub struct Call {
    pub(super) execute: Execute,
    pub(super) mode: Mode,
    /// What it must have found if it is acknowledged.
    conditions: Vec<Op>,
    /// Keys that it reads, before it writes.
    reads: Vec<String>,
    /// What it writes.
    pub(super) writes: Vec<Op>,
}

impl Call {
    /// Does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serializable.
    pub fn serializable(mut self) -> Self {
        self.execute = self.execute.serializable();
        self.mode = Mode::serializable();
        self
    }

    /// Only if the key has exactly this version, or no value.
    pub fn only_if(mut self, key: &str, found: Option<Found>) -> Self {
        self.execute = match &found {
            Some(found) => self.execute.if_version(key, found.timestamp),
            None => self.execute.if_exists(key, false),
        };
        self.conditions.push(Op::Read {
            key: key.to_owned(),
            found,
            for_update: true,
        });
        self
    }

    /// Reads a key.
    pub fn get(mut self, key: &str) -> Self {
        self.execute = self.execute.get(key);
        self.reads.push(key.to_owned());
        self
    }

    /// Writes a key.
    pub fn put(mut self, key: &str, value: String) -> Self {
        self.execute = self.execute.put(key, value.clone());
        let key = key.to_owned();
        self.writes.push(Op::Write { key, value });
        self
    }

    /// What it read, now that it was acknowledged; what was lost with the answer is not known.
    pub(super) fn read(self, executed: &Executed) -> Vec<Op> {
        let mut ops = self.conditions;
        for (key, found) in self.reads.into_iter().zip(&executed.values) {
            let found = found.as_ref().map(|found| Found {
                value: text(&found.value),
                timestamp: found.timestamp,
            });
            ops.push(Op::Read {
                key,
                found,
                for_update: false,
            });
        }
        ops
    }
}
