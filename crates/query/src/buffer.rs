//! A transaction's own writes, and the way back to its savepoints.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_types::{Key, KeyRange, limits};

/// What an entry costs beside its key and value, about.
pub(crate) const ENTRY_OVERHEAD: usize = 96;
/// Longest name of a savepoint, in bytes.
const MAX_SAVEPOINT_NAME: usize = 256;
/// Most bytes that savepoints may keep of overwritten values.
const MAX_UNDO_BYTES: usize = 4 * limits::MAX_TXN_BYTES;
/// Payloads up to this size are copied out of the message that brought them, which would otherwise be kept
/// whole for as long as the transaction is open.
const COPY_BELOW: usize = 16 << 10;

/// Refuses a key that is empty or too long.
pub(crate) fn check_key(key: &[u8]) -> KvResult<()> {
    if key.is_empty() {
        return Err(KvError::invalid("a key has at least 1 byte"));
    }
    check_limit("key length in bytes", key.len(), limits::MAX_KEY_BYTES)
}

/// Refuses bounds of a range that are longer than a bound can usefully be (a key and the byte of its successor).
pub(crate) fn check_bound(bound: &[u8]) -> KvResult<()> {
    check_limit(
        "length of a range's bound in bytes",
        bound.len(),
        limits::MAX_KEY_BYTES + 1,
    )
}

/// Refuses `got` when it is more than `allowed`, naming the limit.
pub(crate) fn check_limit(limit: &str, got: usize, allowed: usize) -> KvResult<()> {
    if got <= allowed {
        return Ok(());
    }
    Err(KvError::LimitExceeded {
        limit: limit.to_owned(),
        allowed: allowed as u64,
        got: got as u64,
    })
}

/// The bytes without the message around them.
pub(crate) fn compact(bytes: Bytes) -> Bytes {
    if bytes.len() <= COPY_BELOW {
        Bytes::copy_from_slice(&bytes)
    } else {
        bytes
    }
}

/// A buffered write: the new value, or `None` for a deletion.
pub(crate) type Buffered = Option<Bytes>;

/// The writes of one transaction, and what its savepoints need to undo.
///
/// Invariants: `bytes` is the sum of the lengths of keys and values in `writes`; a savepoint's `undo` holds
/// what each key had when it was first written after that savepoint and before the next one.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    writes: BTreeMap<Key, Buffered>,
    bytes: usize,
    savepoints: Vec<Savepoint>,
    undo_entries: usize,
    undo_bytes: usize,
}

#[derive(Debug)]
struct Savepoint {
    name: String,
    /// What the key had before; `None`: it was not written.
    undo: BTreeMap<Key, Option<Buffered>>,
}

fn size(key: &Key, value: &Buffered) -> usize {
    key.0.len() + value.as_ref().map_or(0, Bytes::len)
}

impl WriteBuffer {
    /// Refuses what no transaction may write.
    pub(crate) fn check(key: &[u8], value: Option<&Bytes>) -> KvResult<()> {
        check_key(key)?;
        let length = value.map_or(0, Bytes::len);
        check_limit("value length in bytes", length, limits::MAX_VALUE_BYTES)
    }

    /// Buffers a write; unchanged when a limit of the transaction is hit.
    pub(crate) fn write(&mut self, key: Key, value: Buffered) -> KvResult<()> {
        let old = self.writes.get(&key);
        let old_size = old.map_or(0, |old| size(&key, old));
        let bytes = self.bytes - old_size + size(&key, &value);
        let keys = self.writes.len() + usize::from(old.is_none());
        check_limit("keys written by the transaction", keys, limits::MAX_TXN_KEYS)?;
        check_limit("bytes written by the transaction", bytes, limits::MAX_TXN_BYTES)?;
        self.keep_for_undo(&key)?;
        self.bytes = bytes;
        self.writes.insert(key, value);
        Ok(())
    }

