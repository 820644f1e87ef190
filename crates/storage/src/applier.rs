//! Follows the journal and applies it: the only task that writes versions and that raises `closed`.
//!
//! ```text
//! feed ── entries, closures ──> Intake ── batch ──> store ── then ──> closed (wakes reads)
//! closer ── owners' answers ──────^
//! ```
//! The feed of the nearest journal node is followed; when it breaks, falls silent although there is more, or does not get on with
//! what reads wait for while others do, another one's, from the positions that were applied, until a nearer one has come as far:
//! [`crate::feeds`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use meridian_protocol::events;
use meridian_rpc::internal::journal_client::JournalClient;
use meridian_rpc::internal::{Closure, FeedBatch, FeedRequest, FeedStart};
use meridian_rpc::{Env, KvError};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{NodeName, RangeMap, StreamId, limits};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Status, Streaming};

use crate::error::{FeedFault, StoreError};
use crate::feeds::Feeds;
use crate::fill::{FillError, Filler, Trimmed};
use crate::intake::{Gathered, Intake};
use crate::shared::{Figures, Shared};
use crate::store::AppliedBatch;

/// How long a journal node may take to open a feed.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Most messages that are gathered into one batch, however small.
const MAX_MESSAGES: usize = 64;

pub(crate) struct Applier {
    shared: Arc<Shared>,
    env: Env,
    journals: Vec<NodeName>,
    intake: Intake,
    /// From the closer: what owners have answered.
    answers: mpsc::Receiver<Closure>,
    /// The streams that were followed since the start, or were known then.
    known: BTreeSet<StreamId>,
    rng: StdRng,
}

/// Why a feed was left.
enum Left {
    /// For another one; whether it had said anything.
    Broken { why: String, was_useful: bool },
    /// The range map names other streams now.
    MapChanged,
    /// For another journal node: a nearer one that has come as far, or one that knows more. Its place in the list.
    Changed(usize),
    /// The journal node does not have the entries that follow.
    Trimmed(Trimmed),
    /// The node cannot go on.
    Failed(String),
}

impl From<StoreError> for Left {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Applier {
    pub fn new(
        shared: Arc<Shared>,
        env: Env,
        journals: Vec<NodeName>,
        answers: mpsc::Receiver<Closure>,
    ) -> Result<Self, StoreError> {
        let rng = env.rng();
        let mut applier = Self {
            intake: Intake::new(shared.config.keys.clone(), BTreeMap::new()),
            shared,
            env,
            journals,
            answers,
            known: BTreeSet::new(),
            rng,
        };
        applier.begin()?;
        Ok(applier)
    }

    /// Goes on from what the store holds.
    fn begin(&mut self) -> Result<(), StoreError> {
        let progress = self.shared.store.progress()?;
        self.known = streams(&self.shared.owners.map()).into_iter().collect();
        for stream in &self.known {
            let at = progress.get(stream).copied().unwrap_or_default().position;
            tracing::trace!(
                target: events::TARGET, event = "restored", stream = stream.0, epoch = at.epoch.0, lsn = at.lsn.0
            );
        }
        self.intake = Intake::new(self.shared.config.keys.clone(), progress);
        Ok(())
    }

    fn filler(&self) -> Filler {
        Filler::new(self.shared.clone(), self.env.clone())
    }

    async fn fill_at_start(&mut self) -> Result<(), FillError> {
        if self.filler().at_start().await? {
            self.begin()?;
        }
        Ok(())
    }

    /// Fills the store. After something was answered the node has to be started again instead.
    async fn fill(&mut self, trimmed: Trimmed) -> Result<(), String> {
        if self.intake.has_closed() {
            return Err(format!(
                "the journal was trimmed up to {} in stream {} while this node followed it from {}: start the node again, it is then \
                 filled from a checkpoint",
                trimmed.base,
                trimmed.stream,
                self.intake.lsn(trimmed.stream)
            ));
        }
        let filled = self.filler().on_trimmed(trimmed).await;
        filled.map_err(|error| error.to_string())?;
        self.begin().map_err(|error| error.to_string())
    }

    /// Runs until shutdown or until the node cannot go on.
    pub async fn run(mut self) {
        let shutdown = self.shared.shutdown.clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            why = self.follow_all() => self.shared.fail(why),
        }
        self.shared.figures.feed_connected.store(false, Ordering::Relaxed);
    }

