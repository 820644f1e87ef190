//! Trims the log every few seconds, beside its writer (decision 28).
//!
//! ```text
//! consider every stream ── choose segments ── copy what is still needed to BASE.new, sync ── rename to BASE, sync ── move the index
//!      ── remove the segments
//! ```
//! Nothing here touches the segment that is written to. What fails before the rename is given up and tried again; after it the node must
//! not go on, for it is not known which of the two base files a restart would find.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use meridian_metrics::{Counter, names};
use meridian_rpc::Env;
use meridian_types::{LogBase, StreamId};
use tokio::sync::oneshot;

use crate::config::Writer;
use crate::files::{Files, is_full};
use crate::journal::{Journal, Plan};
use crate::stream::Moved;
use crate::trim::Segments;
use crate::wal::format::{Body, Header, Owner};
use crate::wal::{BASE_FILE, NewBase, segment_header, segment_name, segment_number};

/// Entries that are copied at once: what they take in memory is bounded by this many of the largest ones of a message.
const COPIED_AT_ONCE: usize = 256;
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Trims one node's log.
pub struct Trimmer {
    journal: Arc<Journal>,
    files: Arc<dyn Files>,
    owner: Owner,
    segments: Counter,
    bytes: Counter,
    _lock: Arc<dyn Send + Sync>,
}

/// A base file that is durable under its temporary name.
struct Copied {
    file: NewBase,
    last: u32,
    streams: BTreeMap<StreamId, (LogBase, Vec<Moved>)>,
}

/// Why a pass came to nothing.
enum Fault {
    /// There is nothing to do, or something else came first.
    Later,
    /// There is no room for a base file; tried again.
    Full(String),
    /// The node must not go on.
    Fatal(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match is_full(&error) {
            true => Self::Full(error.to_string()),
            // As for the writer: what the disk holds is not known any more.
            false => Self::Fatal(format!("the log cannot be trimmed: {error}")),
        }
    }
}

impl Trimmer {
    /// A trimmer of this node's log, on its disk.
    pub fn new(
        journal: Arc<Journal>,
        files: Arc<dyn Files>,
        owner: Owner,
        lock: Arc<dyn Send + Sync>,
    ) -> Self {
        Self {
            journal,
            files,
            owner,
            segments: names::JOURNAL_TRIMMED_SEGMENTS.counter(&[]),
            bytes: names::JOURNAL_TRIMMED_BYTES.counter(&[]),
            _lock: lock,
        }
    }

