//! Opening the log: every durable record in order, the torn tail cut, a loss found.
//!
//! What must be there is told by the sync mark, and for all segments but the last by the header of the next one, which
//! was written only once this one was durable. A bad record before that place is a loss; after it, the tail that a crash tore.

use std::sync::Arc;

use bytes::Bytes;

use super::base::{self, BASE_FILE, NEW_BASE_FILE};
use super::format::{self, Body, Decoded, HEADER_BYTES, Header, HeaderFault, Owner, Record};
use super::mark::{MARK_FILE, Mark, Place};
use super::segments::segment_number;
use super::{Active, Location, Wal, ZEROS, create_segment, segment_name, write_zeros};
use crate::error::{StartError, WriteError};
use crate::files::{File, Files, is_full, read_exact_at};

/// What recovery found, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records, over all segments.
    pub records: u64,
    /// Bytes of a torn tail that were cut.
    pub cut_bytes: u64,
}

/// One segment that is there, with a good header.
struct Segment {
    header: Header,
    file: Arc<dyn File>,
    name: String,
}

impl Wal {
    /// Opens the log, handing every durable record to `each` in the order in which they were written. An error of `each`
    /// says what is wrong with the record: then the log is damaged there.
    pub fn open(
        files: Arc<dyn Files>,
        owner: Owner,
        segment_bytes: u64,
        each: &mut dyn FnMut(Record, Location) -> Result<(), String>,
    ) -> Result<(Self, Recovered), StartError> {
        let (mut mark, place) = Mark::open(&*files)?;
        let mut recovered = Recovered::default();
        let begin_at = base::read(&*files, &owner, each, &mut recovered.records)?;
        remove_trimmed(&*files, begin_at)?;
        let mut numbers = segment_numbers(&*files)?;
        discard_unfinished(&*files, &mut numbers, place, begin_at)?;
        let begin_at = begin_at.unwrap_or_default();
        let (active, end) = if numbers.is_empty() {
            begin(&*files, &owner, segment_bytes)?
        } else {
            recover(
                &*files,
                &owner,
                &numbers,
                (begin_at, place),
                segment_bytes,
                each,
                &mut recovered,
            )?
        };
        // A predecessor that was killed may have made a segment and not synced its name.
        let synced = files.sync_dir();
        synced.map_err(|error| StartError::io("sync", &files.describe("."), error))?;
        match mark.advance(end).and_then(|()| mark.sync()) {
            // An old mark is a valid one.
            Err(error) if !is_full(&error) => return Err(StartError::io("write", MARK_FILE, error)),
            _ => {}
        }
        let wal = Self {
            files,
            owner,
            segment_bytes,
            active,
            end,
            mark,
            is_failed: false,
        };
        Ok((wal, recovered))
    }
}

fn segment_numbers(files: &dyn Files) -> Result<Vec<u64>, StartError> {
    let names = files
        .list()
        .map_err(|error| StartError::io("list", &files.describe("."), error))?;
    Ok(names.iter().filter_map(|name| segment_number(name)).collect())
}

/// Removes what a trimming left that a crash interrupted: the segments that the base file stands for, and one that was not finished.
fn remove_trimmed(files: &dyn Files, begin_at: Option<Place>) -> Result<(), StartError> {
    let last = begin_at.map_or(0, |place| place.segment);
    let names = files
        .list()
        .map_err(|error| StartError::io("list", &files.describe("."), error))?;
    let is_old =
        |name: &&String| *name == NEW_BASE_FILE || segment_number(name).is_some_and(|number| number <= last);
    for name in names.iter().filter(is_old) {
        let removed = files.remove(name);
        removed.map_err(|error| StartError::io("remove", &files.describe(name), error))?;
    }
    Ok(())
}

