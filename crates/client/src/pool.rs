//! Keeps sessions open: one task per session connects, reconnects with backoff, and goes from one endpoint
//! to the next when the present one fails.
//!
//! All callers share these tasks: while nothing can be reached they wait, they do not knock.

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::KvError;
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::budget::{Backoff, Random};
use crate::session::Session;
use crate::transport::Target;

const FIRST_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_secs(1);

pub(crate) struct Pool {
    pub(crate) targets: Arc<Vec<Target>>,
    state: watch::Receiver<State>,
    _stop: DropGuard,
}

#[derive(Default)]
struct State {
    sessions: Vec<Option<Arc<Session>>>,
    /// How often every endpoint has failed in turn.
    failed_rounds: u64,
    last_error: Option<KvError>,
}

impl State {
    /// The open session with the fewest users.
    fn ready(&self) -> Option<Arc<Session>> {
        self.sessions
            .iter()
            .flatten()
            .filter(|session| !session.is_lost())
            .min_by_key(|session| Arc::strong_count(session))
            .cloned()
    }
}

impl Pool {
    /// Starts connecting. Must be called within a tokio runtime.
    pub(crate) fn start(targets: Vec<Target>, sessions: usize, lifetime: Duration, random: &Random) -> Self {
        let targets = Arc::new(targets);
        let stop = CancellationToken::new();
        let (publish, state) = watch::channel(State {
            sessions: vec![None; sessions],
            ..State::default()
        });
        for slot in 0..sessions {
            let keeper = Keeper {
                slot,
                targets: targets.clone(),
                publish: publish.clone(),
                lifetime,
                random: random.clone(),
            };
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = keeper.run() => {}
                }
            });
        }
        Self {
            targets,
            state,
            _stop: stop.drop_guard(),
        }
    }

    /// An open session; waits for one until the deadline.
    pub(crate) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, KvError> {
        let mut state = self.state.clone();
        let waited = timeout_at(deadline, async {
            let state = state.wait_for(|state| state.ready().is_some()).await.ok()?;
            state.ready()
        });
        match waited.await {
            Ok(Some(session)) => Ok(session),
            // A session that was lost while we looked at it: the caller's retry finds the next one.
            Ok(None) | Err(_) => Err(self.unreachable()),
        }
    }

    /// Waits until a session is open, or every endpoint has failed once.
    pub(crate) async fn connected(&self, deadline: Instant) -> Result<(), KvError> {
        let mut state = self.state.clone();
        let waited = timeout_at(
            deadline,
            state.wait_for(|state| state.ready().is_some() || state.failed_rounds > 0),
        )
        .await
        .is_ok_and(|result| result.is_ok_and(|state| state.ready().is_some()));
        if waited { Ok(()) } else { Err(self.unreachable()) }
    }

    /// The session that new transactions would get now, if one is open.
    pub(crate) fn current(&self) -> Option<Arc<Session>> {
        self.state.borrow().ready()
    }

    fn unreachable(&self) -> KvError {
        if let Some(error) = self.state.borrow().last_error.clone() {
            return error;
        }
        let names: Vec<_> = self.targets.iter().map(|target| target.name.as_str()).collect();
        KvError::unavailable(format!(
            "no endpoint answered in time (tried {})",
            names.join(", ")
        ))
    }
}

/// Keeps one session open.
struct Keeper {
    slot: usize,
    targets: Arc<Vec<Target>>,
    publish: watch::Sender<State>,
    lifetime: Duration,
    random: Random,
}

impl Keeper {
    async fn run(self) {
        // The first session begins with the first endpoint, the others spread over the rest.
        let mut next = self.slot;
        let mut failures = 0;
        let mut backoff = self.backoff();
        while let Some(target) = self.targets.get(next % self.targets.len().max(1)) {
            match Session::open(target).await {
                Ok(session) => {
                    failures = 0;
                    backoff = self.backoff();
                    if self.keep(Arc::new(session)).await == Ended::Lost {
                        next += 1;
                    }
                }
                Err(error) => {
                    tracing::debug!(endpoint = %target.name, %error, "cannot open a session");
                    next += 1;
                    failures += 1;
                    let round = failures % self.targets.len() == 0;
                    let retry_after = error.retry_after().filter(|_| round);
                    self.publish.send_modify(|state| {
                        state.failed_rounds += u64::from(round);
                        state.last_error = Some(error);
                    });
                    if round {
                        sleep(backoff.next(retry_after)).await;
                    }
                }
            }
        }
    }

    /// Offers the session to new transactions until it breaks or is old. Transactions that use an old
    /// one keep it until they end.
    async fn keep(&self, session: Arc<Session>) -> Ended {
        self.publish.send_modify(|state| {
            state.failed_rounds = 0;
            state.last_error = None;
            if let Some(slot) = state.sessions.get_mut(self.slot) {
                *slot = Some(session.clone());
            }
        });
        let jitter = self.random.with(|rng| rng.random_range(0.8..1.0));
        let ended = tokio::select! {
            biased;
            () = session.lost() => Ended::Lost,
            () = sleep(self.lifetime.mul_f64(jitter)) => Ended::Old,
        };
        if ended == Ended::Lost {
            self.publish.send_modify(|state| {
                if let Some(slot) = state.sessions.get_mut(self.slot) {
                    *slot = None;
                }
            });
        }
        ended
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.random.clone(), FIRST_DELAY, MAX_DELAY)
    }
}

#[derive(PartialEq, Eq)]
enum Ended {
    Lost,
    Old,
}
