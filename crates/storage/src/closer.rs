//! Asks owners to close ranges for the reads that wait (R15): one request under way per range, shared by all
//! of them. The answer holds the closure, which the applier is given: it takes it as it takes those of the feed (R14). The same request, sent every now and then also when nobody waits, tells the owner where its range is read (R16).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use meridian_rpc::Env;
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::{CloseThroughRequest, CloseThroughResponse, Closure};
use meridian_types::{Epoch, RangeId, StreamId, Timestamp};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::shared::{Figures, Shared, Want};

/// Streams that one closure may depend on.
const MAX_DEPENDENCIES: usize = 10_000;
/// The first and the longest pause after an owner could not be asked.
const FAILURE_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));
/// The shortest and the longest pause after an owner answered that it may not close that far yet.
const SHORT_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

pub(crate) struct Closer {
    shared: Arc<Shared>,
    env: Env,
    rng: StdRng,
    asked: BTreeMap<RangeId, Asked>,
    /// To the applier.
    closures: mpsc::Sender<Closure>,
}

/// What is known of the requests for one range.
#[derive(Default)]
struct Asked {
    under_way: bool,
    /// The owner said that it closed the range through this.
    answered: Timestamp,
    /// Not asked again earlier, unless for more than `answered`.
    again_at: Option<Instant>,
    /// In a row.
    failures: u32,
}

/// One request's end.
enum Answer {
    /// From the owner: how far it is closed, and the closure that says so.
    Closed(Timestamp, Option<Closure>),
    /// Somebody else is the owner; whether it is known who.
    Elsewhere { is_known: bool },
    /// Nobody could be asked, or did not answer.
    Failed(String),
}

type Requests = FuturesUnordered<BoxFuture<'static, (RangeId, Timestamp, Answer)>>;

impl Closer {
    pub fn new(shared: Arc<Shared>, env: Env, closures: mpsc::Sender<Closure>) -> Self {
        let rng = env.rng();
        Self {
            shared,
            env,
            rng,
            asked: BTreeMap::new(),
            closures,
        }
    }

    /// Runs until shutdown.
    pub async fn run(mut self) {
        let shutdown = self.shared.shutdown.clone();
        let shared = self.shared.clone();
        let mut requests = Requests::new();
        loop {
            let again = self.ask(&mut requests);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some((range, asked, answer)) = requests.next() => self.answered(range, asked, answer),
                () = shared.wants.changed.notified() => {}
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
        }
    }

    /// Sends what may be sent now; answers when to look again.
    fn ask(&mut self, requests: &mut Requests) -> Option<Instant> {
        let now = Instant::now();
        let open = self.shared.wants.open(&self.shared.closed.borrow());
        for (range, at) in self.shared.wants.take_read() {
            let asked = self.asked.entry(range).or_default();
            let pauses = asked.failures > 0 && asked.again_at.is_some_and(|again| again > now);
            // A request that is under way, or soon will be, says the same.
            if !asked.under_way && !pauses && !open.contains_key(&range) {
                asked.under_way = true;
                requests.push(self.request(range, Want { at, until: now }));
            }
        }
        let mut again: Option<Instant> = None;
        for (range, want) in open {
            let asked = self.asked.entry(range).or_default();
            if asked.under_way {
                continue;
            }
            let wait_until = asked
                .again_at
                .filter(|_| asked.failures > 0 || want.at <= asked.answered);
            match wait_until {
                Some(at) if at > now => again = Some(again.map_or(at, |other| other.min(at))),
                _ => {
                    asked.under_way = true;
                    requests.push(self.request(range, want));
                }
            }
        }
        again
    }

