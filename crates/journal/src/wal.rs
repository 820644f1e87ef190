//! The write-ahead log: one sequence of records in segments, shared by all streams of the node.
//!
//! ```text
//! open ──> recovery: every durable record, in order; the torn tail is cut
//! append(group) ──> [next segment] ──> write ──> fdatasync ──> mark ──> locations
//!                        └── no room: as if nothing had happened      └── any other error: never again
//! ```
//! A plain synchronous value: whoever owns it decides on which thread or task it runs.
//!
//! What is not needed any more is trimmed beside it: the base file stands for the segments that are gone ([`NewBase`]).
//!
//! Invariants: everything before `end` is durable, everything after it in the segment is zero; a group lies in one segment.

mod base;
pub mod format;
mod mark;
mod recovery;
mod segments;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_types::mutation::{Rule, is_broken};

use crate::error::WriteError;
use crate::files::{File, Files, is_full};
use format::{Body, Encoded, HEADER_BYTES, Header, Owner};
use mark::Place;

pub use base::{BASE_FILE, NEW_BASE_FILE, NewBase, segment_header};
pub use mark::{MARK_FILE, Mark};
pub use recovery::Recovered;
pub use segments::{Location, ReadError, Segments, segment_name, segment_number};

/// Payloads below this are gathered in one buffer with their frames; larger ones are written from where they lie.
const GATHER_BYTES: usize = 4_096;
const ZEROS: usize = 64 << 10;

/// The log, open for appending.
pub struct Wal {
    files: Arc<dyn Files>,
    owner: Owner,
    segment_bytes: u64,
    active: Active,
    end: Place,
    mark: Mark,
    is_failed: bool,
}

/// The segment that is written to.
struct Active {
    file: Arc<dyn File>,
    name: String,
    /// How far the file is set aside.
    capacity: u64,
}

/// A group, encoded for the place where it will be written.
struct Group {
    parts: Vec<Bytes>,
    locations: Vec<Location>,
    bytes: u64,
    last_crc: u32,
}

impl Wal {
    /// Writes the records and syncs them: when this returns, they are durable. On [`WriteError::Full`] the log is as it
    /// was before; after [`WriteError::Failed`] it refuses everything.
    pub fn append(&mut self, records: &[Body]) -> Result<Vec<Location>, WriteError> {
        if self.is_failed {
            return Err(WriteError::Failed("the log failed before".to_owned()));
        }
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let result = self.try_append(records);
        self.is_failed |= matches!(result, Err(WriteError::Failed(_)));
        result
    }

    /// The number of the segment that is written to.
    pub fn active(&self) -> u32 {
        u32::try_from(self.end.segment).unwrap_or_default()
    }

    /// See [`Files::delay`].
    pub fn delay(&self) -> Duration {
        self.files.delay()
    }

    fn try_append(&mut self, records: &[Body]) -> Result<Vec<Location>, WriteError> {
        let mut group = self.encode(records)?;
        if self.end.offset + group.bytes > self.active.capacity {
            self.roll(group.bytes)?;
            group = self.encode(records)?;
        }
        let start = self.end;
        if let Err(error) = self.active.file.write_all_at(start.offset, &group.parts) {
            if !is_full(&error) {
                return Err(failed("write", &self.active.name, error));
            }
            self.erase(start.offset, group.bytes)?;
            return Err(WriteError::Full(format!("{}: {error}", self.active.name)));
        }
        if !is_broken(Rule::SyncBeforeAck)
            && let Err(error) = self.active.file.sync_data()
        {
            // After a failed sync the system may have dropped what it could not write: never try again.
            return Err(failed("sync", &self.active.name, error));
        }
        self.end = Place {
            offset: start.offset + group.bytes,
            crc: group.last_crc,
            ..start
        };
        self.advance_mark()?;
        Ok(group.locations)
    }

    /// Encodes the records for the current end.
    fn encode(&self, records: &[Body]) -> Result<Group, WriteError> {
        let mut gathered = BytesMut::new();
        let mut group = Group {
            parts: Vec::new(),
            locations: Vec::with_capacity(records.len()),
            bytes: 0,
            last_crc: self.end.crc,
        };
        let too_large = || WriteError::Failed("a record does not fit into a segment".to_owned());
        let start = u32::try_from(self.end.offset).map_err(|_| too_large())?;
        for record in records {
            let Encoded { payload, crc, len } =
                format::encode(record, group.last_crc, start, &mut gathered).ok_or_else(too_large)?;
            if payload.len() < GATHER_BYTES {
                gathered.extend_from_slice(&payload);
            } else {
                group.parts.push(gathered.split().freeze());
                group.parts.push(payload);
            }
            group.locations.push(Location {
                segment: u32::try_from(self.end.segment).map_err(|_| too_large())?,
                offset: u32::try_from(self.end.offset + group.bytes).map_err(|_| too_large())?,
                len,
                crc,
            });
            group.bytes += u64::from(len);
            group.last_crc = crc;
        }
        group.parts.push(gathered.freeze());
        Ok(group)
    }

