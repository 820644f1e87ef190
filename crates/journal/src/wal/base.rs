//! The base file: what is still needed of the segments that were trimmed (decision 28).
//!
//! ```text
//! BASE = header (as of a segment; it names the last segment that it stands for, and where that ended) record* End(count)
//! write BASE.new ──sync──> rename to BASE ──sync directory──> remove the segments that it stands for
//! ```
//! At every moment the base file and the segments after the one that it names are the log: a segment up to that one which is still
//! there was not removed in time, and a `BASE.new` was not finished. It has no torn tail: whatever is wrong with it is a loss.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Location;
use super::format::{self, Body, Decoded, Encoded, HEADER_BYTES, Header, HeaderFault, Owner, Record};
use super::mark::Place;
use crate::error::StartError;
use crate::files::{File, Files, read_exact_at};

/// The base file.
pub const BASE_FILE: &str = "BASE";
/// The same before it is complete.
pub const NEW_BASE_FILE: &str = "BASE.new";
/// Records are gathered up to about this many bytes before they are written.
const GATHER_BYTES: usize = 256 << 10;

/// A base file that is being written, under its temporary name.
pub struct NewBase {
    files: Arc<dyn Files>,
    file: Box<dyn File>,
    segment: u32,
    crc: u32,
    gathered: BytesMut,
    written: u64,
    records: u64,
}

impl NewBase {
    /// Begins a file that is to stand for all segments up to the one of `header`.
    pub fn create(files: Arc<dyn Files>, header: &Header) -> io::Result<Self> {
        match files.remove(NEW_BASE_FILE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = files.create(NEW_BASE_FILE)?;
        file.write_all_at(0, &[header.encode_base()])?;
        Ok(Self {
            files,
            file,
            segment: u32::try_from(header.number).map_err(io::Error::other)?,
            crc: header.previous_crc,
            gathered: BytesMut::new(),
            written: HEADER_BYTES,
            records: 0,
        })
    }

    /// Adds a record; where it will be.
    pub fn add(&mut self, body: &Body) -> io::Result<Location> {
        let too_large = || io::Error::other("the base file would be too large");
        let offset = self.written + self.gathered.len() as u64;
        let offset = u32::try_from(offset).map_err(|_| too_large())?;
        // Each record is a group of its own.
        let encoded = format::encode(body, self.crc, offset, &mut self.gathered);
        let Encoded { payload, crc, len } = encoded.ok_or_else(too_large)?;
        self.gathered.extend_from_slice(&payload);
        self.crc = crc;
        self.records += 1;
        if self.gathered.len() >= GATHER_BYTES {
            self.flush()?;
        }
        Ok(Location {
            segment: Location::IN_BASE | self.segment,
            offset,
            len,
            crc,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        let part = self.gathered.split().freeze();
        let bytes = part.len() as u64;
        self.file.write_all_at(self.written, &[part])?;
        self.written += bytes;
        Ok(())
    }

    /// Completes the file and makes it durable, still under its temporary name. Returns its length.
    pub fn finish(&mut self) -> io::Result<u64> {
        self.add(&Body::End(self.records))?;
        self.flush()?;
        self.file.sync_data()?;
        Ok(self.written)
    }

    /// Takes the place of the base file before. Only after [`Self::finish`].
    pub fn publish(&self) -> io::Result<()> {
        self.files.rename(NEW_BASE_FILE, BASE_FILE)?;
        self.files.sync_dir()
    }

    /// Gives up what was not published.
    pub fn discard(&self) {
        // The next one begins by removing it.
        let _ = self.files.remove(NEW_BASE_FILE);
    }
}

/// Hands every record of the base file on. Returns where the log goes on, at the end of the last segment that is gone; `None` when there
/// is no base file.
pub(super) fn read(
    files: &dyn Files,
    owner: &Owner,
    each: &mut dyn FnMut(Record, Location) -> Result<(), String>,
    records: &mut u64,
) -> Result<Option<Place>, StartError> {
    let name = files.describe(BASE_FILE);
    let bytes = match whole(files) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StartError::io("read", &name, error)),
    };
    let front = bytes.get(..HEADER_BYTES as usize).unwrap_or_default();
    let header = match Header::decode_base(front) {
        Ok(header) => header,
        Err(HeaderFault::Version(found)) => {
            return Err(StartError::version(&name, found, format::SEGMENT_FORMAT));
        }
        Err(HeaderFault::Damaged) => return Err(StartError::lost(&name, 0, "the header is damaged")),
    };
    if header.owner != *owner {
        return Err(StartError::wrong_disk(name, &header.owner, owner));
    }
    let (mut offset, mut crc, mut found) = (HEADER_BYTES as usize, header.previous_crc, 0);
    loop {
        let lost = |what: &str| StartError::lost(&name, offset as u64, what);
        let record = match format::decode(&bytes.slice(offset.min(bytes.len())..)) {
            Decoded::Record(record) if record.previous_crc == crc => record,
            Decoded::UnknownKind(kind) => {
                return Err(StartError::UnknownRecord {
                    file: name,
                    offset: offset as u64,
                    kind,
                });
            }
            Decoded::Record(_) | Decoded::Damaged => return Err(lost("a record is damaged")),
            Decoded::End => return Err(lost("the file ends before its last record")),
        };
        if record.body == Body::End(found) {
            break;
        }
        let location = Location {
            segment: Location::IN_BASE | u32::try_from(header.number).unwrap_or_default(),
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            len: record.len,
            crc: record.crc,
        };
        (crc, found) = (record.crc, found + 1);
        each(record, location).map_err(|what| lost(&what))?;
        offset += location.len as usize;
    }
    *records += found;
    Ok(Some(Place {
        segment: header.number,
        offset: header.previous_end,
        crc: header.previous_crc,
    }))
}

fn whole(files: &dyn Files) -> io::Result<Bytes> {
    let file = files.open(BASE_FILE)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    read_exact_at(&*file, 0, len)
}

/// The header of a segment that is complete.
pub fn segment_header(files: &dyn Files, number: u64) -> io::Result<Header> {
    let file = files.open(&super::segment_name(number))?;
    let bytes = read_exact_at(&*file, 0, HEADER_BYTES as usize)?;
    Header::decode(&bytes).map_err(|fault| io::Error::other(format!("the header is not readable: {fault:?}")))
}

#[cfg(test)]
mod tests {
    use meridian_rpc::internal::Entry;
    use meridian_types::{ClusterId, DiskId, Epoch, LogBase, NodeName, Position, StreamId, Timestamp};
    use uuid::Uuid;

