//! How a checkpoint stands in its file.
//!
//! ```text
//! file     header frame, frames of versions, footer frame, and nothing after it
//! frame    length (4)  crc32c over the length and the body (4)  body
//! header   1  "MERIDCKP"  format (4)  id (16)  cluster (16)  begun (8)  length of the keys (4)  keys
//!          streams (4)  each: stream (8)  epoch (8)  lsn (8)  last commit (8)
//! versions 2  each: length of the key (4)  key  timestamp (8)  0, or 1  length of the value (4)  value
//! footer   3  frames before it (8)  versions (8)  horizon (8)  crc32c over the crcs of all frames before it (4)
//! ```
//! Numbers are big-endian. Versions stand by key, then the newest first. Pure: no I/O.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use meridian_types::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use meridian_types::{ClusterId, Key, KeyRange, Position, StreamId, Timestamp};

use crate::store::{Progress, VersionWrite, decode_key_range, encode_key_range};

/// What this version of Meridian writes and reads.
pub(crate) const FORMAT: u32 = 1;
/// Before every body: its length and the crc.
pub(crate) const FRAME_BYTES: usize = 8;
/// No body is longer: a bound for whoever reads a length. Room for the positions of 100,000 streams.
pub(crate) const MAX_BODY_BYTES: usize = 8 << 20;

const MAGIC: &[u8; 8] = b"MERIDCKP";
const HEADER: u8 = 1;
const VERSIONS: u8 = 2;
const FOOTER: u8 = 3;
const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;

/// Names one checkpoint: no two are alike, and a copy has its original's.
pub(crate) type CheckpointId = [u8; 16];

/// What a checkpoint begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub id: CheckpointId,
    pub cluster: ClusterId,
    /// All versions of these keys are in it.
    pub keys: KeyRange,
    /// When it was begun, by its writer's clock.
    pub begun: Timestamp,
    /// Everything up to here is in it.
    pub progress: BTreeMap<StreamId, Progress>,
}

/// What it ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Frames before the footer.
    pub frames: u64,
    pub versions: u64,
    /// No read below this can be answered from it.
    pub horizon: Timestamp,
    /// Over the crcs of all frames before.
    pub sums: u32,
}

/// One frame's content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Header(Header),
    Versions(Vec<VersionWrite>),
    Footer(Footer),
}

/// Why a body cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Of a format that this version does not know.
    Format(u32),
    /// What is wrong.
    Corrupt(&'static str),
}

/// Counts what stands in a file, the same for whoever writes and whoever reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub frames: u64,
    pub sums: u32,
}

impl Sums {
    /// A frame with this crc.
    pub fn add(&mut self, crc: u32) {
        self.frames += 1;
        self.sums = crc32c::crc32c_append(self.sums, &crc.to_be_bytes());
    }
}

/// A frame, and its crc.
pub(crate) fn frame(body: &[u8]) -> (Bytes, u32) {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let crc = frame_crc(length, body);
    let mut frame = BytesMut::with_capacity(FRAME_BYTES + body.len());
    frame.put_u32(length);
    frame.put_u32(crc);
    frame.put_slice(body);
    (frame.freeze(), crc)
}

/// The length and the crc that stand before a body; `None` when no body is that long.
pub(crate) fn frame_start(start: [u8; FRAME_BYTES]) -> Option<(usize, u32)> {
    let [a, b, c, d, e, f, g, h] = start;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    (1..=MAX_BODY_BYTES)
        .contains(&length)
        .then_some((length, u32::from_be_bytes([e, f, g, h])))
}

/// The crc of a frame with this body.
pub(crate) fn body_crc(body: &[u8]) -> u32 {
    frame_crc(u32::try_from(body.len()).unwrap_or(u32::MAX), body)
}

fn frame_crc(length: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_be_bytes()), body)
}

pub(crate) fn header(header: &Header) -> Vec<u8> {
    let keys = encode_key_range(&header.keys);
    let mut body = vec![HEADER];
    body.put_slice(MAGIC);
    body.put_u32(FORMAT);
    body.put_slice(&header.id);
    body.put_slice(header.cluster.0.as_bytes());
    body.put_u64(header.begun.0);
    put_bytes(&mut body, &keys);
    body.put_u32(u32::try_from(header.progress.len()).unwrap_or(u32::MAX));
    for (stream, progress) in &header.progress {
        let Position { epoch, lsn } = progress.position;
        for number in [stream.0, epoch.0, lsn.0, progress.last_commit.0] {
            body.put_u64(number);
        }
    }
    body
}

