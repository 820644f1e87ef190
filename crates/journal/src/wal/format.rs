//! The bytes of a segment: its header and its records.
//!
//! ```text
//! segment  = header (512 bytes) record* zeros
//! record   = length u32 | crc u32 | previous crc u32 | group u32 | kind u8 | fields     (little endian)
//! ```
//! `length` counts what follows `crc`; 0 is the end. `crc` (CRC-32C) covers the length and everything after the crc.
//! Each record names the crc of the one before it, across segments too: what an earlier life of the
//! file left behind a torn record can never be taken for its continuation. `group` is the offset at which the group
//! of records begins that was written and synced together with it: everything before that was durable when this record was written.

use bytes::{BufMut, Bytes, BytesMut};
use meridian_rpc::internal::Entry;
use meridian_types::{ClusterId, DiskId, Epoch, LogBase, NodeName, Position, StreamId, Timestamp};

/// The format of segments that this program writes and understands.
pub const SEGMENT_FORMAT: u32 = 1;
/// The length of a segment's header.
pub const HEADER_BYTES: u64 = 512;
const HEADER_LEN: usize = 512;
type Magic = [u8; 8];
const MAGIC: &Magic = b"MRDNWAL\n";
/// Of the base file, which is laid out like a segment.
const BASE_MAGIC: &Magic = b"MRDNBAS\n";
/// Length and crc.
pub const FRAME_BYTES: usize = 8;
/// Previous crc, group and kind.
const MIN_LENGTH: usize = 9;
const MAX_NAME_BYTES: usize = 255;

const KIND_ENTRY: u8 = 1;
const KIND_PROMISE: u8 = 2;
const KIND_REJOINED: u8 = 3;
const KIND_BASE: u8 = 4;
const KIND_END: u8 = 5;

/// Which disk of which node a file belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeName,
    /// The node's disk.
    pub disk: DiskId,
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose it is.
    pub owner: Owner,
    /// Its number; the first segment has 1.
    pub number: u64,
    /// Where the records of the segment before it end. They were durable before this header was written.
    pub previous_end: u64,
    /// The crc of the last record before this segment.
    pub previous_crc: u32,
}

/// Why a header is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Not ours, torn or damaged.
    Damaged,
    /// Written by a program with another format.
    Version(u32),
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> Bytes {
        self.encode_as(MAGIC)
    }

    /// The bytes of the header of a base file, which stands for the segment of this number and all before: `previous_end` and
    /// `previous_crc` are those that the next segment names.
    pub fn encode_base(&self) -> Bytes {
        self.encode_as(BASE_MAGIC)
    }

    fn encode_as(&self, magic: &Magic) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_LEN);
        out.put_slice(magic);
        out.put_u32_le(SEGMENT_FORMAT);
        out.put_slice(self.owner.cluster.0.as_bytes());
        out.put_slice(self.owner.disk.0.as_bytes());
        out.put_u64_le(self.number);
        out.put_u64_le(self.previous_end);
        out.put_u32_le(self.previous_crc);
        let name = self.owner.node.0.as_bytes();
        let name = name.get(..MAX_NAME_BYTES).unwrap_or(name);
        out.put_u8(u8::try_from(name.len()).unwrap_or_default());
        out.put_slice(name);
        out.resize(HEADER_LEN - 4, 0);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// Reads a header.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        Self::decode_as(bytes, MAGIC)
    }

    /// Reads the header of a base file.
    pub fn decode_base(bytes: &[u8]) -> Result<Self, HeaderFault> {
        Self::decode_as(bytes, BASE_MAGIC)
    }

    fn decode_as(bytes: &[u8], magic: &Magic) -> Result<Self, HeaderFault> {
        let mut reader = Reader(bytes);
        let damaged = HeaderFault::Damaged;
        if reader.take(magic.len()) != Some(magic) {
            return Err(damaged);
        }
        // Before the crc, whose place may be another one in another format.
        let version = reader.u32().ok_or(HeaderFault::Damaged)?;
        if version != SEGMENT_FORMAT {
            return Err(match Self::is_hit_in_version(bytes, magic) {
                true => damaged,
                false => HeaderFault::Version(version),
            });
        }
        let body = bytes.get(..HEADER_LEN - 4).ok_or(HeaderFault::Damaged)?;
        let crc = bytes.get(HEADER_LEN - 4..).and_then(|rest| Reader(rest).u32());
        if crc != Some(crc32c::crc32c(body)) {
            return Err(damaged);
        }
        let mut decoded = || -> Option<Self> {
            let cluster = ClusterId::from_slice(reader.take(16)?)?;
            let disk = DiskId::from_slice(reader.take(16)?)?;
            let (number, previous_end, previous_crc) = (reader.u64()?, reader.u64()?, reader.u32()?);
            let name_len = usize::from(reader.u8()?);
            let node = NodeName(String::from_utf8(reader.take(name_len)?.to_vec()).ok()?);
            Some(Self {
                owner: Owner { cluster, node, disk },
                number,
                previous_end,
                previous_crc,
            })
        };
        decoded().ok_or(damaged)
    }

    /// Whether this is a header of our format but for the version's own bytes: then no other program wrote it, and
    /// whoever reads the error shall not look for one.
    fn is_hit_in_version(bytes: &[u8], magic: &Magic) -> bool {
        let rest = bytes.get(MAGIC.len() + 4..HEADER_LEN - 4).unwrap_or_default();
        let crc = bytes.get(HEADER_LEN - 4..).and_then(|rest| Reader(rest).u32());
        let ours = [&magic[..], &SEGMENT_FORMAT.to_le_bytes(), rest].concat();
        crc == Some(crc32c::crc32c(&ours))
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// An entry of a stream.
    Entry(StreamId, Entry),
    /// The node will accept no append of a lower epoch. Without an owner when an append brought it.
    Promise(StreamId, Epoch, Option<NodeName>),
    /// The stream was rebuilt on this disk, which replaces a lost one.
    Rejoined(StreamId),
    /// The stream's log begins after this entry: what comes before was trimmed, and what the disk held of it does not count.
    Base(StreamId, LogBase),
    /// The last record of a base file: so many came before it.
    End(u64),
}

