//! When checkpoints are written, and by what.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_rpc::Env;
use meridian_types::Timestamp;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::writer::{self, WriteError};
use crate::config::Writer;
use crate::shared::{Figures, Shared};

/// Of the time that passes, one part in this many goes into writing.
const SHARE: u32 = 20;
/// After an attempt that failed.
const RETRY: Duration = Duration::from_secs(60);

/// Writes a node's checkpoints.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    env: Env,
    rng: StdRng,
}

/// Starts it, on a thread or in a task as the configuration says.
pub(crate) fn spawn(workers: &mut JoinSet<()>, worker: Worker) {
    if worker.shared.config.checkpoint_writer == Writer::Task {
        workers.spawn(worker.run());
        return;
    }
    let (ended, end) = oneshot::channel::<()>();
    let (runtime, shared) = (Handle::current(), worker.shared.clone());
    // A runtime that is dropped drops its tasks first: the thread ends with them, before its timers are gone.
    let dropped = CancellationToken::new();
    let guard = dropped.clone().drop_guard();
    let body = move || {
        runtime.block_on(dropped.run_until_cancelled(worker.run()));
        let _ = ended.send(());
    };
    let thread = std::thread::Builder::new().name("storage-checkpoint".to_owned());
    let spawned = thread.spawn(body);
    workers.spawn(async move {
        let _guard = guard;
        let ended = match spawned {
            // A thread that ends without a word panicked.
            Ok(_) => end.await.map_err(|_| "ended unexpectedly".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = ended {
            shared.fail(format!("the thread that writes checkpoints: {why}"));
        }
    });
}

impl Worker {
    pub fn new(shared: Arc<Shared>, env: Env) -> Self {
        let rng = env.rng();
        Self { shared, env, rng }
    }

    /// Runs until shutdown, or until the store fails.
    async fn run(mut self) {
        let shutdown = self.shared.shutdown.clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = self.write_all() => {}
        }
    }

    async fn write_all(&mut self) {
        let shared = self.shared.clone();
        shared.checkpoints.check_found(&shared.figures).await;
        let interval = Duration::from_millis(shared.config.checkpoint_interval_ms);
        let mut due = Instant::now() + self.first_pause(interval);
        loop {
            tokio::select! {
                biased;
                () = shared.checkpoints.asked.notified() => {}
                () = sleep_until(due) => {}
            }
            let began = Instant::now();
            let written = writer::write(&shared, &self.env, &mut self.rng).await;
            // Of a large store, written less often.
            due = (began + interval).max(Instant::now() + began.elapsed() * (SHARE - 1));
            if shared.checkpoints.sound().is_none() {
                // Soon, when there is something to write.
                due = began + self.first_pause(interval);
            }
            let failing = &shared.figures.checkpoint_failing;
            failing.store(u64::from(written.is_err()), Ordering::Relaxed);
            let Err(error) = written else { continue };
            Figures::add(&shared.figures.checkpoints_failed, 1);
            tracing::error!(
                node = %shared.node, dir = shared.checkpoints.files.describe("."), %error,
                "no checkpoint was written: the journal is not trimmed as long as this lasts"
            );
            match error {
                WriteError::Store(error) => return shared.fail(error.to_string()),
                // Until the node is started again.
                WriteError::Failed(_) => return std::future::pending().await,
                WriteError::Full(_) | WriteError::NotVerified(_) => due = began + RETRY.min(interval),
            }
        }
    }

    /// What is left of the interval since the last one, and soon when there is none; not all nodes at the same time.
    fn first_pause(&mut self, interval: Duration) -> Duration {
        let since = |begun: Timestamp| self.env.clock.now().latest.since(begun);
        let pause = match self.shared.checkpoints.sound() {
            Some(last) => interval.saturating_sub(since(last.header.begun)),
            None => interval / SHARE,
        };
        pause.mul_f64(self.rng.random_range(0.5..=1.0))
    }
}