    use super::*;
    use crate::files::MemoryFiles;

    fn owner(disk: u128) -> Owner {
        Owner {
            cluster: ClusterId(Uuid::from_u128(1)),
            node: NodeName::from("j1"),
            disk: DiskId(Uuid::from_u128(disk)),
        }
    }

    fn bodies() -> Vec<Body> {
        let base = LogBase {
            position: Position::new(3, 70),
            last_commit: Timestamp(5),
            lease_end: Timestamp(6),
        };
        let entry = Entry {
            epoch: 3,
            lsn: 71,
            payload: Bytes::from(vec![7; 300_000]),
            ..Entry::default()
        };
        vec![
            Body::Base(StreamId(1), base),
            Body::Promise(StreamId(1), Epoch(4), Some(NodeName::from("a1"))),
            Body::Rejoined(StreamId(1)),
            Body::Entry(StreamId(1), entry.clone()),
            Body::Entry(StreamId(2), entry),
        ]
    }

    fn written() -> (MemoryFiles, Vec<Location>) {
        let files = MemoryFiles::new();
        let header = Header {
            owner: owner(2),
            number: 9,
            previous_end: 1_234,
            previous_crc: 77,
        };
        let mut base = NewBase::create(Arc::new(files.clone()), &header).unwrap();
        let locations = bodies().iter().map(|body| base.add(body).unwrap()).collect();
        base.finish().unwrap();
        base.publish().unwrap();
        (files, locations)
    }

    type Found = Vec<(Body, Location)>;

    fn read_back(files: &MemoryFiles) -> Result<(Option<Place>, Found), StartError> {
        let (mut found, mut records) = (Vec::new(), 0);
        let mut each = |record: Record, location| {
            found.push((record.body, location));
            Ok(())
        };
        let place = read(files, &owner(2), &mut each, &mut records)?;
        assert_eq!(records, found.len() as u64);
        Ok((place, found))
    }

    #[test]
    fn what_was_written_is_read_back_with_where_the_log_goes_on() {
        let (files, locations) = written();
        let (place, found) = read_back(&files).unwrap();
        let expected: Found = bodies().into_iter().zip(locations).collect();
        assert_eq!(found, expected);
        let place = place.unwrap();
        assert_eq!((place.segment, place.offset, place.crc), (9, 1_234, 77));
        assert!(read_back(&MemoryFiles::new()).unwrap().0.is_none());
    }

    #[test]
    fn any_damage_any_cut_and_another_disk_are_refused() {
        let (files, _) = written();
        let good = files.content(BASE_FILE).unwrap();
        for at in (0..good.len()).filter(|at| at % 997 == 0 || *at < 700 || good.len() - at < 40) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            files.set_content(BASE_FILE, bad);
            let error = read_back(&files).unwrap_err();
            assert!(error.is_loss(), "byte {at}: {error}");
            files.set_content(BASE_FILE, good[..at].to_vec());
            let error = read_back(&files).unwrap_err();
            assert!(error.is_loss(), "{at} bytes: {error}");
        }
        files.set_content(BASE_FILE, good);
        let other = read(&files, &owner(3), &mut |_, _| Ok(()), &mut 0);
        assert!(matches!(other, Err(StartError::WrongDisk { .. })));
    }
}
