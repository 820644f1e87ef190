//! Keeps sessions open: one task per session connects, reconnects with backoff, and goes from one endpoint
//! to the next when the present one fails. Endpoints that are far away are used only while no near one answers: the task
//! keeps trying those, and new transactions go back to them as soon as one does. A near one whose calls fail one after
//! another, or are not answered, is left as well, and tried again after a while. A server that is to stop asks for another session
//! beforehand: new transactions get one, those that are open end where they are.
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
use crate::trouble::Trouble;

const FIRST_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_secs(1);
/// How long a session with a far endpoint lasts before the near ones are tried again, at first and at most.
const FIRST_RETURN: Duration = Duration::from_millis(250);
const MAX_RETURN: Duration = Duration::from_secs(4);
/// How long the near endpoints are left alone after their calls failed, at first and at most.
const MIN_AWAY: Duration = Duration::from_secs(2);
const MAX_AWAY: Duration = Duration::from_secs(30);

/// Where sessions may go.
pub(crate) struct Targets {
    /// At least one.
    pub(crate) near: Vec<Target>,
    pub(crate) far: Vec<Target>,
}

impl Targets {
    /// All of them, the near ones first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Target> {
        self.near.iter().chain(&self.far)
    }
}

/// How many sessions there are to be, and how they are set up.
#[derive(Clone, Copy)]
pub(crate) struct Sessions {
    pub(crate) count: usize,
    pub(crate) lifetime: Duration,
    /// How long what begins something waits for a place.
    pub(crate) patience: Duration,
}

pub(crate) struct Pool {
    pub(crate) targets: Arc<Targets>,
    pub(crate) trouble: Arc<Trouble>,
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
    /// The open session with the fewest users; one that its server wants closed only if there is no other.
    fn ready(&self) -> Option<Arc<Session>> {
        self.sessions
            .iter()
            .flatten()
            .filter(|session| !session.is_lost())
            .min_by_key(|session| (session.is_closing(), Arc::strong_count(session)))
            .cloned()
    }
}

