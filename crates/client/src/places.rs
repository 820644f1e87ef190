//! The places of a session: how many operations the server is asked to answer at a time, and who waits for the next one that is free.
//!
//! A queue is good for a burst. It is no good for more than can be done at all: then everybody waits as long as is allowed, and whatever
//! is done is done for somebody who has nearly given up. So the queue is bounded in time. Places are given in the order of arrival as long
//! as the oldest who waits has waited for less than half of the *patience*. Once it has waited for longer, those go first who go on with
//! something that was begun, for that frees what it holds, and of those who begin something the *newest*: its caller still waits. Who has
//! waited for the whole patience to begin something is refused. Nothing of it was sent.
//!
//! Only time in which places come back counts. A server that answers nothing is silent, not overloaded: nobody who waits is refused
//! for it, and when it goes on all have their turn in order.
//!
//! Invariants: no place is free while somebody waits. A place comes back when it is dropped, wherever that is: also on the way to
//! somebody who has gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// The most that wait. At 25,000 answers per second they are more than half a second of work.
const MAX_WAITING: usize = 16_384;
/// From one place that comes back to the next, no more than this counts as time in which places come back.
const STALL: Duration = Duration::from_millis(100);

/// The places of one session. Shared.
pub(crate) struct Places {
    state: Mutex<State>,
    patience: Duration,
}

/// What somebody wants a place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To begin something: if its time is past it is better left.
    Begin,
    /// To go on with something. Waits until its own deadline.
    GoOn,
}

/// Why there was no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// None within the patience.
    #[error("the client has more under way than is done in time: no place came free for an operation")]
    Waited,
    /// Too many wait.
    #[error("{MAX_WAITING} operations wait for a place already")]
    Full,
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
}

/// One operation that the server is asked to answer. Dropping it gives it to the next who waits.
pub(crate) struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.lock();
            let next = state.next(self.0.patience / 2);
            state.free += usize::from(next.is_none());
            next
        };
        if let Some(next) = next {
            next.give(Self(self.0.clone()));
        }
    }
}

#[derive(Default)]
struct State {
    free: usize,
    /// How many ever waited. The next one's number.
    arrivals: u64,
    begin: BTreeMap<u64, Waiter>,
    go_on: BTreeMap<u64, Waiter>,
    clock: Clock,
}

struct Waiter {
    /// By the clock of the places.
    since: Duration,
    hand: oneshot::Sender<Place>,
}

impl Waiter {
    /// If it has gone in this moment the place is dropped, and comes back.
    fn give(self, place: Place) {
        drop(self.hand.send(place));
    }
}

/// Counts the time in which places come back while somebody waits.
#[derive(Default)]
struct Clock {
    counted: Duration,
    last: Option<Instant>,
}

impl Clock {
    fn at(&self, now: Instant) -> Duration {
        let since = self
            .last
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.counted + since.min(STALL)
    }

    fn came_back(&mut self, now: Instant) {
        self.counted = self.at(now);
        self.last = Some(now);
    }
}

impl State {
    fn waiting(&mut self, purpose: Purpose) -> &mut BTreeMap<u64, Waiter> {
        match purpose {
            Purpose::Begin => &mut self.begin,
            Purpose::GoOn => &mut self.go_on,
        }
    }

    /// Who has waited longest.
    fn oldest(&self) -> Option<(Purpose, &Waiter)> {
        let begin = self
            .begin
            .first_key_value()
            .map(|(number, waiter)| (number, Purpose::Begin, waiter));
        let go_on = self
            .go_on
            .first_key_value()
            .map(|(number, waiter)| (number, Purpose::GoOn, waiter));
        let both = [begin, go_on].into_iter().flatten();
        both.min_by_key(|(number, ..)| **number)
            .map(|(_, purpose, waiter)| (purpose, waiter))
    }

    fn is_pressed(&self, now: Instant, limit: Duration) -> bool {
        let oldest = self.oldest();
        oldest.is_some_and(|(_, oldest)| self.clock.at(now).saturating_sub(oldest.since) >= limit)
    }

    /// A place has come back: who gets it?
    fn next(&mut self, limit: Duration) -> Option<Waiter> {
        let (oldest, _) = self.oldest()?;
        let now = Instant::now();
        self.clock.came_back(now);
        if !self.is_pressed(now, limit) {
            return self.waiting(oldest).pop_first().map(|(_, next)| next);
        }
        let next = self.go_on.pop_first().or_else(|| self.begin.pop_last());
        next.map(|(_, next)| next)
    }
}

impl Places {
    /// So many places; who wants to begin something waits for at most `patience`.
    pub(crate) fn new(count: usize, patience: Duration) -> Arc<Self> {
        let state = State {
            free: count,
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            patience,
        })
    }

    /// For how long one that begins something may wait.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns with a place. Dropping the future gives the turn back.
    pub(crate) async fn take(
        self: &Arc<Self>,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Place, Refused> {
        let mut turn = match self.arrive(purpose)? {
            Arrived::Has(place) => return Ok(place),
            Arrived::Waits(turn) => turn,
        };
        let mut left = match purpose {
            Purpose::Begin => self.patience,
            Purpose::GoOn => Duration::MAX,
        };
        loop {
            let until = Instant::now()
                .checked_add(left)
                .map_or(deadline, |until| until.min(deadline));
            match timeout_at(until, &mut turn.hand).await {
                Ok(Ok(place)) => return Ok(place),
                // Its place in the queue was taken from it.
                Ok(Err(_)) => return Err(Refused::Full),
                Err(_) if until == deadline => return Err(Refused::Deadline),
                Err(_) => {}
            }
            let waited = self.lock().clock.at(Instant::now()).saturating_sub(turn.since);
            match self.patience.checked_sub(waited) {
                // None came back for a while, and it does not help to look all the time.
                Some(rest) if !rest.is_zero() => left = rest.max(STALL),
                _ => return Err(Refused::Waited),
            }
        }
    }

    /// Takes a free place, or the last turn of those who wait.
    fn arrive(self: &Arc<Self>, purpose: Purpose) -> Result<Arrived, Refused> {
        let mut state = self.lock();
        if state.free > 0 {
            state.free -= 1;
            return Ok(Arrived::Has(Place(self.clone())));
        }
        let now = Instant::now();
        let count = state.begin.len() + state.go_on.len();
        if count == 0 {
            state.clock.last = Some(now);
        }
        let mut left_out = None;
        if count >= MAX_WAITING {
            // The oldest will hardly be served once the newest go first.
            if state.is_pressed(now, self.patience / 2) || purpose == Purpose::GoOn {
                left_out = state.begin.pop_first();
            }
            if left_out.is_none() {
                return Err(Refused::Full);
            }
        }
        let (hand, receiver) = oneshot::channel();
        let (number, since) = (state.arrivals, state.clock.at(now));
        state.arrivals += 1;
        state.waiting(purpose).insert(number, Waiter { since, hand });
        drop(state);
        drop(left_out);
        Ok(Arrived::Waits(Turn {
            places: self.clone(),
            purpose,
            number,
            since,
            hand: receiver,
        }))
    }
}

enum Arrived {
    Has(Place),
    Waits(Turn),
}

/// Somebody who waits.
struct Turn {
    places: Arc<Places>,
    purpose: Purpose,
    number: u64,
    since: Duration,
    /// A place that nobody takes out of it any more is dropped with it.
    hand: oneshot::Receiver<Place>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let left = self.places.lock().waiting(self.purpose).remove(&self.number);
        drop(left);
    }
}

#[cfg(test)]
mod tests;
