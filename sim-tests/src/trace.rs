//! The log of a simulation: lines with simulated time and node, hashed, and written out if somebody wants to read.
//!
//! Two runs of a seed are the same run when their hashes are: every log line of the services at level debug and
//! every byte on every wire goes in. So does what services log of the protocol, which is kept as well, as events.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufWriter, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meridian_protocol::events::TARGET;
use meridian_types::Timestamp;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter;

use crate::cluster::time::SimTime;
use crate::events::{self, Fields, Happened};

/// What a reader wants to see.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Print log lines of this level and above to stdout.
    pub print: Option<Level>,
    /// Write everything that is hashed to this file.
    pub file: Option<std::path::PathBuf>,
}

/// Takes lines.
#[derive(Clone)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
    time: SimTime,
}

struct Inner {
    hasher: DefaultHasher,
    lines: u64,
    print: Option<Level>,
    file: Option<BufWriter<File>>,
    events: Vec<Happened>,
    /// Why events could not be read.
    unreadable: Vec<String>,
}

impl Trace {
    /// An empty log.
    pub fn new(options: &Options, time: SimTime) -> std::io::Result<Self> {
        let file = options.file.as_ref().map(File::create).transpose()?;
        let inner = Inner {
            hasher: DefaultHasher::new(),
            lines: 0,
            print: options.print,
            file: file.map(BufWriter::new),
            events: Vec::new(),
            unreadable: Vec::new(),
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            time,
        })
    }

    /// Makes this thread's log lines come here as long as the guard lives.
    pub fn install(&self) -> tracing::subscriber::DefaultGuard {
        let services = [
            "meridian_journal",
            "meridian_adjudicator",
            "meridian_storage",
            "meridian_query",
            "meridian_router",
            "meridian_client",
            "meridian_rpc",
            "meridian",
            "sim_tests",
        ];
        let wanted = services.map(|target| (target, Level::DEBUG));
        // The span that names the node.
        let filter = filter::Targets::new()
            .with_targets(wanted)
            .with_target("turmoil", Level::INFO)
            .with_target(TARGET, Level::TRACE);
        tracing::subscriber::set_default(Lines {
            trace: self.clone(),
            filter,
            spans: Mutex::default(),
        })
    }

    /// Bytes that went into a wire.
    pub fn wire(&self, from: &str, to: &str, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.hasher.write(bytes);
        if inner.file.is_some() {
            let mut hasher = DefaultHasher::new();
            hasher.write(bytes);
            let digest = hasher.finish();
            let line = format!(
                "{} {from} -> {to}: {} bytes {digest:016x}",
                self.time,
                bytes.len()
            );
            inner.write(&line);
        }
    }

    /// The hash of everything so far, and how many log lines there were.
    pub fn digest(&self) -> (u64, u64) {
        let mut inner = self.lock();
        if let Some(file) = &mut inner.file {
            // The hash is the result; the file is for a reader.
            let _ = file.flush();
        }
        (inner.hasher.finish(), inner.lines)
    }

    /// What services logged of the protocol so far, and why some of it could not be read.
    pub fn take_events(&self) -> (Vec<Happened>, Vec<String>) {
        let mut inner = self.lock();
        (
            std::mem::take(&mut inner.events),
            std::mem::take(&mut inner.unreadable),
        )
    }

    fn event(&self, node: &Arc<str>, fields: &Fields) {
        let mut inner = self.lock();
        fields.hash_into(&mut inner.hasher);
        let event = match events::read(fields) {
            Ok(event) => event,
            Err(why) => return inner.unreadable.push(format!("{node}: {why}")),
        };
        let happened = Happened {
            node: node.clone(),
            at: self.time.elapsed(),
            now: Timestamp(self.time.epoch_ns()),
            event,
        };
        let is_printed = inner.print.is_some_and(|wanted| wanted >= Level::DEBUG);
        if is_printed || inner.file.is_some() {
            let line = happened.to_string();
            inner.print(&line, is_printed);
            inner.write(&line);
        }
        inner.events.push(happened);
    }

    fn line(&self, level: Level, line: &str) {
        let line = format!("{} {line}", self.time);
        let mut inner = self.lock();
        inner.lines += 1;
        inner.hasher.write(line.as_bytes());
        let is_printed = inner.print.is_some_and(|wanted| level <= wanted);
        inner.print(&line, is_printed);
        inner.write(&line);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn print(&self, line: &str, is_printed: bool) {
        if is_printed {
            // A reader who has seen enough closes the pipe.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    fn write(&mut self, line: &str) {
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{line}");
        }
    }
}

/// Knows whose turn it is from the spans named `node`, turmoil's and the cluster's, of which there is one for each node in every step of
/// the simulation: too many for the registry of `tracing_subscriber`, which cost a tenth of a run.
struct Lines {
    trace: Trace,
    filter: filter::Targets,
    spans: Mutex<Spans>,
}

#[derive(Default)]
struct Spans {
    /// Nodes in the order of their first turns. A span's id is its node's place, plus two.
    nodes: Vec<Arc<str>>,
    entered: Vec<u64>,
}

/// The id of every span that names no node.
const NAMELESS: u64 = 1;

impl Spans {
    fn id(&mut self, name: &str) -> u64 {
        let known = self.nodes.iter().position(|node| **node == *name);
        let place = known.unwrap_or_else(|| {
            self.nodes.push(name.into());
            self.nodes.len() - 1
        });
        place as u64 + NAMELESS + 1
    }

    /// The outermost span that names a node does.
    fn node(&self) -> Arc<str> {
        let id = self.entered.iter().find(|id| **id > NAMELESS);
        let place = id.and_then(|id| usize::try_from(id - NAMELESS - 1).ok());
        let node = place.and_then(|place| self.nodes.get(place));
        node.cloned().unwrap_or_else(|| "-".into())
    }
}

impl Lines {
    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.would_enable(metadata.target(), metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut name = NodeName(None, self);
        if attributes.metadata().name() == "node" {
            attributes.record(&mut name);
        }
        Id::from_u64(name.0.unwrap_or(NAMELESS))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, span: &Id) {
        self.spans().entered.push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let mut spans = self.spans();
        let innermost = spans.entered.iter().rposition(|id| *id == span.into_u64());
        innermost.map(|place| spans.entered.remove(place));
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let node = self.spans().node();
        if metadata.target() == TARGET {
            let mut fields = Fields::default();
            event.record(&mut fields);
            return self.trace.event(&node, &fields);
        }
        let target = metadata.target().trim_start_matches("meridian_");
        let mut line = format!("{node:<13} {:<5} {target}:", metadata.level());
        event.record(&mut Text(&mut line));
        self.trace.line(*metadata.level(), &line);
    }
}

/// The id for the node that a span names.
struct NodeName<'a>(Option<u64>, &'a Lines);

impl Visit for NodeName<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            self.0 = Some(self.1.spans().id(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "name" {
            self.0 = Some(self.1.spans().id(format!("{value:?}").trim_matches('"')));
        }
    }
}

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

thread_local! {
    // A panic inside of a task would otherwise vanish with the task.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes every panic of this process' simulation thread instead of printing it.
pub fn watch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let what = info.to_string();
        let noted = PANICS.try_with(|panics| {
            if let Ok(mut panics) = panics.try_borrow_mut() {
                panics.push(what.clone());
            }
        });
        if noted.is_err() {
            eprintln!("{what}");
        }
    }));
}

/// The panics noted so far.
pub fn panics() -> Vec<String> {
    PANICS.with_borrow_mut(std::mem::take)
}
