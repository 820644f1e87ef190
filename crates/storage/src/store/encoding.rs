//! Keys and values as they stand in the tree, ordered as the store wants them: by key, then the newest first.
//!
//! ```text
//! version   0x01  escaped key  0x00 0x01  !timestamp (8 bytes, big-endian)
//! meta      0x00  'f'                       format version
//!           0x00  'c'                       cluster
//!           0x00  'h'                       horizon
//!           0x00  'i'                       there while the store is filled, and incomplete
//!           0x00  'p'  stream (8 bytes)     progress
//! escaped   0x00 -> 0x00 0xff
//! ```
//! The terminator sorts below every byte that can follow in a longer key, so no key's versions lie among
//! another's.

use bytes::Bytes;
use meridian_types::{Key, KeyRange, Position, StreamId, Timestamp};

use super::Progress;

/// What this version of Meridian writes and reads.
pub(super) const FORMAT: u32 = 1;
pub(super) const FORMAT_KEY: &[u8] = &[META, b'f'];
pub(super) const CLUSTER_KEY: &[u8] = &[META, b'c'];
pub(super) const KEYS_KEY: &[u8] = &[META, b'k'];
/// There while the store is being filled.
pub(super) const INCOMPLETE_KEY: &[u8] = &[META, b'i'];
pub(super) const HORIZON_KEY: &[u8] = &[META, b'h'];
pub(super) const PROGRESS_PREFIX: &[u8] = &[META, b'p'];

/// The keys that a store holds: the length of the first key, the first key, and 1 and the end if there is one, or 0.
pub(crate) fn key_range(keys: &KeyRange) -> Vec<u8> {
    let start = keys.start.as_ref();
    let length = u32::try_from(start.len()).unwrap_or(u32::MAX);
    let mut encoded = length.to_be_bytes().to_vec();
    encoded.extend_from_slice(start);
    match &keys.end {
        Some(end) => {
            encoded.push(1);
            encoded.extend_from_slice(end.as_ref());
        }
        None => encoded.push(0),
    }
    encoded
}

/// What [`key_range`] has written; `None` when it is not that.
pub(crate) fn decode_key_range(encoded: &[u8]) -> Option<KeyRange> {
    let (length, rest) = encoded.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (start, rest) = rest.split_at_checked(length)?;
    let end = match rest.split_first()? {
        (0, []) => None,
        (1, end) => Some(end.into()),
        _ => return None,
    };
    let start = start.into();
    Some(KeyRange { start, end })
}

const META: u8 = 0;
const VERSIONS: u8 = 1;
const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: [u8; 2] = [0, 1];
const TIMESTAMP_BYTES: usize = 8;
const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;

/// The place before every version.
pub(super) const FIRST_VERSION: &[u8] = &[VERSIONS];
/// The place after every version.
pub(super) const AFTER_VERSIONS: &[u8] = &[VERSIONS + 1];

/// What all versions of a key begin with. Also a bound: it sorts before all versions of the key, and after
/// all of every smaller key.
pub(super) fn prefix(key: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(1 + key.len() + TERMINATOR.len() + TIMESTAMP_BYTES);
    encoded.push(VERSIONS);
    for byte in key {
        encoded.push(*byte);
        if *byte == 0 {
            encoded.push(ESCAPED_ZERO);
        }
    }
    encoded.extend_from_slice(&TERMINATOR);
    encoded
}

/// The place of one version.
pub(super) fn version(key: &[u8], timestamp: Timestamp) -> Vec<u8> {
    at(&prefix(key), timestamp)
}

/// The place of one version of the key with this prefix.
pub(super) fn at(prefix: &[u8], timestamp: Timestamp) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(prefix.len() + TIMESTAMP_BYTES);
    encoded.extend_from_slice(prefix);
    encoded.extend_from_slice(&(!timestamp.0).to_be_bytes());
    encoded
}

/// The prefix and the timestamp; `None` when this is not a version's place.
pub(super) fn split(encoded: &[u8]) -> Option<(&[u8], Timestamp)> {
    let (prefix, inverted) = encoded.split_last_chunk::<TIMESTAMP_BYTES>()?;
    Some((prefix, Timestamp(!u64::from_be_bytes(*inverted))))
}

/// The key of a prefix; `None` when it is none.
pub(super) fn key(prefix: &[u8]) -> Option<Key> {
    let escaped = prefix.strip_prefix(&[VERSIONS])?.strip_suffix(&TERMINATOR)?;
    if !escaped.contains(&0) {
        return Some(Key(Bytes::copy_from_slice(escaped)));
    }
    let mut key = Vec::with_capacity(escaped.len());
    let mut rest = escaped.iter();
    while let Some(byte) = rest.next() {
        key.push(*byte);
        if *byte == 0 && *rest.next()? != ESCAPED_ZERO {
            return None;
        }
    }
    Some(Key(key.into()))
}

/// A value or a tombstone as it stands in the tree.
pub(super) fn value(value: Option<&Bytes>) -> Vec<u8> {
    match value {
        None => vec![TOMBSTONE],
        Some(value) => {
            let mut encoded = Vec::with_capacity(1 + value.len());
            encoded.push(VALUE);
            encoded.extend_from_slice(value);
            encoded
        }
    }
}

/// Whether it is a tombstone; `None` when it is neither that nor a value.
pub(super) fn is_tombstone(encoded: &[u8]) -> Option<bool> {
    match *encoded.first()? {
        TOMBSTONE => Some(true),
        VALUE => Some(false),
        _ => None,
    }
}

pub(super) fn progress_key(stream: StreamId) -> Vec<u8> {
    [PROGRESS_PREFIX, &stream.0.to_be_bytes()].concat()
}

/// Before and after the progress of all streams.
pub(super) fn progress_bounds() -> (Vec<u8>, Vec<u8>) {
    (PROGRESS_PREFIX.to_vec(), vec![META, b'p' + 1])
}

pub(super) fn progress_stream(key: &[u8]) -> Option<StreamId> {
    let stream = key.strip_prefix(PROGRESS_PREFIX)?;
    Some(StreamId(number(stream)?))
}

pub(super) fn progress_value(progress: &Progress) -> Vec<u8> {
    let Progress {
        position,
        last_commit,
    } = progress;
    [position.epoch.0, position.lsn.0, last_commit.0]
        .iter()
        .flat_map(|n| n.to_be_bytes())
        .collect()
}

pub(super) fn progress(value: &[u8]) -> Option<Progress> {
    if value.len() != 3 * TIMESTAMP_BYTES {
        return None;
    }
    Some(Progress {
        position: Position::new(number(value.get(..8)?)?, number(value.get(8..16)?)?),
        last_commit: Timestamp(number(value.get(16..)?)?),
    })
}

/// Eight big-endian bytes.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        // Few distinct bytes, so that prefixes and escapes collide often.
        prop::collection::vec(prop::sample::select(vec![0, 1, 2, 0xfe, 0xff]), 0..6)
    }

    proptest! {
        #[test]
        fn order_is_by_key_then_newest_first(
            a in any_key(), b in any_key(), s: u64, t: u64,
        ) {
            let expected = a.cmp(&b).then(t.cmp(&s));
            prop_assert_eq!(version(&a, Timestamp(s)).cmp(&version(&b, Timestamp(t))), expected);
        }

        #[test]
        fn keys_and_timestamps_come_back(a in any_key(), s: u64) {
            let encoded = version(&a, Timestamp(s));
            let (prefix, timestamp) = split(&encoded).unwrap();
            prop_assert_eq!(key(prefix).unwrap().0, a);
            prop_assert_eq!(timestamp, Timestamp(s));
        }
    }
}
