//! Wakes tasks at a moment to within a tenth of a millisecond.
//!
//! The runtime's timers go in steps of a millisecond and round up. On a commit's way over two links that is 2 ms that no real link
//! would cost, where 3 ms above the floor are all that is allowed.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

/// A thread that keeps time. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Timer {
    requests: Sender<Request>,
}

struct Request {
    due: Instant,
    wake: oneshot::Sender<()>,
}

impl Timer {
    /// Starts the thread; an error when the system has none to give.
    pub fn start() -> std::io::Result<Self> {
        let (requests, received) = channel();
        thread::Builder::new()
            .name("links".to_owned())
            .spawn(move || keep_time(&received))?;
        Ok(Self { requests })
    }

    /// Returns when it is `due`.
    pub async fn at(&self, due: Instant) {
        if due <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        if self.requests.send(Request { due, wake }).is_ok() {
            // The thread lives as long as this clone.
            let _ = woken.await;
        }
    }
}

/// Requests by when they are due, the earliest on top.
struct Waiting(Request);

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.due.cmp(&self.0.due)
    }
}

fn keep_time(requests: &Receiver<Request>) {
    let mut waiting = BinaryHeap::<Waiting>::new();
    loop {
        let now = Instant::now();
        while let Some(next) = waiting.peek()
            && next.0.due <= now
        {
            // Whoever waits no more does not mind.
            let _ = waiting.pop().map(|next| next.0.wake.send(()));
        }
        let request = match waiting.peek() {
            Some(next) => requests.recv_timeout(next.0.due - now),
            None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match request {
            Ok(request) => waiting.push(Waiting(request)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn nobody_is_woken_before_the_time_and_the_earlier_one_first() {
        let timer = Timer::start().unwrap();
        let began = Instant::now();
        let after = |ms| {
            let timer = timer.clone();
            tokio::spawn(async move {
                let due = began + Duration::from_millis(ms);
                timer.at(due).await;
                assert!(Instant::now() >= due);
                ms
            })
        };
        let (late, early, past) = (after(40), after(15), after(0));
        let mut order = Vec::new();
        let mut tasks = vec![late, early, past];
        while !tasks.is_empty() {
            let (first, _, rest) = futures::future::select_all(tasks).await;
            order.push(first.unwrap());
            tasks = rest;
        }
        assert_eq!(order, [0, 15, 40]);
    }
}
