//! Keys, ranges of keys, and writes.

use std::fmt;
use std::ops::Bound;

use bytes::Bytes;

/// A key: 1 to [`crate::limits::MAX_KEY_BYTES`] bytes where it names a value; also used, without
/// that limit, for the bounds of ranges. Ordered bytewise.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Bytes);

impl Key {
    /// A key that shares the given static bytes.
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }

    /// The smallest key that is greater than this one: this one followed by a zero byte.
    pub fn successor(&self) -> Self {
        let mut next = Vec::with_capacity(self.0.len() + 1);
        next.extend_from_slice(&self.0);
        next.push(0);
        Self(next.into())
    }

    /// A key as it is shown, read back: text is taken as it is, but for `\xNN` (one byte), `\n`, `\r`, `\t`, `\\`, `\'`
    /// and `\"`. `None` when an escape is none of these.
    pub fn from_escaped(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'\\' => match rest.next()? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'x' => {
                        let mut digit = || char::from(rest.next()?).to_digit(16);
                        u8::try_from(digit()? * 16 + digit()?).ok()?
                    }
                    quoted @ (b'\\' | b'\'' | b'"') => quoted,
                    _ => return None,
                },
                plain => plain,
            });
        }
        Some(bytes.into())
    }

    /// The smallest key that is greater than every key with this prefix; `None` when there is none
    /// (the prefix is empty or all 0xff).
    pub fn prefix_end(&self) -> Option<Self> {
        let mut end = self.0.to_vec();
        while let Some(last) = end.last_mut() {
            if *last < u8::MAX {
                *last += 1;
                return Some(Self(end.into()));
            }
            end.pop();
        }
        None
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Key {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl<const N: usize> From<&[u8; N]> for Key {
    fn from(bytes: &[u8; N]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The keys from `start` (included) up to `end` (not included; `None` = without end).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRange {
    /// First key.
    pub start: Key,
    /// First key after the range.
    pub end: Option<Key>,
}

impl KeyRange {
    /// Every key there is.
    pub fn all() -> Self {
        Self::default()
    }

    /// `start <= key < end`.
    pub fn new(start: Key, end: Key) -> Self {
        Self {
            start,
            end: Some(end),
        }
    }

    /// Just one key.
    pub fn point(key: Key) -> Self {
        let end = key.successor();
        Self {
            start: key,
            end: Some(end),
        }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: Key) -> Self {
        let end = prefix.prefix_end();
        Self { start: prefix, end }
    }

    /// Whether the key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_ref() && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// Whether no key lies in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether some key lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.intersection(other).is_some()
    }

    /// The keys that lie in both; `None` when there are none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let start = self.start.clone().max(other.start.clone());
        let end = match (&self.end, &other.end) {
            (Some(a), Some(b)) => Some(a.min(b).clone()),
            (one, None) => one.clone(),
            (None, one) => one.clone(),
        };
        let both = Self { start, end };
        (!both.is_empty()).then_some(both)
    }

    /// The bounds as ordered maps want them. An inverted range becomes an empty one.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let start = Bound::Included(self.start.as_ref());
        match &self.end {
            None => (start, Bound::Unbounded),
            Some(_) if self.is_empty() => (start, Bound::Excluded(self.start.as_ref())),
            Some(end) => (start, Bound::Excluded(end.as_ref())),
        }
    }
}

/// One key set to a value, or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// The new value; `None` deletes the key.
    pub value: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        let every: Vec<u8> = (0..=255).collect();
        let key = Key::from(every);
        assert_eq!(Key::from_escaped(&key.to_string()), Some(key));
        assert_eq!(Key::from_escaped("schön"), Some("schön".into()));
        for malformed in ["\\", "a\\", "\\x4", "\\xg0", "\\q"] {
            assert_eq!(Key::from_escaped(malformed), None, "{malformed}");
        }
    }
}
