//! Which snapshot a transaction reads, fixed once (R1), and how old it is.

use std::time::Duration;

use meridian_protocol::events;
use meridian_rpc::error::KvResult;
use meridian_rpc::{KvError, v1};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{KeyRange, Timestamp};
use tokio::time::Instant;

use super::Txn;
use crate::begin::Snapshot;
use crate::processor::Processor;
use crate::trace::Span;

impl Txn {
    /// The snapshot, fixed by the first caller (R1), who wants to read these keys.
    pub(crate) async fn start(
        &self,
        processor: &Processor,
        keys: &KeyRange,
        deadline: Instant,
        span: &Span,
    ) -> KvResult<Timestamp> {
        let asked = Instant::now();
        let choose = || self.choose_start(processor, keys, deadline);
        if is_broken(Rule::StartFixed) {
            return choose().await;
        }
        if let Some(start) = self.start.get() {
            return Ok(*start);
        }
        match tokio::time::timeout_at(deadline, self.start.get_or_try_init(choose)).await {
            Ok(start) => {
                span.step(v1::hop::Kind::Snapshot, asked);
                start.copied()
            }
            Err(_) => Err(KvError::DeadlineExceeded {
                waiting_for: "the clock to reach the snapshot asked for".to_owned(),
            }),
        }
    }

    /// R1: `now.latest`, or for a read-only transaction what it asked for. Never a timestamp that the clock has
    /// not reached: a `min_start` ahead of it is waited for.
    async fn choose_start(
        &self,
        processor: &Processor,
        keys: &KeyRange,
        deadline: Instant,
    ) -> KvResult<Timestamp> {
        let clock = &*processor.env.clock;
        let min_start = self.options.min_start;
        let now = loop {
            let now = match is_broken(Rule::StartLatest) {
                true => clock.now().earliest,
                false => clock.now().latest,
            };
            if now >= min_start {
                break now;
            }
            // A bound on one sleep, so that a clock that jumps is noticed.
            tokio::time::sleep(min_start.since(now).min(Duration::from_secs(1))).await;
        };
        match self.options.snapshot {
            // Checked by the clock as well: this machine may have slept, and its timers with it.
            Snapshot::Present if now.since(self.begun_at) > processor.config.max_age() => {
                Err(KvError::Aborted {
                    why: format!("it began {:?} ago; begin again", now.since(self.begun_at)),
                })
            }
            Snapshot::Present => Ok(self.log_started(now, true)),
            Snapshot::At(at) => Ok(self.log_started(at, false)),
            Snapshot::NotOlderThan(staleness) => {
                let oldest = now.saturating_sub(staleness).max(min_start);
                // What is closed already can be read without waiting, in a region that is cut off too: everywhere, so that
                // later reads need not wait either, or if some range was closed too long ago, where it reads now. If
                // nobody says so, the oldest allowed will do.
                let mut closed = Timestamp::ZERO;
                for keys in [&KeyRange::all(), keys] {
                    if closed < oldest {
                        closed = processor.storage.closed(keys, deadline).await.unwrap_or(oldest);
                    }
                }
                let _ = self.closed.set(closed);
                Ok(self.log_started(closed.clamp(oldest, now), false))
            }
        }
    }

    /// How old what it reads is, if it asked for the past.
    pub(crate) fn snapshot(&self, processor: &Processor) -> Option<v1::Snapshot> {
        let start = *self
            .start
            .get()
            .filter(|_| self.options.snapshot != Snapshot::Present)?;
        let age = processor.env.clock.now().latest.since(start);
        Some(v1::Snapshot {
            timestamp: start.0,
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Says how old an answer could be had, when one as fresh as was asked for did not come.
    pub(crate) fn too_fresh(&self, error: KvError) -> KvError {
        let (Some(start), Some(closed)) = (self.start.get(), self.closed.get()) else {
            return error;
        };
        if closed >= start {
            return error;
        }
        let older = format!(
            "what this region can tell by itself is older than that by {:?}",
            start.since(*closed)
        );
        match error {
            KvError::DeadlineExceeded { waiting_for } => KvError::DeadlineExceeded {
                waiting_for: format!("{waiting_for}; {older}"),
            },
            KvError::Unavailable { what, retry_after } => KvError::Unavailable {
                what: format!("{what}; {older}"),
                retry_after,
            },
            other => other,
        }
    }

    fn log_started(&self, start: Timestamp, present: bool) -> Timestamp {
        let txn = self.id.0.as_u128();
        tracing::trace!(target: events::TARGET, event = "started", txn, start = start.0, present);
        start
    }
}
