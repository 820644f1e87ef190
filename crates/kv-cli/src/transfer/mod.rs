//! `import` and `export`.

mod export;
mod import;
mod progress;
mod record;

use std::path::Path;

pub use export::export;
pub use import::import;
pub use record::{Reader, Record};

use crate::failure::Failure;
use crate::output::Format;

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One JSON object per line.
    JsonLines,
    /// CSV with a header.
    Csv,
}

impl Layout {
    /// What was asked for, or else what the extension says.
    pub fn of(file: &Path, format: Option<Format>) -> Result<Self, Failure> {
        match format {
            Some(Format::Json) => Ok(Self::JsonLines),
            Some(Format::Csv) => Ok(Self::Csv),
            Some(Format::Table) => Err(Failure::usage("a file's format is json or csv")),
            None if file
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) =>
            {
                Ok(Self::Csv)
            }
            None => Ok(Self::JsonLines),
        }
    }
}

/// `-` stands for standard input or output.
fn is_standard(file: &Path) -> bool {
    file.as_os_str() == "-"
}