/// Removes a last segment whose creation a crash interrupted, and checks that no segment is missing.
fn discard_unfinished(
    files: &dyn Files,
    numbers: &mut Vec<u64>,
    mark: Place,
    begin_at: Option<Place>,
) -> Result<(), StartError> {
    if let Some(last) = numbers.last().copied().filter(|last| *last > mark.segment) {
        let name = segment_name(last);
        let described = files.describe(&name);
        let file = files
            .open(&name)
            .map_err(|error| StartError::io("open", &described, error))?;
        let header = match read_exact_at(&*file, 0, HEADER_BYTES as usize) {
            Ok(bytes) => Header::decode(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(HeaderFault::Damaged),
            Err(error) => return Err(StartError::io("read", &described, error)),
        };
        if header == Err(HeaderFault::Damaged) {
            // Records come only after a header that is durable: before any of them this is no unfinished segment.
            if has_records(&*file).map_err(|error| StartError::io("read", &described, error))? {
                return Err(StartError::lost(&described, 0, "the header is damaged"));
            }
            let removed = files.remove(&name).and_then(|()| files.sync_dir());
            removed.map_err(|error| StartError::io("remove", &described, error))?;
            numbers.pop();
        }
    }
    let trimmed = begin_at.map_or(0, |place| place.segment);
    if begin_at.is_none()
        && let Some(first) = numbers.first().filter(|first| **first > 1)
    {
        let what = format!(
            "the file is missing, which says what is needed of the segments before {}",
            segment_name(*first)
        );
        return Err(StartError::lost(&files.describe(BASE_FILE), 0, what));
    }
    for (index, number) in numbers.iter().enumerate() {
        let expected = trimmed + index as u64 + 1;
        if *number != expected {
            return Err(StartError::lost(
                &files.describe(&segment_name(expected)),
                0,
                "the file is missing",
            ));
        }
    }
    let last = trimmed + numbers.len() as u64;
    // A base file is written only when there is a segment after those that it stands for.
    if last < mark.segment || (numbers.is_empty() && begin_at.is_some()) {
        let missing = segment_name(last + 1);
        return Err(StartError::lost(
            &files.describe(&missing),
            0,
            "the file is missing",
        ));
    }
    Ok(())
}

/// Whether anything but zeros stands after the header.
fn has_records(file: &dyn File) -> std::io::Result<bool> {
    let len = file.len()?;
    let mut from = HEADER_BYTES;
    while from < len {
        let count = usize::try_from(len - from).unwrap_or(ZEROS).min(ZEROS);
        if without_zeros(&read_exact_at(file, from, count)?) > 0 {
            return Ok(true);
        }
        from += count as u64;
    }
    Ok(false)
}

/// The first segment of a disk that was never written to.
fn begin(files: &dyn Files, owner: &Owner, segment_bytes: u64) -> Result<(Active, Place), StartError> {
    let header = Header {
        owner: owner.clone(),
        number: 1,
        previous_end: 0,
        previous_crc: 0,
    };
    let active = create_segment(files, &header, segment_bytes)
        .map_err(|error| StartError::io("create", &files.describe(&segment_name(1)), error))?;
    let end = Place {
        segment: 1,
        offset: HEADER_BYTES,
        crc: 0,
    };
    Ok((active, end))
}

/// Reads all segments from `begin_at` on; the last one becomes the active one.
fn recover(
    files: &dyn Files,
    owner: &Owner,
    numbers: &[u64],
    (begin_at, mark): (Place, Place),
    segment_bytes: u64,
    each: &mut dyn FnMut(Record, Location) -> Result<(), String>,
    recovered: &mut Recovered,
) -> Result<(Active, Place), StartError> {
    let mut end = begin_at;
    let mut pending: Option<Segment> = None;
    for number in numbers {
        let next = open_segment(files, owner, *number)?;
        if let Some(segment) = pending.take() {
            let required = Place {
                segment: segment.header.number,
                offset: next.header.previous_end,
                crc: next.header.previous_crc,
            };
            let scanned = scan(&segment, end.crc, required, each, recovered)?;
            if scanned.place != required {
                return Err(StartError::lost(
                    &segment.name,
                    scanned.place.offset,
                    "records after the end that the next segment names",
                ));
            }
            end = scanned.place;
        } else if (next.header.previous_end, next.header.previous_crc) != (begin_at.offset, begin_at.crc) {
            return Err(StartError::lost(
                &next.name,
                0,
                "the first segment continues another one",
            ));
        }
        pending = Some(next);
    }
    let Some(segment) = pending else {
        return Err(StartError::lost(&files.describe(MARK_FILE), 0, "no segment"));
    };
    let mut required = Place {
        segment: segment.header.number,
        offset: HEADER_BYTES,
        crc: end.crc,
    };
    if mark.segment == segment.header.number {
        required = mark;
    }
    let scanned = scan(&segment, end.crc, required, each, recovered)?;
    let durable = if mark.segment == segment.header.number {
        mark.offset
    } else {
        0
    };
    let active = finish(&segment, &scanned, durable, segment_bytes, recovered)?;
    Ok((active, scanned.place))
}

fn open_segment(files: &dyn Files, owner: &Owner, number: u64) -> Result<Segment, StartError> {
    let file_name = segment_name(number);
    let name = files.describe(&file_name);
    let read = || -> std::io::Result<(Arc<dyn File>, Bytes)> {
        let file: Arc<dyn File> = files.open(&file_name)?.into();
        let front = file.len()?.min(HEADER_BYTES);
        let bytes = read_exact_at(&*file, 0, usize::try_from(front).unwrap_or_default())?;
        Ok((file, bytes))
    };
    let (file, front) = read().map_err(|error| StartError::io("read", &name, error))?;
    let header = match Header::decode(&front) {
        Ok(header) => header,
        Err(HeaderFault::Version(found)) => {
            return Err(StartError::version(&name, found, format::SEGMENT_FORMAT));
        }
        Err(HeaderFault::Damaged) => return Err(StartError::lost(&name, 0, "the header is damaged")),
    };
    if header.owner != *owner {
        return Err(StartError::wrong_disk(name, &header.owner, owner));
    }
    if header.number != number {
        return Err(StartError::lost(
            &name,
            0,
            format!("the header says segment {}", header.number),
        ));
    }
    Ok(Segment { header, file, name })
}

/// The valid records of a segment.
struct Scanned {
    /// Where they end.
    place: Place,
    /// The segment's bytes.
    bytes: Bytes,
    /// Where the zeros begin that the segment ends with.
    zeros: usize,
}

/// Hands on all records up to the first place without one. `required` must be reached.
fn scan(
    segment: &Segment,
    mut crc: u32,
    required: Place,
    each: &mut dyn FnMut(Record, Location) -> Result<(), String>,
    recovered: &mut Recovered,
) -> Result<Scanned, StartError> {
    let read = |file: &dyn File| -> std::io::Result<Bytes> {
        let len = usize::try_from(file.len()?).map_err(std::io::Error::other)?;
        read_exact_at(file, 0, len)
    };
    let bytes = read(&*segment.file).map_err(|error| StartError::io("read", &segment.name, error))?;
    let mut offset = HEADER_BYTES;
    let lost = |offset: u64, what: &str| StartError::lost(&segment.name, offset, what);
    loop {
        if offset == required.offset && crc != required.crc {
            return Err(lost(offset, "other records than those that were synced"));
        }
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = if at < bytes.len() {
            bytes.slice(at..)
        } else {
            Bytes::new()
        };
        let record = match format::decode(&rest) {
            Decoded::Record(record) if record.previous_crc == crc => record,
            Decoded::UnknownKind(kind) => {
                return Err(StartError::UnknownRecord {
                    file: segment.name.clone(),
                    offset,
                    kind,
                });
            }
            Decoded::Record(_) | Decoded::Damaged | Decoded::End if offset < required.offset => {
                return Err(lost(offset, "a record that was synced is damaged"));
            }
            Decoded::Record(_) | Decoded::Damaged | Decoded::End => break,
        };
        let location = Location {
            segment: u32::try_from(segment.header.number).unwrap_or(u32::MAX),
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            len: record.len,
            crc: record.crc,
        };
        crc = record.crc;
        each(record, location).map_err(|what| lost(offset, &what))?;
        offset += u64::from(location.len);
        recovered.records += 1;
    }
    let zeros = without_zeros(&bytes);
    if let Some(proof) = later_group(&bytes, offset, zeros) {
        return Err(lost(
            offset,
            &format!(
                "a record is damaged, but the one at offset {proof} was written only after it was synced"
            ),
        ));
    }
    let place = Place {
        segment: segment.header.number,
        offset,
        crc,
    };
    Ok(Scanned { place, bytes, zeros })
}

/// A valid record after `from` and before `end` that belongs to a group begun after `from`: it was written only after everything
/// before its group was durable, so what stands at `from` is no torn tail, however old the mark is.
fn later_group(bytes: &Bytes, from: u64, end: usize) -> Option<usize> {
    let from = usize::try_from(from).ok()?;
    (from + 1..end).find(|at| {
        // Cheap, and almost always enough to tell that no record begins here.
        let group = bytes.get(*at..).and_then(format::peek_group);
        group.is_some_and(|group| group > from && group <= *at)
            && matches!(format::decode(&bytes.slice(*at..)), Decoded::Record(_))
    })
}

/// The length without the zeros at the end. Most of a young segment is zeros, so they are compared a block at a time:
/// a start that looked at each byte would last for seconds on a busy machine.
fn without_zeros(bytes: &[u8]) -> usize {
    static ZERO: [u8; 4096] = [0; 4096];
    let is_zero = |block: &&[u8]| ZERO.get(..block.len()) == Some(*block);
    let zeros: usize = bytes
        .rchunks(ZERO.len())
        .take_while(is_zero)
        .map(<[u8]>::len)
        .sum();
    let rest = bytes.get(..bytes.len() - zeros).unwrap_or_default();
    rest.iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)
}