impl Body {
    /// About how many bytes the record has.
    pub fn size(&self) -> usize {
        const FIXED: usize = 64;
        match self {
            Self::Entry(_, entry) => FIXED + entry.payload.len(),
            Self::Promise(_, _, owner) => FIXED + owner.as_ref().map_or(0, |owner| owner.0.len()),
            Self::Rejoined(_) | Self::Base(..) | Self::End(_) => FIXED,
        }
    }

    /// Everything after the kind, but for the payload.
    fn put_fields(&self, out: &mut BytesMut) {
        match self {
            Self::Entry(stream, entry) => {
                out.put_u64_le(stream.0);
                out.put_u64_le(entry.epoch);
                out.put_u64_le(entry.lsn);
                out.put_i32_le(entry.kind);
                out.put_u64_le(entry.timestamp);
                // Checked where the entry came in: none, or 16.
                out.put_u8(u8::try_from(entry.txn.len()).unwrap_or_default());
                out.put_slice(&entry.txn);
            }
            Self::Promise(stream, epoch, owner) => {
                out.put_u64_le(stream.0);
                out.put_u64_le(epoch.0);
                out.put_slice(owner.as_ref().map_or("", |owner| &owner.0).as_bytes());
            }
            Self::Rejoined(stream) => out.put_u64_le(stream.0),
            Self::Base(stream, base) => {
                out.put_u64_le(stream.0);
                out.put_u64_le(base.position.epoch.0);
                out.put_u64_le(base.position.lsn.0);
                out.put_u64_le(base.last_commit.0);
                out.put_u64_le(base.lease_end.0);
            }
            Self::End(records) => out.put_u64_le(*records),
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Entry(..) => KIND_ENTRY,
            Self::Promise(..) => KIND_PROMISE,
            Self::Rejoined(_) => KIND_REJOINED,
            Self::Base(..) => KIND_BASE,
            Self::End(_) => KIND_END,
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Entry(_, entry) => entry.payload.clone(),
            Self::Promise(..) | Self::Rejoined(_) | Self::Base(..) | Self::End(_) => Bytes::new(),
        }
    }
}

/// One encoded record: its frame and fields were appended to `out`, the payload follows them in the file.
pub struct Encoded {
    /// Comes right after what was appended.
    pub payload: Bytes,
    /// The record's crc, which the next record names.
    pub crc: u32,
    /// The length of the whole record.
    pub len: u32,
}

/// Appends a record's frame and fields to `out`. `None` when the record is too large for its length field.
pub fn encode(body: &Body, previous_crc: u32, group: u32, out: &mut BytesMut) -> Option<Encoded> {
    let start = out.len();
    out.put_u64_le(0);
    out.put_u32_le(previous_crc);
    out.put_u32_le(group);
    out.put_u8(body.kind());
    body.put_fields(out);
    let payload = body.payload();
    let length = out.len() - start - FRAME_BYTES + payload.len();
    let len = u32::try_from(length + FRAME_BYTES).ok()?;
    let length = u32::try_from(length).ok()?.to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), out.get(start + FRAME_BYTES..)?);
    let crc = crc32c::crc32c_append(crc, &payload);
    out.get_mut(start..start + 4)?.copy_from_slice(&length);
    out.get_mut(start + 4..start + FRAME_BYTES)?
        .copy_from_slice(&crc.to_le_bytes());
    Some(Encoded { payload, crc, len })
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What it says; the payload is a slice of the bytes read.
    pub body: Body,
    /// Its crc.
    pub crc: u32,
    /// The crc of the record before it.
    pub previous_crc: u32,
    /// The offset in its segment at which its group begins.
    pub group: u32,
    /// The length of the whole record.
    pub len: u32,
}

