//! The sync mark: how far the write-ahead log is known to be durable.
//!
//! Two slots, in blocks of their own, are written in turn; the valid one with the higher sequence counts. A slot is
//! written only after the sync that it tells of, and is itself not synced at once: so it is never ahead of
//! what is durable, and may be behind. A bad record below the mark is a loss; one above it is a torn tail.

use bytes::{BufMut, Bytes, BytesMut};

use super::format::Reader;
use crate::error::StartError;
use crate::files::{File, Files, read_exact_at};

/// The mark's file.
pub const MARK_FILE: &str = "MARK";
const MARK_FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"MRDNMRK\n";
/// Far enough apart that no torn block damages both.
const SLOT_BYTES: u64 = 4_096;
const SLOT_LEN: usize = 44;

/// A place in the log up to which (excluded) everything is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The segment; 0: nothing was written yet.
    pub segment: u64,
    /// The offset in it, a boundary between records.
    pub offset: u64,
    /// The crc of the last record before it.
    pub crc: u32,
}

/// The mark, open for writing.
pub struct Mark {
    file: Box<dyn File>,
    sequence: u64,
    is_synced: bool,
}

fn encode(sequence: u64, place: Place) -> Bytes {
    let mut out = BytesMut::with_capacity(SLOT_LEN);
    out.put_slice(MAGIC);
    out.put_u32_le(MARK_FORMAT);
    out.put_u64_le(sequence);
    out.put_u64_le(place.segment);
    out.put_u64_le(place.offset);
    out.put_u32_le(place.crc);
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    out.freeze()
}

enum Slot {
    Valid(u64, Place),
    Damaged,
    Version(u32),
}

fn decode(bytes: &[u8]) -> Slot {
    let mut reader = Reader(bytes);
    if reader.take(MAGIC.len()) != Some(MAGIC) {
        return Slot::Damaged;
    }
    let Some(version) = reader.u32() else {
        return Slot::Damaged;
    };
    let fields = |reader: &mut Reader<'_>| {
        let sequence = reader.u64()?;
        let (segment, offset, crc) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let own = reader.u32()?;
        let covered = bytes.get(..SLOT_LEN - 4)?;
        let place = Place { segment, offset, crc };
        (own == crc32c::crc32c(covered)).then_some((sequence, place))
    };
    match fields(&mut reader) {
        // A damaged version number is told from another version by the crc, as long as the layout is ours.
        Some(_) if version != MARK_FORMAT => Slot::Version(version),
        Some((sequence, place)) => Slot::Valid(sequence, place),
        None if version != MARK_FORMAT && version != 0 => Slot::Version(version),
        None => Slot::Damaged,
    }
}

impl Mark {
    /// Makes the mark of an empty log, durably but for the directory.
    pub fn initialise(files: &dyn Files) -> std::io::Result<()> {
        let file = files.create(MARK_FILE)?;
        file.write_all_at(0, &[encode(1, Place::default())])?;
        file.write_all_at(SLOT_BYTES, &[encode(0, Place::default())])?;
        file.sync_data()
    }

    /// Reads the mark. An error when it is missing, or both slots are bad: then nothing tells a torn tail from a loss.
    pub fn open(files: &dyn Files) -> Result<(Self, Place), StartError> {
        let name = files.describe(MARK_FILE);
        let file = files.open(MARK_FILE).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => StartError::lost(&name, 0, "the sync mark is missing"),
            _ => StartError::io("open", &name, error),
        })?;
        let mut valid: Option<(u64, Place)> = None;
        let mut version = None;
        for slot in [0, SLOT_BYTES] {
            match read_exact_at(&*file, slot, SLOT_LEN).map(|bytes| decode(&bytes)) {
                Ok(Slot::Valid(sequence, place)) => valid = valid.max_by_sequence(sequence, place),
                Ok(Slot::Version(theirs)) => version = Some(theirs),
                Ok(Slot::Damaged) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(StartError::io("read", &name, error)),
            }
        }
        let Some((sequence, place)) = valid else {
            return Err(match version {
                Some(theirs) => StartError::version(&name, theirs, MARK_FORMAT),
                None => StartError::lost(&name, 0, "both slots of the sync mark are damaged"),
            });
        };
        let mark = Self {
            file,
            sequence,
            is_synced: false,
        };
        Ok((mark, place))
    }

    /// Everything before `place` is durable now.
    pub fn advance(&mut self, place: Place) -> std::io::Result<()> {
        let sequence = self.sequence + 1;
        self.is_synced = false;
        let slot = (sequence % 2) * SLOT_BYTES;
        self.file.write_all_at(slot, &[encode(sequence, place)])?;
        // After a failure the next one goes to the same slot: the other one holds the only mark that is sound.
        self.sequence = sequence;
        Ok(())
    }

    /// Makes the mark itself durable, if it is not.
    pub fn sync(&mut self) -> std::io::Result<()> {
        if !self.is_synced {
            self.file.sync_data()?;
            self.is_synced = true;
        }
        Ok(())
    }
}

trait MaxBySequence {
    fn max_by_sequence(self, sequence: u64, place: Place) -> Self;
}

impl MaxBySequence for Option<(u64, Place)> {
    fn max_by_sequence(self, sequence: u64, place: Place) -> Self {
        match self {
            Some((best, _)) if best > sequence => self,
            _ => Some((sequence, place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Fault, MemoryFiles};

    #[test]
    fn a_mark_survives_that_two_in_a_row_find_no_room() {
        let files = MemoryFiles::new();
        Mark::initialise(&files).unwrap();
        let (mut mark, _) = Mark::open(&files).unwrap();
        let place = |offset| Place {
            segment: 1,
            offset,
            crc: 0,
        };
        mark.advance(place(600)).unwrap();
        files.set_fault(Fault {
            full_writes: 2,
            ..Fault::default()
        });
        assert!(mark.advance(place(700)).is_err() && mark.advance(place(800)).is_err());
        assert_eq!(Mark::open(&files).unwrap().1, place(600));
        mark.advance(place(900)).unwrap();
        assert_eq!(Mark::open(&files).unwrap().1, place(900));
    }
}
