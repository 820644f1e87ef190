//! The log of a simulation: lines with simulated time and node, hashed, and written out if somebody wants to read.
//!
//! Two runs of a seed are the same run when their hashes are: every log line of the services at level debug and
//! every byte on every wire goes in. So does what services log of the protocol, which is kept as well, as events.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufWriter, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use meridian_protocol::events::TARGET;
use meridian_types::Timestamp;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, filter};

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
        let layer = Lines(self.clone()).with_filter(filter);
        tracing::subscriber::set_default(Registry::default().with(layer))
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
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

/// The name of the node whose turn it is, kept with turmoil's span.
struct NodeSpan(Arc<str>);

struct Lines(Trace);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        if attributes.metadata().name() != "node" {
            return;
        }
        let mut name = Name::default();
        attributes.record(&mut name);
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(NodeSpan(name.0.into()));
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let metadata = event.metadata();
        let mut node = None;
        if let Some(scope) = ctx.event_scope(event) {
            for span in scope {
                if let Some(NodeSpan(name)) = span.extensions().get::<NodeSpan>() {
                    node = Some(name.clone());
                }
            }
        }
        let node = node.unwrap_or_else(|| "-".into());
        if metadata.target() == TARGET {
            let mut fields = Fields::default();
            event.record(&mut fields);
            return self.0.event(&node, &fields);
        }
        let target = metadata.target().trim_start_matches("meridian_");
        let mut line = format!("{node:<13} {:<5} {target}:", metadata.level());
        event.record(&mut Text(&mut line));
        self.0.line(*metadata.level(), &line);
    }
}

#[derive(Default)]
struct Name(String);

impl Visit for Name {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "name" {
            self.0 = format!("{value:?}").trim_matches('"').to_owned();
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