/// What stands at some place of a segment.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// A record whose crc is right.
    Record(Record),
    /// Nothing was written here.
    End,
    /// Bytes that are no record.
    Damaged,
    /// A record whose crc is right, of a kind that this program does not know.
    UnknownKind(u8),
}

/// Reads the record at the front of `bytes`.
pub fn decode(bytes: &Bytes) -> Decoded {
    let Some(length) = Reader(bytes).u32() else {
        return Decoded::End;
    };
    if length == 0 {
        return Decoded::End;
    }
    decode_record(bytes, length as usize).unwrap_or(Decoded::Damaged)
}

/// The group that a record at the front of `bytes` would belong to, unchecked.
pub(super) fn peek_group(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader(bytes.get(FRAME_BYTES + 4..)?);
    let group = reader.u32()?;
    matches!(
        reader.u8()?,
        KIND_ENTRY | KIND_PROMISE | KIND_REJOINED | KIND_BASE
    )
    .then_some(group as usize)
}

fn decode_record(bytes: &Bytes, length: usize) -> Option<Decoded> {
    let mut frame = Reader(bytes);
    let length_bytes = frame.take(4)?;
    let crc = frame.u32()?;
    let end = FRAME_BYTES.checked_add(length)?;
    let content = bytes.get(FRAME_BYTES..end)?;
    if length < MIN_LENGTH || crc32c::crc32c_append(crc32c::crc32c(length_bytes), content) != crc {
        return None;
    }
    let mut reader = Reader(content);
    let (previous_crc, group) = (reader.u32()?, reader.u32()?);
    let body = match reader.u8()? {
        KIND_ENTRY => {
            let stream = StreamId(reader.u64()?);
            let (epoch, lsn, kind) = (reader.u64()?, reader.u64()?, reader.u32()?.cast_signed());
            let timestamp = reader.u64()?;
            let txn_len = usize::from(reader.u8()?);
            let txn = bytes.slice_ref(reader.take(txn_len)?);
            let payload = bytes.slice_ref(reader.0);
            let entry = Entry {
                epoch,
                lsn,
                kind,
                timestamp,
                txn,
                payload,
            };
            Body::Entry(stream, entry)
        }
        KIND_PROMISE => {
            let (stream, epoch) = (StreamId(reader.u64()?), Epoch(reader.u64()?));
            let owner = String::from_utf8(reader.0.to_vec()).ok()?;
            Body::Promise(stream, epoch, (!owner.is_empty()).then_some(NodeName(owner)))
        }
        KIND_REJOINED => Body::Rejoined(StreamId(reader.u64()?)),
        KIND_BASE => {
            let stream = StreamId(reader.u64()?);
            let base = LogBase {
                position: Position::new(reader.u64()?, reader.u64()?),
                last_commit: Timestamp(reader.u64()?),
                lease_end: Timestamp(reader.u64()?),
            };
            Body::Base(stream, base)
        }
        KIND_END => Body::End(reader.u64()?),
        other => return Some(Decoded::UnknownKind(other)),
    };
    let len = u32::try_from(end).ok()?;
    Some(Decoded::Record(Record {
        body,
        crc,
        previous_crc,
        group,
        len,
    }))
}

/// Takes little-endian numbers from the front of a slice.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_flipped_bit_of_the_version_is_damage_and_another_format_is_not() {
        let header = Header {
            owner: Owner {
                cluster: ClusterId(Uuid::from_u128(1)),
                node: NodeName("journal-1".to_owned()),
                disk: DiskId(Uuid::from_u128(2)),
            },
            number: 3,
            previous_end: 4,
            previous_crc: 5,
        };
        let good = header.encode();
        assert_eq!(Header::decode(&good), Ok(header));
        for bit in 0..32 {
            let mut hit = good.to_vec();
            hit[MAGIC.len() + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&hit), Err(HeaderFault::Damaged), "bit {bit}");
        }
        let mut later = good.to_vec();
        later[MAGIC.len()] = 2;
        let crc = crc32c::crc32c(&later[..HEADER_LEN - 4]).to_le_bytes();
        later[HEADER_LEN - 4..].copy_from_slice(&crc);
        assert_eq!(Header::decode(&later), Err(HeaderFault::Version(2)));
    }
}