    /// Follows one journal node after the other; returns why the node cannot go on.
    async fn follow_all(&mut self) -> String {
        if let Err(error) = self.fill_at_start().await {
            return error.to_string();
        }
        let mut failures = 0_u32;
        let mut place = 0;
        loop {
            let Some(journal) = self.journals.get(place).cloned() else {
                return "no journal node is configured".to_owned();
            };
            // When none of them is of use, one that is being rebuilt is better than nothing.
            let is_choosy = usize::try_from(failures).is_ok_and(|failed| failed < self.journals.len());
            let left = if is_choosy && self.feeds().is_being_rebuilt(&journal).await {
                broken("it is being rebuilt", false)
            } else {
                self.follow(place, &journal).await
            };
            self.shared.figures.feed_connected.store(false, Ordering::Relaxed);
            self.shared.follow(None);
            match left {
                Left::Failed(why) => return why,
                Left::MapChanged => continue,
                Left::Trimmed(trimmed) => {
                    if let Err(why) = self.fill(trimmed).await {
                        return why;
                    }
                    continue;
                }
                Left::Changed(other) => {
                    place = other;
                    continue;
                }
                Left::Broken { why, was_useful } => {
                    failures = if was_useful { 0 } else { failures.saturating_add(1) };
                    tracing::warn!(node = %self.shared.node, %journal, why, "feed left for another one");
                }
            }
            sleep(self.backoff(failures)).await;
            place = (place + 1) % self.journals.len();
        }
    }

    /// Doubles for every round in which no journal node was of use; between half and all of it, at random.
    fn backoff(&mut self, failures: u32) -> Duration {
        let config = &self.shared.config;
        let rounds = failures / u32::try_from(self.journals.len()).unwrap_or(u32::MAX).max(1);
        let ceiling = config
            .feed_backoff_ms
            .saturating_mul(1 << rounds.min(16))
            .min(config.feed_backoff_max_ms);
        Duration::from_millis(ceiling).mul_f64(self.rng.random_range(0.5..=1.0))
    }

    async fn open(&self, journal: &NodeName, map: &RangeMap) -> Result<Streaming<FeedBatch>, String> {
        let mut client = JournalClient::new(self.env.network.transport(journal))
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        let request = FeedRequest {
            subscriber: self.shared.node.to_string(),
            streams: streams(map)
                .into_iter()
                .map(|stream| FeedStart {
                    stream: stream.0,
                    after_lsn: self.intake.lsn(stream).0,
                })
                .collect(),
        };
        match timeout(OPEN_TIMEOUT, client.feed(request)).await {
            Ok(Ok(feed)) => Ok(feed.into_inner()),
            Ok(Err(status)) => Err(describe(&status)),
            Err(_) => Err(format!("did not open the feed in {OPEN_TIMEOUT:?}")),
        }
    }

    async fn follow(&mut self, place: usize, journal: &NodeName) -> Left {
        let map = self.shared.owners.map();
        for stream in streams(&map) {
            if self.known.insert(stream) {
                let lsn = self.intake.lsn(stream).0;
                tracing::trace!(target: events::TARGET, event = "followed", stream = stream.0, lsn);
            }
        }
        let mut feed = match self.open(journal, &map).await {
            Ok(feed) => feed,
            Err(why) => {
                return Left::Broken {
                    why,
                    was_useful: false,
                };
            }
        };
        Figures::add(&self.shared.figures.feeds_opened, 1);
        self.shared.figures.feed_connected.store(true, Ordering::Relaxed);
        self.shared.forget_announced();
        self.shared.follow(Some(journal.clone()));
        let pause = Duration::from_millis(self.shared.config.feed_return_ms);
        let pause = pause.mul_f64(self.rng.random_range(0.5..=1.0));
        let feeds = self.feeds();
        let mut nearer = feeds.clone().nearer(place, pause).boxed();
        let mut ahead = feeds.ahead(place).boxed();
        tracing::info!(node = %self.shared.node, %journal, "following the feed");
        let quiet = Duration::from_millis(self.shared.config.feed_quiet_ms);
        let mut heard = Instant::now();
        // Answers of owners do not make a feed any less silent.
        let mut silent_at = heard + quiet;
        let mut was_useful = false;
        loop {
            let next = tokio::select! {
                biased;
                next = timeout_at(silent_at, feed.next()) => next,
                Some(answer) = self.answers.recv() => {
                    self.intake.offer(answer);
                    if let Err(error) = self.apply_gathered().await {
                        return error.into();
                    }
                    continue;
                }
                nearer = &mut nearer => return Left::Changed(nearer),
                other = &mut ahead => {
                    tracing::warn!(node = %self.shared.node, %journal, "another journal node knows more: its feed is followed");
                    return Left::Changed(other);
                }
            };
            if streams(&self.shared.owners.map()) != streams(&map) {
                return Left::MapChanged;
            }
            let batch = match next {
                Err(_) if self.shared.is_behind() => {
                    let why = format!("silent for {:?} although there is more", heard.elapsed());
                    return Left::Broken { why, was_useful };
                }
                Err(_) => {
                    silent_at = Instant::now() + quiet;
                    continue;
                }
                Ok(None) => return broken("the feed ended", was_useful),
                Ok(Some(Err(status))) => return broken(&describe(&status), was_useful),
                Ok(Some(Ok(batch))) => batch,
            };
            heard = Instant::now();
            silent_at = heard + quiet;
            was_useful |= !batch.events.is_empty();
            if let Err(left) = self.take(batch, &mut feed, was_useful).await {
                return left;
            }
            // One apply may take milliseconds; a long backlog must not keep this thread from its other tasks.
            tokio::task::yield_now().await;
        }
    }

