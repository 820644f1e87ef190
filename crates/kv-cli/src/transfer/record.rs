//! Records in files: JSON lines and CSV.

use std::io::BufRead;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use csv::StringRecord;
use meridian_client::Key;
use meridian_types::limits;
use serde::Deserialize;

use crate::transfer::Layout;

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Which line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Reads records one by one.
pub enum Reader<R> {
    /// From JSON lines.
    JsonLines {
        /// Where from.
        input: R,
        /// The number of the line read last.
        line: u64,
    },
    /// From CSV.
    Csv {
        /// Where from.
        input: Box<csv::Reader<R>>,
        /// Where the columns are; `None` until the header was read.
        columns: Option<Columns>,
    },
}

/// Where the columns are.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    key: usize,
    value: usize,
    base64: Option<usize>,
}

/// A JSON line. Other fields are left alone.
#[derive(Deserialize)]
struct Line {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R, layout: Layout) -> Self {
        match layout {
            Layout::JsonLines => Self::JsonLines { input, line: 0 },
            Layout::Csv => Self::Csv {
                input: Box::new(csv::ReaderBuilder::new().has_headers(true).from_reader(input)),
                columns: None,
            },
        }
    }

    /// The next record; `None` at the end.
    pub fn read(&mut self) -> Result<Option<Record>, BadLine> {
        match self {
            Self::JsonLines { input, line } => next_json(input, line),
            Self::Csv { input, columns } => next_csv(input, columns),
        }
    }
}

fn next_json(input: &mut impl BufRead, line: &mut u64) -> Result<Option<Record>, BadLine> {
    let mut bytes = Vec::new();
    loop {
        *line += 1;
        bytes.clear();
        let bad = |why: String| BadLine { line: *line, why };
        let read = input
            .read_until(b'\n', &mut bytes)
            .map_err(|error| bad(error.to_string()))?;
        if read == 0 {
            return Ok(None);
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let parsed: Line = serde_json::from_slice(&bytes).map_err(|error| {
            // The error's own line is always 1: it sees one line only.
            let text = error.to_string();
            let short = text.split(" at line ").next().unwrap_or(&text);
            bad(format!("{short} (column {})", error.column()))
        })?;
        let key = one_of("key", parsed.key, parsed.key_base64).map_err(bad)?;
        let value = one_of("value", parsed.value, parsed.value_base64).map_err(bad)?;
        return record(key, value).map(Some).map_err(bad);
    }
}

fn one_of(name: &str, text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => decode(name, &base64),
        (None, None) => Err(format!("neither {name} nor {name}_base64 is there")),
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_base64 are there")),
    }
}

fn decode(name: &str, base64: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(base64)
        .map_err(|error| format!("{name} is not base64: {error}"))
}

fn record(key: Vec<u8>, value: Vec<u8>) -> Result<Record, String> {
    match key.len() {
        0 => return Err("the key is empty".to_owned()),
        bytes if bytes > limits::MAX_KEY_BYTES => {
            return Err(format!(
                "the key has {bytes} bytes, the limit is {}",
                limits::MAX_KEY_BYTES
            ));
        }
        _ => {}
    }
    if value.len() > limits::MAX_VALUE_BYTES {
        return Err(format!(
            "the value has {} bytes, the limit is {}",
            value.len(),
            limits::MAX_VALUE_BYTES
        ));
    }
    Ok(Record {
        key: Key(key.into()),
        value: value.into(),
    })
}

fn next_csv<R: BufRead>(
    input: &mut csv::Reader<R>,
    columns: &mut Option<Columns>,
) -> Result<Option<Record>, BadLine> {
    let columns = match *columns {
        Some(columns) => columns,
        None => *columns.insert(header(input)?),
    };
    let mut fields = StringRecord::new();
    let line = input.position().line();
    match input.read_record(&mut fields) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(error) => {
            let line = error.position().map_or(line, csv::Position::line);
            return Err(BadLine {
                line,
                why: error.to_string(),
            });
        }
    }
    let line = fields.position().map_or(line, csv::Position::line);
    csv_record(&fields, columns)
        .map(Some)
        .map_err(|why| BadLine { line, why })
}

