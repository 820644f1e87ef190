//! The fields of one event, as they were logged.

use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};

use meridian_types::{Epoch, Key, KeyRange, Lsn, Position, StreamId, Timestamp, TxnId};
use tracing::field::{Field, Visit};
use uuid::Uuid;

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value {
    Number(u128),
    Flag(bool),
    Text(String),
    Bytes(Vec<u8>),
}

/// Names and values, each name once.
#[derive(Clone, Debug, Default, Hash)]
pub struct Fields {
    values: Vec<(&'static str, Value)>,
}

impl Fields {
    /// Goes into the hash of the whole run.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        self.hash(hasher);
    }

    fn find<T>(&self, name: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T, String> {
        let found = self.values.iter().find(|(field, _)| *field == name);
        let (_, value) = found.ok_or_else(|| format!("no field {name} in {self}"))?;
        read(value).ok_or_else(|| format!("field {name} is {value:?} in {self}"))
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<u64, String> {
        self.find(name, |value| match value {
            Value::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A number of 128 bits.
    pub fn wide(&self, name: &str) -> Result<u128, String> {
        self.find(name, |value| match value {
            Value::Number(number) => Some(*number),
            _ => None,
        })
    }

    /// Yes or no.
    pub fn flag(&self, name: &str) -> Result<bool, String> {
        self.find(name, |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A word.
    pub fn text(&self, name: &str) -> Result<&str, String> {
        let found = self.values.iter().find(|(field, _)| *field == name);
        match found {
            Some((_, Value::Text(text))) => Ok(text),
            _ => Err(format!("no text {name} in {self}")),
        }
    }

    /// A key.
    pub fn key(&self, name: &str) -> Result<Key, String> {
        self.find(name, |value| match value {
            Value::Bytes(bytes) => Some(Key::from(bytes.as_slice())),
            _ => None,
        })
    }

    /// A key that need not be there.
    pub fn key_if_any(&self, name: &str) -> Result<Option<Key>, String> {
        if self.values.iter().any(|(field, _)| *field == name) {
            self.key(name).map(Some)
        } else {
            Ok(None)
        }
    }

    /// A timestamp.
    pub fn timestamp(&self, name: &str) -> Result<Timestamp, String> {
        self.number(name).map(Timestamp)
    }

    /// An epoch.
    pub fn epoch(&self, name: &str) -> Result<Epoch, String> {
        self.number(name).map(Epoch)
    }

    /// The field `stream`.
    pub fn stream(&self) -> Result<StreamId, String> {
        self.number("stream").map(StreamId)
    }

    /// The field `txn`.
    pub fn txn(&self) -> Result<TxnId, String> {
        self.wide("txn").map(|txn| TxnId(Uuid::from_u128(txn)))
    }

    /// The fields `epoch` and `lsn`.
    pub fn position(&self) -> Result<Position, String> {
        Ok(Position::new(self.number("epoch")?, self.number("lsn")?))
    }

    /// A list of keys.
    pub fn keys(&self, name: &str) -> Result<Vec<Key>, String> {
        let text = self.text(name)?;
        let quoted = quoted(text).ok_or_else(|| format!("{name} is no list of keys: {text}"))?;
        Ok(quoted.into_iter().map(|(key, _)| key).collect())
    }

    /// A list of key ranges.
    pub fn ranges(&self, name: &str) -> Result<Vec<KeyRange>, String> {
        let text = self.text(name)?;
        let wrong = || format!("{name} is no list of key ranges: {text}");
        let mut ranges = Vec::new();
        for range in text.split("KeyRange {").skip(1) {
            let mut bounds = quoted(range).ok_or_else(wrong)?.into_iter();
            let (start, rest) = bounds.next().ok_or_else(wrong)?;
            let end = bounds.next().map(|(end, _)| end);
            if end.is_none() && !rest.contains("end: None") {
                return Err(wrong());
            }
            ranges.push(KeyRange { start, end });
        }
        Ok(ranges)
    }

    /// A list of streams; none if there is no such field.
    pub fn streams_if_any(&self, name: &str) -> Result<Vec<StreamId>, String> {
        if !self.values.iter().any(|(field, _)| *field == name) {
            return Ok(Vec::new());
        }
        let numbers = numbers(name, self.text(name)?)?;
        Ok(numbers.into_iter().map(StreamId).collect())
    }

    /// What a closure depends on.
    pub fn after(&self) -> Result<Vec<(StreamId, Lsn)>, String> {
        let text = self.text("after")?;
        let numbers = numbers("after", text)?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(format!("after is {text}, which is no list of pairs"));
        }
        Ok(pairs
            .iter()
            .map(|[stream, lsn]| (StreamId(*stream), Lsn(*lsn)))
            .collect())
    }
}

/// All numbers in a text.
fn numbers(name: &str, text: &str) -> Result<Vec<u64>, String> {
    let digits = text
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty());
    let numbers: Result<_, _> = digits.map(str::parse).collect();
    numbers.map_err(|error| format!("{name} is {text}: {error}"))
}

/// The strings in quotes, as bytes, each with the text that follows it. `None` when one does not end.
fn quoted(text: &str) -> Option<Vec<(Key, &str)>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, inside)) = rest.split_once('"') {
        let mut bytes = Vec::new();
        let mut chars = inside.bytes().enumerate();
        let end = loop {
            let (place, byte) = chars.next()?;
            match byte {
                b'"' => break place,
                b'\\' => bytes.push(unescape(&mut chars)?),
                byte => bytes.push(byte),
            }
        };
        rest = inside.get(end + 1..)?;
        found.push((Key::from(bytes), rest));
    }
    Some(found)
}

/// See [`u8::escape_ascii`].
fn unescape(chars: &mut impl Iterator<Item = (usize, u8)>) -> Option<u8> {
    let mut next = || chars.next().map(|(_, byte)| byte);
    match next()? {
        b't' => Some(b'\t'),
        b'r' => Some(b'\r'),
        b'n' => Some(b'\n'),
        b'x' => {
            let digits = [next()?, next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
        }
        byte @ (b'\'' | b'"' | b'\\') => Some(byte),
        _ => None,
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(text, "{value:?}");
        self.values.push((field.name(), Value::Text(text)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.values.push((field.name(), Value::Number(value.into())));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.values.push((field.name(), Value::Number(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.values.push((field.name(), Value::Flag(value)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.values.push((field.name(), Value::Text(value.to_owned())));
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        self.values.push((field.name(), Value::Bytes(value.to_vec())));
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.values.iter().map(|(name, value)| (name, value)))
            .finish()
    }
}