impl Pool {
    /// Starts connecting. Must be called within a tokio runtime.
    pub(crate) fn start(targets: Targets, sessions: Sessions, random: &Random) -> Self {
        let targets = Arc::new(targets);
        let trouble = Arc::new(Trouble::new());
        let stop = CancellationToken::new();
        let (publish, state) = watch::channel(State {
            sessions: vec![None; sessions.count],
            ..State::default()
        });
        for slot in 0..sessions.count {
            let keeper = Keeper {
                slot,
                targets: targets.clone(),
                trouble: trouble.clone(),
                publish: publish.clone(),
                sessions,
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
            trouble,
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
    targets: Arc<Targets>,
    trouble: Arc<Trouble>,
    publish: watch::Sender<State>,
    sessions: Sessions,
    random: Random,
}

/// An open session and its endpoint.
struct Opened {
    is_far: bool,
    /// Among the near ones, or among the far ones.
    index: usize,
    session: Session,
}

impl Keeper {
    async fn run(self) {
        // The first session begins with the first endpoint, the others spread over the rest.
        let (mut near, mut far) = (self.slot, self.slot);
        let mut backoff = self.backoff(FIRST_DELAY, MAX_DELAY);
        let mut next = None;
        let (mut away, mut stay_away) = (MIN_AWAY, Duration::ZERO);
        loop {
            let opened = match next.take() {
                Some(opened) => opened,
                None => match self.open_any(near, far).await {
                    Ok(opened) => opened,
                    Err(error) => {
                        let retry_after = error.retry_after();
                        self.failed(error, true);
                        self.let_go_if_closing();
                        sleep(backoff.next(retry_after)).await;
                        continue;
                    }
                },
            };
            backoff = self.backoff(FIRST_DELAY, MAX_DELAY);
            let (is_far, index) = (opened.is_far, opened.index);
            let ended = self.keep(opened, near, std::mem::take(&mut stay_away)).await;
            let place = if is_far { &mut far } else { &mut near };
            *place = index + usize::from(matches!(ended, Ended::Lost));
            match ended {
                Ended::Nearer(opened) => next = Some(opened),
                Ended::Suspected(left) => {
                    if let Ok(opened) = self.open_of(true, far).await {
                        next = Some(opened);
                        stay_away = away;
                        away = (away * 2).min(MAX_AWAY);
                        // What waits there has waited in vain: it is tried, or its outcome asked for, where we go now.
                        if let Some(silent) = left {
                            silent.abandon("nothing was answered for long");
                        }
                    }
                    self.trouble.clear();
                }
                Ended::Lost | Ended::Old if !is_far => away = MIN_AWAY,
                Ended::Lost | Ended::Old => {}
            }
        }
    }

    /// Tries every endpoint once, the near ones first, each group from the given place on.
    async fn open_any(&self, near: usize, far: usize) -> Result<Opened, KvError> {
        match self.open_of(false, near).await {
            Err(error) if self.targets.far.is_empty() => Err(error),
            Err(_) => self.open_of(true, far).await,
            opened => opened,
        }
    }

    /// Tries each of one group once.
    async fn open_of(&self, is_far: bool, first: usize) -> Result<Opened, KvError> {
        let group = if is_far {
            &self.targets.far
        } else {
            &self.targets.near
        };
        let mut last = KvError::unavailable("there is no endpoint");
        for place in 0..group.len() {
            let index = (first + place) % group.len();
            let Some(target) = group.get(index) else { continue };
            match Session::open(target, self.sessions.patience).await {
                Ok(session) => {
                    return Ok(Opened {
                        is_far,
                        index,
                        session,
                    });
                }
                Err(error) => {
                    tracing::debug!(endpoint = %target.name, %error, "cannot open a session");
                    last = error.clone();
                    self.failed(error, false);
                }
            }
        }
        Err(last)
    }

    /// Notes why there is no session, unless there is one.
    fn failed(&self, error: KvError, is_round: bool) {
        self.publish.send_modify(|state| {
            state.failed_rounds += u64::from(is_round);
            state.last_error = Some(error);
        });
    }

    /// Offers the session to new transactions until it breaks, is old, or a nearer one is open. Transactions that use
    /// one that is not offered any more keep it until they end.
    async fn keep(&self, opened: Opened, near: usize, stay_away: Duration) -> Ended {
        let session = Arc::new(opened.session);
        self.publish.send_modify(|state| {
            state.failed_rounds = 0;
            state.last_error = None;
            if let Some(slot) = state.sessions.get_mut(self.slot) {
                *slot = Some(session.clone());
            }
        });
        let jitter = self.random.with(|rng| rng.random_range(0.8..1.0));
        let can_go_far = !opened.is_far && !self.targets.far.is_empty();
        let ended = tokio::select! {
            biased;
            () = session.lost() => Ended::Lost,
            () = session.closing() => Ended::Old,
            nearer = self.nearer(near, stay_away), if opened.is_far => Ended::Nearer(nearer),
            () = self.trouble.suspected(), if can_go_far => Ended::Suspected(None),
            () = self.trouble.silent(&session), if can_go_far => Ended::Suspected(Some(session.clone())),
            () = sleep(self.sessions.lifetime.mul_f64(jitter)) => Ended::Old,
        };
        if matches!(ended, Ended::Lost) {
            self.publish.send_modify(|state| {
                if let Some(slot) = state.sessions.get_mut(self.slot) {
                    *slot = None;
                }
            });
        }
        ended
    }

    /// A session that its server wants closed, with nothing to take its place: it ends with what is open in it.
    fn let_go_if_closing(&self) {
        self.publish.send_if_modified(|state| {
            let slot = state.sessions.get_mut(self.slot);
            let left = slot.and_then(|slot| slot.take_if(|session| session.is_closing()));
            left.is_some()
        });
    }

    /// Returns when a near endpoint answers again; not before the given time.
    async fn nearer(&self, near: usize, stay_away: Duration) -> Opened {
        sleep(stay_away).await;
        let mut backoff = self.backoff(FIRST_RETURN, MAX_RETURN);
        loop {
            sleep(backoff.next(Some(FIRST_RETURN))).await;
            if let Ok(opened) = self.open_of(false, near).await {
                self.trouble.clear();
                return opened;
            }
        }
    }

    fn backoff(&self, first: Duration, max: Duration) -> Backoff {
        Backoff::new(self.random.clone(), first, max)
    }
}

enum Ended {
    Lost,
    Old,
    /// A near endpoint took the place of a far one.
    Nearer(Opened),
    /// It is open, but what is behind it cannot do its work: the session, when it does not answer at all.
    Suspected(Option<Arc<Session>>),
}