    /// Trims again and again until the node stops.
    pub async fn run(self, env: Env) {
        let stopped = self.journal.stopped().clone();
        let min_age = Duration::from_millis(self.journal.config().trim_min_age_ms);
        let pause = (min_age / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        let trimmer = Arc::new(self);
        loop {
            tokio::select! {
                biased;
                () = stopped.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            match trimmer.journal.config().writer {
                Writer::Task => trimmer.pass_in(&env).await,
                Writer::Thread => trimmer.pass_on_thread().await,
            }
        }
    }

    /// A pass on a thread of its own: reads and syncs take their time there.
    async fn pass_on_thread(self: &Arc<Self>) {
        let (done, ended) = oneshot::channel();
        let trimmer = self.clone();
        let body = move || {
            trimmer.pass();
            let _ = done.send(());
        };
        let started = std::thread::Builder::new()
            .name("journal-trimmer".to_owned())
            .spawn(body);
        match started {
            // One that ends without a word panicked: the next pass begins anew.
            Ok(_) => _ = ended.await,
            Err(error) => tracing::warn!(%error, "cannot start a thread that trims the log"),
        }
    }

    /// A pass in the calling task, where the world may step in between its steps.
    async fn pass_in(&self, env: &Env) {
        let copied = match self.copy() {
            Ok(copied) => copied,
            Err(fault) => return self.note(fault),
        };
        tokio::time::sleep(self.files.delay()).await;
        env.reached("journal: base written").await;
        if let Err(fault) = self.publish(&copied) {
            return self.note(fault);
        }
        env.reached("journal: base published").await;
        self.remove(copied.last);
    }

    fn pass(&self) {
        let published = self.copy().and_then(|copied| {
            self.publish(&copied)?;
            Ok(copied.last)
        });
        match published {
            Ok(last) => self.remove(last),
            Err(fault) => self.note(fault),
        }
    }

    fn note(&self, fault: Fault) {
        match fault {
            Fault::Later => {}
            Fault::Full(what) => tracing::warn!(node = %self.owner.node, what, "the log is not trimmed now"),
            Fault::Fatal(what) => self.journal.fail(&what),
        }
    }

    /// Chooses what may go, and makes a base file of what is still needed of it.
    fn copy(&self) -> Result<Copied, Fault> {
        self.check_serving()?;
        let mut segments = self.look()?;
        if segments.sizes.is_empty() {
            return Err(Fault::Later);
        }
        let config = self.journal.config();
        let horizon = self
            .journal
            .old_before(Duration::from_millis(config.trim_min_age_ms));
        let ids = self.journal.stream_ids();
        let consider = |id| (id, self.journal.consider(id, horizon, &mut segments));
        let plan: Plan = ids.into_iter().map(consider).collect();
        let last = segments.choose().ok_or(Fault::Later)?;
        let next = segment_header(&*self.files, u64::from(last) + 1)?;
        let header = Header {
            owner: self.owner.clone(),
            number: u64::from(last),
            ..next
        };
        let mut file = NewBase::create(self.files.clone(), &header)?;
        let streams = match self.write(&mut file, &plan, last) {
            Ok(streams) => streams,
            Err(fault) => {
                if !matches!(fault, Fault::Fatal(_)) {
                    file.discard();
                }
                return Err(fault);
            }
        };
        Ok(Copied { file, last, streams })
    }

    /// The segments before the one that is written to, and what the log takes.
    fn look(&self) -> io::Result<Segments> {
        let active = self.journal.active_segment();
        let mut segments = Segments::default();
        let mut all = 0;
        for name in self.files.list()? {
            let number = segment_number(&name).and_then(|number| u32::try_from(number).ok());
            if number.is_none() && name != BASE_FILE {
                continue;
            }
            let len = self.files.open(&name)?.len()?;
            all += len;
            match number {
                Some(number) if number < active => drop(segments.sizes.insert(number, len)),
                Some(_) => {}
                None => segments.base_bytes = len,
            }
        }
        self.journal.note_log_bytes(all);
        Ok(segments)
    }

    fn write(
        &self,
        file: &mut NewBase,
        plan: &Plan,
        last: u32,
    ) -> Result<BTreeMap<StreamId, (LogBase, Vec<Moved>)>, Fault> {
        let mut streams = BTreeMap::new();
        // Also those that began since: their promises may lie in what goes.
        for id in self.journal.stream_ids() {
            let may_go = plan.get(&id).copied().unwrap_or_default();
            let kept = self.journal.keep(id, may_go, last).ok_or(Fault::Later)?;
            if kept.base.position.lsn.0 > 0 {
                file.add(&Body::Base(id, kept.base))?;
            }
            if kept.durable.is_rebuilt {
                file.add(&Body::Rejoined(id))?;
            }
            let (epoch, owner) = kept.durable.promise;
            if epoch.0 > 0 {
                file.add(&Body::Promise(id, epoch, owner))?;
            }
            let mut moved = Vec::with_capacity(kept.entries.len());
            for part in kept.entries.chunks(COPIED_AT_ONCE) {
                let bodies = self.journal.read_back(id, part).map_err(Fault::Fatal)?;
                for ((position, from), body) in part.iter().zip(bodies) {
                    let to = file.add(&body)?;
                    moved.push(Moved {
                        lsn: position.lsn,
                        from: *from,
                        to,
                    });
                }
            }
            streams.insert(id, (kept.base, moved));
        }
        file.finish()?;
        Ok(streams)
    }

    /// A node that failed, perhaps in its writer, does not touch its disk again.
    fn check_serving(&self) -> Result<(), Fault> {
        self.journal.check_serving().map_err(|_| Fault::Later)
    }

    /// From here on the base file counts, and the segments that it stands for do not.
    fn publish(&self, copied: &Copied) -> Result<(), Fault> {
        self.check_serving()?;
        copied.file.publish().map_err(|error| {
            let file = self.files.describe(BASE_FILE);
            Fault::Fatal(format!(
                "cannot publish {file}: {error}; the node stops, because what its disk holds is not known any more"
            ))
        })?;
        for (id, (base, moved)) in &copied.streams {
            self.journal.trimmed(*id, *base, moved, copied.last);
        }
        self.journal.note_trimmed();
        Ok(())
    }

    /// Removes the segments up to `last`. What is left of them when the node stops is removed by its next start.
    fn remove(&self, last: u32) {
        if self.check_serving().is_err() {
            return;
        }
        let removed = || -> io::Result<()> {
            for name in self.files.list()? {
                if segment_number(&name).is_some_and(|number| number <= u64::from(last)) {
                    let len = self.files.open(&name)?.len()?;
                    self.files.remove(&name)?;
                    self.segments.increment(1);
                    self.bytes.increment(len);
                }
            }
            self.files.sync_dir()
        };
        self.journal.forget_segments(last);
        match removed() {
            Ok(()) => {
                tracing::info!(node = %self.owner.node, up_to = segment_name(u64::from(last)), "log trimmed")
            }
            Err(error) => self.note(error.into()),
        }
    }
}
