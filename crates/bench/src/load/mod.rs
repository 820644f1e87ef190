//! Load on a system: clients that go on as soon as they have an answer ([`closed`]), or arrivals that come whether or not there was
//! one ([`open`]). Both tell a [`Sink`] how each operation went.
//!
//! ```text
//! closed, per client   |--op--||----op----||op||…
//! open, per arrival    due      due      due      due       fixed by the rate alone
//!                      |--op--| |--------op--------|
//!                                        |waits||--op--|    counted from when it was due
//! ```

mod alarm;
pub mod closed;
pub mod open;
mod record;

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

pub use alarm::Alarm;
pub use record::{Recorder, Summary, Window};
pub(crate) use record::{count_kind, histogram, record};

/// An operation that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// How often it had to be run again because of a conflict.
    pub aborts: u64,
    /// Whether it could have met one.
    pub is_transaction: bool,
}

/// An operation that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The system refused it because it has too much to do.
    #[error("refused: {0}")]
    Shed(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// Its turn never came: everything before it took too long.
    #[error("not begun in time")]
    NotBegun,
}

/// Something that clients do again and again.
pub trait Work: Send + 'static {
    /// Does it once more.
    fn step(&mut self) -> BoxFuture<'_, Result<Done, Failure>>;
}

/// How one operation went.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it began (closed loop) or was to begin (open loop).
    pub due: Instant,
    /// When it ended.
    pub ended: Instant,
    /// How.
    pub result: Result<Done, Failure>,
}

impl Event {
    /// How long it took, from when it was due.
    pub fn latency(&self) -> Duration {
        self.ended.saturating_duration_since(self.due)
    }
}

/// Takes note of what happens. `worker` is only a hint for where.
pub trait Sink: Send + Sync + 'static {
    /// Takes note of one operation.
    fn record(&self, worker: usize, event: &Event);

    /// Takes note of operations that were due then and that nobody begins any more.
    fn given_up(&self, worker: usize, due: &mut dyn Iterator<Item = Instant>, ended: Instant) {
        for due in due {
            let result = Err(Failure::NotBegun);
            self.record(worker, &Event { due, ended, result });
        }
    }
}
