//! Batches for long-lived streams: a sender takes whatever has queued up while the last batch was under
//! way, and never waits on a timer to fill one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use tokio::sync::mpsc;

/// A stream of batches over a bounded queue. A batch ends when the queue is empty, when it holds
/// `max_items`, or when `size` adds up to `max_bytes` (it always holds at least one item).
pub struct Batches<T> {
    queue: mpsc::Receiver<T>,
    max_items: usize,
    max_bytes: usize,
    size: fn(&T) -> usize,
}

impl<T> Batches<T> {
    /// Batches of the queue's items.
    pub fn new(queue: mpsc::Receiver<T>, max_items: usize, max_bytes: usize, size: fn(&T) -> usize) -> Self {
        Self {
            queue,
            max_items,
            max_bytes,
            size,
        }
    }
}

impl<T: Unpin> Stream for Batches<T> {
    type Item = Vec<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Vec<T>>> {
        let this = self.get_mut();
        let Some(first) = ready!(this.queue.poll_recv(cx)) else {
            return Poll::Ready(None);
        };
        let mut bytes = (this.size)(&first);
        let mut batch = vec![first];
        while batch.len() < this.max_items && bytes < this.max_bytes {
            match this.queue.try_recv() {
                Ok(item) => {
                    bytes = bytes.saturating_add((this.size)(&item));
                    batch.push(item);
                }
                Err(_) => break,
            }
        }
        Poll::Ready(Some(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn a_batch_takes_what_is_queued_within_its_bounds() {
        let (sender, receiver) = mpsc::channel(16);
        let mut batches = Batches::new(receiver, 3, 10, |item: &usize| *item);
        for item in [1, 1, 1, 1, 9, 9, 50] {
            sender.send(item).await.unwrap();
        }
        drop(sender);
        let all: Vec<_> = batches.by_ref().collect().await;
        assert_eq!(all, [vec![1, 1, 1], vec![1, 9], vec![9, 50]]);
    }
}