    fn keep_for_undo(&mut self, key: &Key) -> KvResult<()> {
        let Some(savepoint) = self.savepoints.last_mut() else {
            return Ok(());
        };
        if savepoint.undo.contains_key(key) {
            return Ok(());
        }
        let before = self.writes.get(key).cloned();
        let kept = self.undo_bytes + key.0.len() + before.as_ref().map_or(0, |old| size(key, old));
        check_limit(
            "bytes kept for the transaction's savepoints",
            kept,
            MAX_UNDO_BYTES,
        )?;
        self.undo_bytes = kept;
        self.undo_entries += 1;
        savepoint.undo.insert(key.clone(), before);
        Ok(())
    }

    /// Opens a savepoint. One of the same name that is open already stays, hidden by this one.
    pub(crate) fn savepoint(&mut self, name: String) -> KvResult<()> {
        check_limit(
            "length of a savepoint's name in bytes",
            name.len(),
            MAX_SAVEPOINT_NAME,
        )?;
        check_limit(
            "open savepoints",
            self.savepoints.len() + 1,
            limits::MAX_SAVEPOINTS,
        )?;
        self.savepoints.push(Savepoint {
            name,
            undo: BTreeMap::new(),
        });
        Ok(())
    }

    /// Undoes every write since the newest savepoint of this name, which stays open; later ones are gone.
    pub(crate) fn rollback_to(&mut self, name: &str) -> KvResult<()> {
        let found = self
            .savepoints
            .iter()
            .rposition(|savepoint| savepoint.name == name);
        let Some(index) = found else {
            return Err(KvError::invalid(format!("no savepoint is named {name:?}")));
        };
        let undone = self.savepoints.split_off(index);
        for savepoint in undone.into_iter().rev() {
            for (key, before) in savepoint.undo {
                self.undo_entries -= 1;
                self.undo_bytes -= key.0.len() + before.as_ref().map_or(0, |old| size(&key, old));
                self.restore(key, before);
            }
        }
        self.savepoint(name.to_owned())
    }

    /// Gives up the newest savepoint: what it would have undone, the one before it undoes.
    pub(crate) fn release_newest(&mut self) {
        let Some(released) = self.savepoints.pop() else {
            return;
        };
        for (key, before) in released.undo {
            let kept = key.0.len() + before.as_ref().map_or(0, |old| size(&key, old));
            let older = self.savepoints.last_mut().map(|savepoint| &mut savepoint.undo);
            match older.map(|undo| undo.entry(key)) {
                Some(std::collections::btree_map::Entry::Vacant(entry)) => {
                    entry.insert(before);
                }
                _ => {
                    self.undo_entries -= 1;
                    self.undo_bytes -= kept;
                }
            }
        }
    }

    fn restore(&mut self, key: Key, before: Option<Buffered>) {
        if let Some(current) = self.writes.get(&key) {
            self.bytes -= size(&key, current);
        }
        match before {
            Some(value) => {
                self.bytes += size(&key, &value);
                self.writes.insert(key, value);
            }
            None => {
                self.writes.remove(&key);
            }
        }
    }