fn csv_record(fields: &StringRecord, columns: Columns) -> Result<Record, String> {
    let encoded = columns.base64.and_then(|at| fields.get(at)).unwrap_or_default();
    let bytes = |name: &str, at| {
        let text = fields.get(at).ok_or_else(|| format!("there is no {name}"))?;
        match encoded.split(' ').any(|column| column == name) {
            true => decode(name, text),
            false => Ok(text.as_bytes().to_vec()),
        }
    };
    record(bytes("key", columns.key)?, bytes("value", columns.value)?)
}

fn header<R: BufRead>(input: &mut csv::Reader<R>) -> Result<Columns, BadLine> {
    let bad = |why: String| BadLine { line: 1, why };
    let names = input.headers().map_err(|error| bad(error.to_string()))?;
    let at = |name: &str| names.iter().position(|column| column.trim() == name);
    let need = |name: &str| at(name).ok_or_else(|| bad(format!("the header has no column {name}")));
    Ok(Columns {
        key: need("key")?,
        value: need("value")?,
        base64: at("base64"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{write_csv, write_csv_header, write_json};

    fn all(text: &[u8], layout: Layout) -> Result<Vec<Record>, BadLine> {
        let mut reader = Reader::new(text, layout);
        let mut records = vec![];
        while let Some(record) = reader.read()? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let every: Vec<u8> = (0..=255).collect();
        let records: Vec<Record> = [
            (&b"plain"[..], &b"value"[..]),
            (b"empty", b""),
            (b"a,b\"c\nd", b"x\r\ny,\"z\""),
            (b"\xff\x00", b"text"),
            (b"text", b"\xfe"),
            (&every, &every),
            ("ü".as_bytes(), "日本".as_bytes()),
            (b" blank ", b" "),
        ]
        .map(|(key, value)| Record {
            key: key.into(),
            value: Bytes::copy_from_slice(value),
        })
        .to_vec();
        let (mut json, mut csv) = (vec![], vec![]);
        write_csv_header(&mut csv, false).unwrap();
        for record in &records {
            write_json(&mut json, record.key.as_ref(), Some(&record.value)).unwrap();
            write_csv(&mut csv, record.key.as_ref(), Some(&record.value)).unwrap();
        }
        assert_eq!(all(&json, Layout::JsonLines).unwrap(), records);
        assert_eq!(all(&csv, Layout::Csv).unwrap(), records);
    }

    #[test]
    fn bad_lines_are_named_with_the_reason() {
        let good = "{\"key\":\"a\",\"value\":\"1\"}\n\n";
        for (line, why) in [
            ("{\"key\":\"a\"}", "neither value nor value_base64 is there"),
            ("{\"value\":\"a\"}", "neither key nor key_base64 is there"),
            ("{\"key\":\"\",\"value\":\"a\"}", "the key is empty"),
            (
                "{\"key\":\"a\",\"key_base64\":\"YQ==\",\"value\":\"a\"}",
                "both key and key_base64 are there",
            ),
            (
                "{\"key\":\"a\",\"value\":7}",
                "invalid type: integer `7`, expected a string (column 20)",
            ),
            ("not json", "expected ident (column 2)"),
        ] {
            let text = format!("{good}{line}\n{good}");
            let bad = all(text.as_bytes(), Layout::JsonLines).unwrap_err();
            assert_eq!((bad.line, bad.why.as_str()), (3, why));
        }
        let bad = all(b"key,value\na,1\nb\n", Layout::Csv).unwrap_err();
        assert_eq!(bad.line, 3);
        let bad = all(b"name,value\na,1\n", Layout::Csv).unwrap_err();
        assert_eq!((bad.line, bad.why.as_str()), (1, "the header has no column key"));
        let long = format!("{{\"key\":\"{}\",\"value\":\"\"}}", "k".repeat(4_097));
        let bad = all(long.as_bytes(), Layout::JsonLines).unwrap_err();
        assert_eq!(bad.why, "the key has 4097 bytes, the limit is 4096");
    }
}