    /// Goes on in a new segment, with room for a group of `bytes`. Everything before is durable already.
    fn roll(&mut self, bytes: u64) -> Result<(), WriteError> {
        let header = Header {
            owner: self.owner.clone(),
            number: self.end.segment + 1,
            previous_end: self.end.offset,
            previous_crc: self.end.crc,
        };
        let capacity = self.segment_bytes.max(HEADER_BYTES + bytes);
        let active = match create_segment(&*self.files, &header, capacity) {
            Ok(active) => active,
            Err(error) if is_full(&error) => {
                let name = segment_name(header.number);
                self.remove_unfinished(&name)?;
                return Err(WriteError::Full(format!(
                    "{}: {error}",
                    self.files.describe(&name)
                )));
            }
            Err(error) => return Err(failed("create", &segment_name(header.number), error)),
        };
        self.active = active;
        self.end = Place {
            segment: header.number,
            offset: HEADER_BYTES,
            crc: self.end.crc,
        };
        self.advance_mark()?;
        self.sync_mark()
    }

    /// A segment that could not be made must not come back: it would tell where this one ends.
    fn remove_unfinished(&self, name: &str) -> Result<(), WriteError> {
        match self.files.remove(name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", name, error)),
            _ => self.files.sync_dir().map_err(|error| failed("sync", name, error)),
        }
    }

    /// Takes back what was written after the end, so that nothing of it is found after a crash.
    fn erase(&self, from: u64, bytes: u64) -> Result<(), WriteError> {
        let file = &self.active.file;
        let written = file.len().map(|len| len.min(from + bytes));
        let erased = written
            .and_then(|end| write_zeros(&**file, from, end))
            .and_then(|()| file.sync_data());
        erased.map_err(|error| failed("take back a write in", &self.active.name, error))
    }

    fn advance_mark(&mut self) -> Result<(), WriteError> {
        match self.mark.advance(self.end) {
            Ok(()) => Ok(()),
            // An old mark is a valid one. Its blocks exist, but a file system that copies on write may want more.
            Err(error) if is_full(&error) => Ok(()),
            Err(error) => Err(failed("write", MARK_FILE, error)),
        }
    }

    /// Makes the mark durable; for when there is nothing else to do, and before closing.
    pub fn sync_mark(&mut self) -> Result<(), WriteError> {
        if self.is_failed {
            return Ok(());
        }
        match self.mark.sync() {
            Ok(()) => Ok(()),
            // As in `advance_mark`: what is on the disk is an old mark, or this one.
            Err(error) if is_full(&error) => Ok(()),
            Err(error) => {
                self.is_failed = true;
                Err(failed("sync", MARK_FILE, error))
            }
        }
    }
}

/// Makes a segment: set aside, with its header, durable with its name.
fn create_segment(files: &dyn Files, header: &Header, capacity: u64) -> std::io::Result<Active> {
    let name = segment_name(header.number);
    let file: Arc<dyn File> = files.create(&name)?.into();
    file.preallocate(capacity)?;
    file.write_all_at(0, &[header.encode()])?;
    file.sync_data()?;
    files.sync_dir()?;
    Ok(Active {
        file,
        name: files.describe(&name),
        capacity,
    })
}

fn write_zeros(file: &dyn File, mut from: u64, end: u64) -> std::io::Result<()> {
    let zeros = Bytes::from_static(&[0; ZEROS]);
    while from < end {
        let count = usize::try_from(end - from).unwrap_or(ZEROS).min(ZEROS);
        file.write_all_at(from, &[zeros.slice(..count)])?;
        from += count as u64;
    }
    Ok(())
}

fn failed(action: &str, file: &str, error: std::io::Error) -> WriteError {
    WriteError::Failed(format!(
        "cannot {action} {file}: {error}; the node stops, because what its disk holds is not known any more"
    ))
}
