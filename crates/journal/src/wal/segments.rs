//! Reading records back from where they were written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::base::BASE_FILE;
use super::format::{self, Decoded, Record};
use crate::files::{File, Files, read_exact_at};

/// Files kept open for reading.
const MAX_OPEN: usize = 32;
/// Records that lie this close to one another are read at once.
const MAX_GAP_BYTES: u64 = 16 << 10;
const MAX_READ_BYTES: u64 = 1 << 20;

/// The name of a segment's file. Sorted by name they are sorted by number.
pub fn segment_name(number: u64) -> String {
    format!("wal-{number:016}.log")
}

/// The number of a segment by its file's name.
pub fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("wal-")?.strip_suffix(".log")?;
    number.parse().ok().filter(|number| segment_name(*number) == name)
}

/// Where a record is, and its crc: whatever else stands there is not it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The segment; 0: not written yet. See also [`Self::IN_BASE`].
    pub segment: u32,
    /// The offset in the segment, in bytes.
    pub offset: u32,
    /// The whole record's length in bytes.
    pub len: u32,
    /// The record's crc.
    pub crc: u32,
}

impl Location {
    /// In `segment`, beside the number of the last segment that it stands for: the record is in the base file.
    pub const IN_BASE: u32 = 1 << 31;

    /// Whether the record was written and synced.
    pub fn is_placed(&self) -> bool {
        self.segment != 0
    }

    /// Whether it lies in the segment `last`, one before, or in a base file.
    pub fn is_up_to(&self, last: u32) -> bool {
        self.is_placed() && (self.segment & Self::IN_BASE != 0 || self.segment <= last)
    }

    /// The file's name.
    fn file_name(&self) -> String {
        match self.segment & Self::IN_BASE {
            0 => segment_name(u64::from(self.segment)),
            _ => BASE_FILE.to_owned(),
        }
    }

    fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }
}

/// A record that was durable cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("{file}, offset {offset}: {what}")]
pub struct ReadError {
    /// The file.
    pub file: String,
    /// The offset in bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// The segments, open for reading. Shared by all readers.
pub struct Segments {
    files: Arc<dyn Files>,
    /// The most recently used ones last.
    open: Mutex<VecDeque<(u32, Arc<dyn File>)>>,
}

impl Segments {
    /// The segments of a directory.
    pub fn new(files: Arc<dyn Files>) -> Self {
        Self {
            files,
            open: Mutex::default(),
        }
    }

    /// Reads records, in the order given; records that follow one another are read at once. Each one is checked against its crc:
    /// never is a wrong one returned.
    pub fn read(&self, wanted: &[Location]) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::with_capacity(wanted.len());
        let mut rest = wanted;
        while let Some(first) = rest.first() {
            let run = run_length(rest);
            let (now, later) = rest.split_at(run);
            rest = later;
            let end = now.last().map_or_else(|| first.end(), Location::end);
            let bytes = self.read_bytes(first, end)?;
            for location in now {
                let from = (location.offset - first.offset) as usize;
                let record = bytes.slice(from..from + location.len as usize);
                records.push(self.check(location, &record)?);
            }
        }
        Ok(records)
    }

    fn check(&self, location: &Location, bytes: &Bytes) -> Result<Record, ReadError> {
        match format::decode(bytes) {
            Decoded::Record(record) if record.crc == location.crc && record.len == location.len => Ok(record),
            Decoded::Record(_) | Decoded::UnknownKind(_) | Decoded::Damaged | Decoded::End => {
                Err(self.error(location, "the record is damaged".to_owned()))
            }
        }
    }

    fn read_bytes(&self, first: &Location, end: u64) -> Result<Bytes, ReadError> {
        let file = self
            .file(first)
            .map_err(|error| self.error(first, error.to_string()))?;
        let len = usize::try_from(end - u64::from(first.offset)).unwrap_or(usize::MAX);
        read_exact_at(&*file, u64::from(first.offset), len)
            .map_err(|error| self.error(first, error.to_string()))
    }

    fn error(&self, location: &Location, what: String) -> ReadError {
        ReadError {
            file: self.files.describe(&location.file_name()),
            offset: u64::from(location.offset),
            what,
        }
    }

    /// Closes the files of segments up to `last`, and all base files but the one that stands for them.
    pub fn forget_up_to(&self, last: u32) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(segment, _)| {
            *segment == Location::IN_BASE | last || {
                let is_segment = segment & Location::IN_BASE == 0;
                is_segment && *segment > last
            }
        });
    }

    fn file(&self, location: &Location) -> std::io::Result<Arc<dyn File>> {
        let segment = location.segment;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let found = open.iter().position(|(number, _)| *number == segment);
        let entry = match found.and_then(|index| open.remove(index)) {
            Some(entry) => entry,
            None => (segment, self.files.open(&location.file_name())?.into()),
        };
        if open.len() == MAX_OPEN {
            open.pop_front();
        }
        let file = entry.1.clone();
        open.push_back(entry);
        Ok(file)
    }
}

/// How many of the first locations are close enough together to be read at once; at least one.
fn run_length(locations: &[Location]) -> usize {
    let Some(first) = locations.first() else { return 0 };
    let pairs = locations.iter().zip(locations.iter().skip(1));
    let followers = pairs.take_while(|(before, next)| {
        let gap = u64::from(next.offset).checked_sub(before.end());
        next.segment == first.segment
            && gap.is_some_and(|gap| gap <= MAX_GAP_BYTES)
            && next.end() - u64::from(first.offset) <= MAX_READ_BYTES
    });
    1 + followers.count()
}
