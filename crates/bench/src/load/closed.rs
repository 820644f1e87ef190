//! Closed loop: each client has one operation under way and begins the next one with the answer.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Event, Sink, Work};

/// Runs all clients until `end`; returns when the last operation has ended. Dropping it stops them.
pub async fn run<S: Sink>(workers: Vec<Box<dyn Work>>, end: Instant, sink: Arc<S>) {
    let mut clients = JoinSet::new();
    for (number, mut work) in workers.into_iter().enumerate() {
        let sink = sink.clone();
        clients.spawn(async move {
            loop {
                let due = Instant::now();
                if due >= end {
                    return;
                }
                let result = work.step().await;
                let event = Event {
                    due,
                    ended: Instant::now(),
                    result,
                };
                sink.record(number, &event);
            }
        });
    }
    while clients.join_next().await.is_some() {}
}