    /// What the transaction itself wrote to the key, if it did.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Buffered> {
        self.writes.get(key)
    }

    /// Its own writes in the range, in order. The payloads are shared, not copied.
    pub(crate) fn slice(&self, range: &KeyRange) -> Vec<(Key, Buffered)> {
        self.writes
            .range::<[u8], _>(range.bounds())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Memory held, about: entries and what savepoints keep.
    pub(crate) fn held_bytes(&self) -> usize {
        let entries = self.writes.len() + self.undo_entries + self.savepoints.len();
        self.bytes + self.undo_bytes + entries * ENTRY_OVERHEAD
    }

    /// The most that one more write can add to [`Self::held_bytes`].
    pub(crate) fn growth(&self, key: &Key, value: &Buffered) -> usize {
        let undo = if self.savepoints.is_empty() {
            0
        } else {
            let before = self.writes.get(key).map_or(0, |old| size(key, old));
            before + key.0.len() + ENTRY_OVERHEAD
        };
        size(key, value) + ENTRY_OVERHEAD + undo
    }

    /// Whether nothing was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The writes, in order of their keys.
    pub(crate) fn into_writes(self) -> BTreeMap<Key, Buffered> {
        self.writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u8, Option<u8>),
        Savepoint(u8),
        RollbackTo(u8),
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u8, any::<Option<u8>>()).prop_map(|(key, value)| Step::Write(key, value)),
            1 => (0..3u8).prop_map(Step::Savepoint),
            1 => (0..3u8).prop_map(Step::RollbackTo),
            1 => Just(Step::Release),
        ]
    }

    fn key(key: u8) -> Key {
        Key::from(&[b'k', key][..])
    }

    proptest! {
        /// Against a second version that keeps a whole copy at each savepoint.
        #[test]
        fn savepoints_restore_exactly(steps in prop::collection::vec(step(), 0..80)) {
            let mut buffer = WriteBuffer::default();
            let mut plain: BTreeMap<Key, Buffered> = BTreeMap::new();
            let mut copies: Vec<(u8, BTreeMap<Key, Buffered>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(k, v) => {
                        let value = v.map(|v| Bytes::from(vec![v; usize::from(v)]));
                        buffer.write(key(k), value.clone()).unwrap();
                        plain.insert(key(k), value);
                    }
                    Step::Savepoint(name) => {
                        buffer.savepoint(name.to_string()).unwrap();
                        copies.push((name, plain.clone()));
                    }
                    Step::RollbackTo(name) => {
                        let found = copies.iter().rposition(|(open, _)| *open == name);
                        prop_assert_eq!(buffer.rollback_to(&name.to_string()).is_ok(), found.is_some());
                        if let Some(found) = found {
                            copies.truncate(found + 1);
                            plain = copies[found].1.clone();
                        }
                    }
                    Step::Release => {
                        buffer.release_newest();
                        copies.pop();
                    }
                }
                prop_assert_eq!(&buffer.writes, &plain);
                prop_assert_eq!(buffer.bytes, plain.iter().map(|(k, v)| size(k, v)).sum::<usize>());
                prop_assert_eq!(buffer.savepoints.len(), copies.len());
                let undo: usize = buffer.savepoints.iter().map(|savepoint| savepoint.undo.len()).sum();
                prop_assert_eq!(buffer.undo_entries, undo);
                let kept = buffer.savepoints.iter().flat_map(|savepoint| &savepoint.undo);
                let kept = kept.map(|(k, v)| k.0.len() + v.as_ref().map_or(0, |v| size(k, v)));
                prop_assert_eq!(buffer.undo_bytes, kept.sum::<usize>());
            }
        }
    }

    #[test]
    fn limits_hold_at_the_limit_and_not_one_above() {
        let value = |length| Some(Bytes::from(vec![0; length]));
        assert!(WriteBuffer::check(b"", None).is_err());
        for (length, fits) in [(1, true), (4_095, true), (4_096, true), (4_097, false)] {
            assert_eq!(
                WriteBuffer::check(&vec![1; length], None).is_ok(),
                fits,
                "key of {length}"
            );
        }
        let mebibyte = 1 << 20;
        for (length, fits) in [(mebibyte - 1, true), (mebibyte, true), (mebibyte + 1, false)] {
            assert_eq!(
                WriteBuffer::check(b"k", value(length).as_ref()).is_ok(),
                fits,
                "value of {length}"
            );
        }

        let mut full = WriteBuffer::default();
        for n in 0..9 {
            full.write(Key::from(&[n][..]), value(mebibyte)).unwrap();
        }
        let left = limits::MAX_TXN_BYTES - 9 * (mebibyte + 1) - 1;
        let error = full.write(Key::from(&[99][..]), value(left + 1)).unwrap_err();
        assert_eq!(
            error,
            KvError::LimitExceeded {
                limit: "bytes written by the transaction".to_owned(),
                allowed: limits::MAX_TXN_BYTES as u64,
                got: limits::MAX_TXN_BYTES as u64 + 1,
            }
        );
        full.write(Key::from(&[99][..]), value(left)).unwrap();
        assert_eq!(full.bytes, limits::MAX_TXN_BYTES);

        let mut many = WriteBuffer::default();
        for n in 0..limits::MAX_TXN_KEYS {
            many.write(Key::from(format!("{n}").as_str()), None).unwrap();
        }
        assert!(many.write(Key::from("one more"), None).is_err());
        many.write(Key::from("17"), value(3)).unwrap();
    }
}
