//! Results on standard output, as a table, as JSON (one object per line) or as CSV.
//!
//! The JSON and CSV forms are stable. Bytes that are not UTF-8 become `key_base64` and `value_base64` in JSON;
//! in CSV the column `base64` names the columns that are encoded. Timestamps are strings in JSON: they do not
//! fit into the numbers that most readers have.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use meridian_client::{Committed, Outcome, Row};
use serde_json::{Map, Value, json};

use crate::text::{escape, token_text};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people; bytes that cannot be shown are escaped.
    Table,
    /// One object per line.
    Json,
    /// With a header.
    Csv,
}

/// Rows that are aligned with one another; more are aligned anew, so that memory stays bounded.
const TABLE_CHUNK: usize = 1_000;

/// Prints results.
pub struct Printer {
    format: Format,
    out: Box<dyn Write + Send>,
}

impl Printer {
    /// Prints to `out`.
    pub fn new(format: Format, out: Box<dyn Write + Send>) -> Self {
        Self { format, out }
    }

    /// How it prints.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether an acknowledgement is a result (JSON) or a remark.
    pub fn prints_acknowledgements(&self) -> bool {
        self.format == Format::Json
    }

    /// Begins to print rows.
    pub fn rows(&mut self, keys_only: bool) -> Rows<'_> {
        Rows {
            printer: self,
            keys_only,
            begun: false,
            chunk: Vec::new(),
        }
    }

    /// A key that has no value.
    pub fn nothing(&mut self, key: &[u8]) -> io::Result<()> {
        match self.format {
            Format::Json => {
                let mut object = Map::new();
                put_bytes(&mut object, "key", key);
                object.insert("value".to_owned(), Value::Null);
                self.object(object)
            }
            Format::Csv | Format::Table => self.rows(false).finish(),
        }
    }

    /// One number with its name.
    pub fn number(&mut self, name: &str, number: u64) -> io::Result<()> {
        match self.format {
            Format::Table => writeln!(self.out, "{number}")?,
            Format::Json => writeln!(self.out, "{}", json!({ name: number }))?,
            Format::Csv => writeln!(self.out, "{name}\n{number}")?,
        }
        self.out.flush()
    }

    /// A commit. In the other formats this is a remark and not a result.
    pub fn committed(&mut self, committed: &Committed) -> io::Result<()> {
        let line = json!({
            "committed": true,
            "timestamp": committed.timestamp.to_string(),
            "token": token_text(&committed.token),
        });
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }

    /// What became of a transaction.
    pub fn outcome(&mut self, outcome: Outcome) -> io::Result<()> {
        let (name, timestamp) = match outcome {
            Outcome::Committed(timestamp) => ("committed", timestamp.to_string()),
            Outcome::Aborted => ("aborted", String::new()),
            Outcome::Forgotten => ("forgotten", String::new()),
        };
        match self.format {
            Format::Table if timestamp.is_empty() => writeln!(self.out, "{name}")?,
            Format::Table => writeln!(self.out, "{name} at {timestamp}")?,
            Format::Json if timestamp.is_empty() => writeln!(self.out, "{}", json!({ "outcome": name }))?,
            Format::Json => {
                writeln!(self.out, "{}", json!({ "outcome": name, "timestamp": timestamp }))?;
            }
            Format::Csv => writeln!(self.out, "outcome,timestamp\n{name},{timestamp}")?,
        }
        self.out.flush()
    }

    /// Plain lines, for people.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Named columns: a table with a title, or CSV. The title is left out where there is only one.
    pub fn columns(&mut self, title: Option<&str>, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        if self.format == Format::Csv {
            let mut csv = csv::Writer::from_writer(&mut self.out);
            csv.write_record(header)?;
            for row in rows {
                csv.write_record(row)?;
            }
            return csv.flush();
        }
        if let Some(title) = title {
            writeln!(self.out, "{title}")?;
        }
        write_table(&mut self.out, Some(header), rows)?;
        self.out.flush()
    }

    /// One JSON object.
    pub fn object(&mut self, object: Map<String, Value>) -> io::Result<()> {
        writeln!(self.out, "{}", Value::Object(object))?;
        self.out.flush()
    }
}

fn write_table(out: &mut dyn Write, header: Option<&[&str]>, rows: &[Vec<String>]) -> io::Result<()> {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if let Some(header) = header {
        table.set_header(header.iter().copied());
    }
    for row in rows {
        table.add_row(row);
    }
    // The preset puts a blank before each line.
    for line in table.lines() {
        writeln!(out, "{}", line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
    }
    Ok(())
}

/// Rows on their way to the output.
pub struct Rows<'a> {
    printer: &'a mut Printer,
    keys_only: bool,
    begun: bool,
    chunk: Vec<Vec<String>>,
}

impl Rows<'_> {
    /// Prints one row.
    pub fn row(&mut self, row: &Row) -> io::Result<()> {
        let value = (!self.keys_only).then_some(row.value.as_ref());
        match self.printer.format {
            Format::Table => {
                let mut cells = vec![escape(row.key.as_ref())];
                cells.extend(value.map(escape));
                self.chunk.push(cells);
                if self.chunk.len() < TABLE_CHUNK {
                    return Ok(());
                }
                self.flush_table()
            }
            Format::Json => write_json(&mut self.printer.out, row.key.as_ref(), value),
            Format::Csv => {
                self.csv_header()?;
                write_csv(&mut self.printer.out, row.key.as_ref(), value)
            }
        }
    }

    /// Prints what is left. Rows that are not finished may be missing.
    pub fn finish(mut self) -> io::Result<()> {
        match self.printer.format {
            Format::Table if !self.chunk.is_empty() => self.flush_table()?,
            Format::Csv => self.csv_header()?,
            Format::Table | Format::Json => {}
        }
        self.printer.out.flush()
    }

    fn flush_table(&mut self) -> io::Result<()> {
        let full = ["key", "value"];
        let header = if self.keys_only { &full[..1] } else { &full };
        let rows = std::mem::take(&mut self.chunk);
        let begun = std::mem::replace(&mut self.begun, true);
        write_table(&mut self.printer.out, (!begun).then_some(header), &rows)
    }

    fn csv_header(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        write_csv_header(&mut self.printer.out, self.keys_only)
    }
}

/// The header of rows in CSV.
pub fn write_csv_header(out: &mut dyn Write, keys_only: bool) -> io::Result<()> {
    writeln!(
        out,
        "{}",
        if keys_only {
            "key,base64"
        } else {
            "key,value,base64"
        }
    )
}

/// One row in CSV.
pub fn write_csv(out: &mut dyn Write, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
    let mut encoded = Vec::new();
    let mut fields = Vec::new();
    for (name, bytes) in [("key", Some(key)), ("value", value)] {
        let Some(bytes) = bytes else { continue };
        match std::str::from_utf8(bytes) {
            Ok(text) => fields.push(text.to_owned()),
            Err(_) => {
                encoded.push(name);
                fields.push(STANDARD.encode(bytes));
            }
        }
    }
    fields.push(encoded.join(" "));
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    csv.write_record(&fields)?;
    csv.flush()
}

/// One row as a JSON object.
pub fn write_json(out: &mut dyn Write, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
    let mut object = Map::new();
    put_bytes(&mut object, "key", key);
    if let Some(value) = value {
        put_bytes(&mut object, "value", value);
    }
    writeln!(out, "{}", Value::Object(object))
}

/// A member that holds bytes: text, or else base64 under another name.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}