/// Makes what was found durable, what follows it zero, and sets the segment's space aside again.
///
/// What lies above `durable`, the mark, may be in the system's cache only, and after a sync that failed the system takes it for
/// written although it is not. So it is written once more before it counts.
fn finish(
    segment: &Segment,
    scanned: &Scanned,
    durable: u64,
    segment_bytes: u64,
    recovered: &mut Recovered,
) -> Result<Active, StartError> {
    let (file, end) = (&*segment.file, scanned.place.offset);
    let place = |offset: u64| {
        usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(scanned.bytes.len())
    };
    let torn = scanned.zeros.saturating_sub(place(end)) as u64;
    recovered.cut_bytes += torn;
    let finished = || -> std::io::Result<u64> {
        let from = durable.min(end);
        file.write_all_at(from, &[scanned.bytes.slice(place(from)..place(end))])?;
        write_zeros(file, end, end + torn)?;
        file.sync_data()?;
        match file.preallocate(segment_bytes) {
            Ok(()) => {}
            // Then the next group finds no room, and is refused until there is.
            Err(error) if is_full(&error) => {}
            Err(error) => return Err(error),
        }
        file.sync_data()?;
        file.len()
    };
    let capacity = finished().map_err(|error| StartError::io("finish the end of", &segment.name, error))?;
    Ok(Active {
        file: segment.file.clone(),
        name: segment.name.clone(),
        capacity,
    })
}

impl From<StartError> for WriteError {
    fn from(error: StartError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The body of a record, for `each`.
impl Record {
    /// The stream that the record belongs to, if it belongs to one.
    pub fn stream(&self) -> Option<meridian_types::StreamId> {
        match &self.body {
            Body::Entry(stream, _)
            | Body::Promise(stream, ..)
            | Body::Rejoined(stream)
            | Body::Base(stream, _) => Some(*stream),
            Body::End(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::without_zeros;

    #[test]
    fn zeros_at_the_end_are_left_out_wherever_they_begin() {
        for len in [0, 1, 4_095, 4_096, 4_097, 12_288, 20_000] {
            assert_eq!(without_zeros(&vec![0; len]), 0, "{len} zeros");
            for last in [0, 1, 4_095, 4_096, 8_191, 8_192, 19_999]
                .into_iter()
                .filter(|last| *last < len)
            {
                let mut bytes = vec![0; len];
                bytes[last] = 7;
                assert_eq!(without_zeros(&bytes), last + 1, "byte {last} of {len}");
            }
        }
    }
}
