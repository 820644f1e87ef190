//! How far an import or export is: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::shell::remark;
use crate::text::grouped;

const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress on standard error.
pub struct Progress {
    verb: &'static str,
    bar: Option<ProgressBar>,
    began: Instant,
    last_line: Instant,
    records: u64,
    bytes: u64,
}

impl Progress {
    /// Nothing done yet, of `total_bytes` if that is known.
    pub fn new(verb: &'static str, total_bytes: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(total_bytes));
        let now = Instant::now();
        Self {
            verb,
            bar,
            began: now,
            last_line: now,
            records: 0,
            bytes: 0,
        }
    }

    /// So much more is done. `position` is the place in the input or output, in bytes.
    pub fn add(&mut self, records: u64, bytes: u64, position: u64) {
        self.records += records;
        self.bytes += bytes;
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(format!(
                    "{} records, {}/s",
                    grouped(self.records),
                    grouped(self.rate())
                ));
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                remark(&format!(
                    "{} {} records so far, {} records/s",
                    self.verb,
                    grouped(self.records),
                    grouped(self.rate())
                ));
            }
            None => {}
        }
    }

    /// Takes the bar away; the caller says how it ended.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The whole in one line.
    pub fn summary(&self) -> String {
        format!(
            "{} {} records ({:.1} MB of keys and values) in {:.1} s: {} records/s",
            self.verb,
            grouped(self.records),
            self.bytes as f64 / 1e6,
            self.began.elapsed().as_secs_f64(),
            grouped(self.rate())
        )
    }

    /// Records done.
    pub fn records(&self) -> u64 {
        self.records
    }

    fn rate(&self) -> u64 {
        (self.records as f64 / self.began.elapsed().as_secs_f64().max(1e-3)) as u64
    }
}

fn bar(total_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match total_bytes {
        Some(total) => (
            ProgressBar::new(total),
            "[{bar:30}] {percent}% {bytes}/{total_bytes}, {msg}, {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {msg}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