    fn request(&self, range: RangeId, want: Want) -> BoxFuture<'static, (RangeId, Timestamp, Answer)> {
        Figures::add(&self.shared.figures.closes_asked, 1);
        let (shared, network) = (self.shared.clone(), self.env.network.clone());
        let journal = shared.following();
        async move {
            let Some(stream) = stream_of(&shared, range) else {
                return (
                    range,
                    want.at,
                    Answer::Failed(format!("range {range} is not in the map")),
                );
            };
            let owner = match shared.owners.owner(stream).await {
                Ok(owner) => owner,
                Err(error) => return (range, want.at, Answer::Failed(error.to_string())),
            };
            let mut client = AdjudicatorClient::new(network.transport(&owner.node));
            let request = CloseThroughRequest {
                stream: stream.0,
                timestamp: want.at.0,
                journal: journal.map(|journal| journal.0).unwrap_or_default(),
            };
            let limit = Duration::from_millis(shared.config.close_timeout_ms);
            let answer = match timeout(limit, client.close_through(request)).await {
                Ok(Ok(response)) => {
                    let CloseThroughResponse {
                        closed,
                        owner: node,
                        epoch,
                        not_owner,
                        closure,
                    } = response.into_inner();
                    if not_owner {
                        shared.owners.forget(stream, owner.epoch);
                        shared.owners.learn(stream, &node, Epoch(epoch));
                        Answer::Elsewhere {
                            is_known: !node.is_empty(),
                        }
                    } else {
                        let fits = |closure: &Closure| {
                            closure.range == range.0 && closure.after.len() <= MAX_DEPENDENCIES
                        };
                        Answer::Closed(Timestamp(closed), closure.filter(fits))
                    }
                }
                Ok(Err(status)) => {
                    shared.owners.forget(stream, owner.epoch);
                    Answer::Failed(format!("{}: {}", owner.node, status.message()))
                }
                Err(_) => {
                    shared.owners.forget(stream, owner.epoch);
                    Answer::Failed(format!("{} did not answer in {limit:?}", owner.node))
                }
            };
            (range, want.at, answer)
        }
        .boxed()
    }

    fn answered(&mut self, range: RangeId, wanted: Timestamp, answer: Answer) {
        let close_again = Duration::from_millis(self.shared.config.close_again_ms);
        let failures = self.asked.get(&range).map_or(0, |asked| asked.failures);
        let (pause, failures) = match &answer {
            Answer::Closed(closed, closure) => {
                self.shared.announce(range, *closed);
                if let Some(closure) = closure {
                    // Without room it is asked for again.
                    let _ = self.closures.try_send(closure.clone());
                }
                if *closed >= wanted {
                    (close_again, 0)
                } else {
                    // Clocks differ by their bounds, and open prepares hold closures back: it is not long.
                    let missing = wanted.since(*closed).clamp(SHORT_PAUSE.0, SHORT_PAUSE.1);
                    (self.jittered(missing), 1)
                }
            }
            Answer::Elsewhere { is_known: true } if failures == 0 => (Duration::ZERO, 1),
            Answer::Elsewhere { .. } => (self.failure_pause(failures), failures.saturating_add(1)),
            Answer::Failed(why) => {
                tracing::debug!(node = %self.shared.node, %range, why, "range could not be closed");
                (self.failure_pause(failures), failures.saturating_add(1))
            }
        };
        let asked = self.asked.entry(range).or_default();
        if let Answer::Closed(closed, _) = answer {
            asked.answered = asked.answered.max(closed);
        }
        asked.under_way = false;
        asked.failures = failures;
        asked.again_at = Some(Instant::now() + pause);
    }

    fn failure_pause(&mut self, failures: u32) -> Duration {
        let pause = FAILURE_PAUSE
            .0
            .saturating_mul(1 << failures.min(10))
            .min(FAILURE_PAUSE.1);
        self.jittered(pause)
    }

    /// Between half of it and all of it.
    fn jittered(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.rng.random_range(0.5..=1.0))
    }
}

fn stream_of(shared: &Shared, range: RangeId) -> Option<StreamId> {
    let map = shared.owners.map();
    map.entries
        .iter()
        .find(|entry| entry.id == range)
        .map(|entry| entry.stream)
}
