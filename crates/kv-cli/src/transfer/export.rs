//! `export`: one snapshot, streamed. A transaction may last five minutes and an export longer, so it is read in
//! several read-only transactions at the same timestamp, for as long as the cluster keeps old versions.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian_client::{
    Client, Error, Execute, Key, KeyRange, KvError, Row, ScanOptions, Timestamp, TxnOptions,
};
use meridian_types::limits;
use tokio::time::Instant;

use crate::args::Export;
use crate::failure::{Code, Failure};
use crate::output::{Format, write_csv, write_csv_header, write_json};
use crate::shell::remark;
use crate::transfer::progress::Progress;
use crate::transfer::{Layout, is_standard};

/// A transaction is replaced well before it is too old.
const TXN_AGE: Duration = Duration::from_secs(limits::MAX_TXN_AGE.as_secs() / 2);
/// Failures in a row, without a row in between, after which it gives up.
const PATIENCE: u32 = 5;

/// Exports to a file.
pub async fn export(client: &Client, args: &Export, format: Option<Format>) -> Result<(), Failure> {
    let layout = Layout::of(&args.file, format)?;
    let range = KeyRange::prefix(args.prefix.as_bytes().into());
    let mut sink = Sink::open(&args.file, layout)?;
    let mut progress = Progress::new("exported", None);
    let result = copy(client, range, &mut sink, &mut progress).await;
    progress.finish();
    match result {
        Ok(at) => {
            sink.finish()?;
            remark(&format!("{}, as of {at}", progress.summary()));
            Ok(())
        }
        Err(failure) => Err(failure.advise(sink.given_up())),
    }
}

/// Copies the range as it is now; returns the snapshot's timestamp.
async fn copy(
    client: &Client,
    mut range: KeyRange,
    sink: &mut Sink,
    progress: &mut Progress,
) -> Result<Timestamp, Failure> {
    let at = present(client, &range).await?;
    let mut failures = 0;
    loop {
        let before = progress.records();
        let error = match copy_some(client, at, &mut range, sink, progress).await {
            Ok(true) => return Ok(at),
            Ok(false) => continue,
            Err(Stopped::Output(failure)) => return Err(failure),
            Err(Stopped::Cluster(error)) => error,
        };
        if let Error::Kv(KvError::SnapshotTooOld { .. }) = &error {
            return Err(Failure::new(
                Code::Failed,
                format!(
                    "the snapshot at {at} is older than what the cluster keeps: the export took too long"
                ),
            )
            .advise("export in parts with --prefix, or have the cluster keep old versions for longer"));
        }
        failures = if progress.records() > before {
            1
        } else {
            failures + 1
        };
        if !error.is_retryable() || failures > PATIENCE {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(50) * (1 << failures)).await;
    }
}

/// A snapshot that holds everything that was committed before now.
async fn present(client: &Client, range: &KeyRange) -> Result<Timestamp, Failure> {
    let key = match range.start.0.is_empty() {
        true => Key::from_static(&[0]),
        false => range.start.clone(),
    };
    let read = client.execute(&Execute::new().get(key)).await?;
    Ok(read.committed.token.start)
}

enum Stopped {
    Cluster(Error),
    Output(Failure),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Cluster(error)
    }
}

/// Copies until the end (true), or until the transaction is getting old. `range` is what is left.
async fn copy_some(
    client: &Client,
    at: Timestamp,
    range: &mut KeyRange,
    sink: &mut Sink,
    progress: &mut Progress,
) -> Result<bool, Stopped> {
    let began = Instant::now();
    let txn = client.begin(TxnOptions::at(at)).await?;
    let mut scan = txn.scan(range.clone(), ScanOptions::default()).await?;
    while began.elapsed() < TXN_AGE {
        let rows = scan.next_page().await?;
        let Some(last) = rows.last() else {
            return Ok(true);
        };
        let mut bytes = 0;
        for row in &rows {
            sink.write(row).map_err(|error| Stopped::Output(error.into()))?;
            bytes += (row.key.0.len() + row.value.len()) as u64;
        }
        range.start = last.key.successor();
        progress.add(rows.len() as u64, bytes, sink.bytes);
    }
    Ok(false)
}

/// Where records go. A file gets its name only when it is complete.
struct Sink {
    layout: Layout,
    out: BufWriter<Box<dyn Write + Send>>,
    bytes: u64,
    line: Vec<u8>,
    file: Option<Partial>,
}

struct Partial {
    handle: File,
    path: PathBuf,
    target: PathBuf,
}

impl Sink {
    fn open(target: &Path, layout: Layout) -> Result<Self, Failure> {
        let (out, file): (Box<dyn Write + Send>, _) = if is_standard(target) {
            (Box::new(std::io::stdout()), None)
        } else {
            let mut name = OsString::from(target.as_os_str());
            name.push(".partial");
            let path = PathBuf::from(name);
            let named = |error| Failure::new(Code::Failed, format!("{}: {error}", path.display()));
            let handle = File::create(&path).map_err(named)?;
            let written = handle.try_clone().map_err(named)?;
            let target = target.to_owned();
            (Box::new(written), Some(Partial { handle, path, target }))
        };
        let mut sink = Self {
            layout,
            out: BufWriter::with_capacity(256 << 10, out),
            bytes: 0,
            line: Vec::new(),
            file,
        };
        if layout == Layout::Csv {
            write_csv_header(&mut sink.out, false)?;
        }
        Ok(sink)
    }

    fn write(&mut self, row: &Row) -> std::io::Result<()> {
        self.line.clear();
        let (key, value) = (row.key.as_ref(), Some(row.value.as_ref()));
        match self.layout {
            Layout::JsonLines => write_json(&mut self.line, key, value)?,
            Layout::Csv => write_csv(&mut self.line, key, value)?,
        }
        self.bytes += self.line.len() as u64;
        self.out.write_all(&self.line)
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.out.flush()?;
        let Some(file) = &self.file else {
            return Ok(());
        };
        let moved = file
            .handle
            .sync_all()
            .and_then(|()| std::fs::rename(&file.path, &file.target));
        moved.map_err(|error| Failure::new(Code::Failed, format!("{}: {error}", file.target.display())))
    }

    fn given_up(mut self) -> String {
        // It is incomplete anyway.
        let _ = self.out.flush();
        match &self.file {
            Some(file) => format!("what there is lies in {}; it is incomplete", file.path.display()),
            None => "the output is incomplete".to_owned(),
        }
    }
}