/// Gathers versions, in their order, for one frame.
#[derive(Debug)]
pub(crate) struct Versions {
    body: Vec<u8>,
    pub count: u64,
}

impl Default for Versions {
    fn default() -> Self {
        Self {
            body: vec![VERSIONS],
            count: 0,
        }
    }
}

impl Versions {
    pub fn push(&mut self, write: &VersionWrite) {
        put_bytes(&mut self.body, write.key.as_ref());
        self.body.put_u64(write.timestamp.0);
        match &write.value {
            None => self.body.put_u8(TOMBSTONE),
            Some(value) => {
                self.body.put_u8(VALUE);
                put_bytes(&mut self.body, value);
            }
        }
        self.count += 1;
    }

    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

pub(crate) fn footer(footer: &Footer) -> Vec<u8> {
    let mut body = vec![FOOTER];
    body.put_u64(footer.frames);
    body.put_u64(footer.versions);
    body.put_u64(footer.horizon.0);
    body.put_u32(footer.sums);
    body
}

/// What a body says. Its crc was looked at before; a checkpoint of another version passes that too.
pub(crate) fn decode(body: &Bytes) -> Result<Body, Unreadable> {
    let mut rest = Rest(body.clone());
    let decoded = match rest.u8() {
        Some(HEADER) => return decode_header(rest),
        Some(VERSIONS) => decode_versions(&mut rest).map(Body::Versions),
        Some(FOOTER) => decode_footer(&mut rest).map(Body::Footer),
        _ => None,
    };
    decoded
        .filter(|_| rest.0.is_empty())
        .ok_or(Unreadable::Corrupt("a frame cannot be read"))
}

fn decode_header(mut rest: Rest) -> Result<Body, Unreadable> {
    if rest.array::<8>().as_ref() != Some(MAGIC) {
        return Err(Unreadable::Corrupt("it is no checkpoint"));
    }
    match rest.u32() {
        Some(FORMAT) => {}
        Some(other) => return Err(Unreadable::Format(other)),
        None => return Err(Unreadable::Corrupt("its header is cut")),
    }
    decode_fields(&mut rest)
        .filter(|_| rest.0.is_empty())
        .map(Body::Header)
        .ok_or(Unreadable::Corrupt("its header cannot be read"))
}

fn decode_fields(rest: &mut Rest) -> Option<Header> {
    let id = rest.array()?;
    let cluster = ClusterId::from_slice(&rest.array::<16>()?)?;
    let begun = Timestamp(rest.u64()?);
    let keys = decode_key_range(&rest.bytes(4 * MAX_KEY_BYTES)?)?;
    let mut progress = BTreeMap::new();
    for _ in 0..rest.u32()? {
        let stream = StreamId(rest.u64()?);
        let position = Position::new(rest.u64()?, rest.u64()?);
        let last_commit = Timestamp(rest.u64()?);
        let before = progress.insert(
            stream,
            Progress {
                position,
                last_commit,
            },
        );
        if before.is_some() {
            return None;
        }
    }
    Some(Header {
        id,
        cluster,
        keys,
        begun,
        progress,
    })
}

fn decode_versions(rest: &mut Rest) -> Option<Vec<VersionWrite>> {
    let mut versions = Vec::new();
    while !rest.0.is_empty() {
        let key = Key(rest.bytes(MAX_KEY_BYTES)?);
        let timestamp = Timestamp(rest.u64()?);
        let value = match rest.u8()? {
            TOMBSTONE => None,
            VALUE => Some(rest.bytes(MAX_VALUE_BYTES)?),
            _ => return None,
        };
        versions.push(VersionWrite {
            key,
            timestamp,
            value,
        });
    }
    Some(versions)
}

fn decode_footer(rest: &mut Rest) -> Option<Footer> {
    Some(Footer {
        frames: rest.u64()?,
        versions: rest.u64()?,
        horizon: Timestamp(rest.u64()?),
        sums: rest.u32()?,
    })
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    body.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    body.put_slice(bytes);
}

/// What was not read yet.
struct Rest(Bytes);

impl Rest {
    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.as_ref().try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self, most: usize) -> Option<Bytes> {
        let length = usize::try_from(self.u32()?).ok()?;
        (length <= most).then(|| self.take(length))?
    }
}