    fn feeds(&self) -> Feeds {
        Feeds::new(
            self.shared.clone(),
            self.env.network.clone(),
            self.journals.clone(),
        )
    }

    /// Applies what was gathered, together with what owners have answered by now: a feed that is never silent must not keep that
    /// waiting.
    async fn apply_gathered(&mut self) -> Result<(), StoreError> {
        while let Ok(answer) = self.answers.try_recv() {
            self.intake.offer(answer);
        }
        let gathered = self.intake.drain();
        self.apply(gathered).await
    }

    /// Takes one message, and what else has arrived by now up to the batch's size; then applies all of it at
    /// once.
    async fn take(
        &mut self,
        first: FeedBatch,
        feed: &mut Streaming<FeedBatch>,
        was_useful: bool,
    ) -> Result<(), Left> {
        let map = self.shared.owners.map();
        let mut next = Some(Ok(first));
        let mut fault = None;
        let mut messages = 1;
        while let Some(message) = next.take() {
            match message {
                Ok(batch) => {
                    let taken = batch
                        .events
                        .into_iter()
                        .try_for_each(|event| self.intake.take(event, &map));
                    if let Err(error) = taken {
                        fault = Some(match error {
                            FeedFault::Broken(_) => broken(&error.to_string(), was_useful),
                            FeedFault::Violation(_) => Left::Failed(error.to_string()),
                            FeedFault::Trimmed { stream, base } => Left::Trimmed(Trimmed { stream, base }),
                        });
                        break;
                    }
                }
                Err(status) => {
                    fault = Some(broken(&describe(&status), was_useful));
                    break;
                }
            }
            if messages < MAX_MESSAGES && self.intake.bytes() < self.shared.config.apply_batch_bytes {
                messages += 1;
                next = feed.next().now_or_never().flatten();
            }
        }
        // What was taken before a fault is in order and stands; after a violation nothing may be answered any
        // more.
        if !matches!(fault, Some(Left::Failed(_))) {
            self.apply_gathered().await?;
        }
        fault.map_or(Ok(()), Err)
    }

    async fn apply(&self, gathered: Gathered) -> Result<(), StoreError> {
        if !gathered.batch.is_empty() {
            let began = Instant::now();
            if is_broken(Rule::AtomicApply) {
                let progress = gathered.batch.progress.clone();
                self.shared.store.apply(&AppliedBatch {
                    progress,
                    ..AppliedBatch::default()
                })?;
            }
            self.shared.store.apply(&gathered.batch)?;
            for (stream, progress) in &gathered.batch.progress {
                self.shared.note_applied(*stream, progress.position.lsn);
            }
            let figures = &self.shared.figures;
            Figures::add(&figures.entries_applied, gathered.entries);
            Figures::add(&figures.versions_applied, gathered.batch.versions.len() as u64);
            figures.times.apply.record(began.elapsed());
            self.env.reached("storage: applied").await;
        }
        if !gathered.closures.is_empty() {
            self.shared.closed.send_if_modified(|closed| {
                let mut rose = false;
                for (range, x) in gathered.closures {
                    rose |= closed.close(range, x);
                }
                rose
            });
        }
        Ok(())
    }
}

fn broken(why: &str, was_useful: bool) -> Left {
    Left::Broken {
        why: why.to_owned(),
        was_useful,
    }
}

pub(crate) fn streams(map: &RangeMap) -> Vec<StreamId> {
    map.streams().into_iter().collect()
}

fn describe(status: &Status) -> String {
    KvError::from_status(status).map_or_else(|| status.to_string(), |error| error.to_string())
}
