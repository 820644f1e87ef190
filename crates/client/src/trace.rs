//! Where the time of one transaction went.

use std::time::Duration;

pub use meridian_rpc::v1::hop::Kind as HopKind;
pub use meridian_rpc::v1::{Hop, Trace};
use tokio::time::Instant;

/// Calls of one transaction that are measured; with the hops of the server that is what a [`Trace`] holds at most.
const MAX_CALLS: usize = 64;

/// The calls of a traced transaction, as its client sees them.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    calls: Vec<Call>,
    left_out: u64,
    server: Option<Trace>,
}

#[derive(Debug)]
struct Call {
    /// Its number in the session; 0: its answer is that of the commit.
    operation: u64,
    began: Instant,
    took: Duration,
}

impl Calls {
    /// A call that was answered now.
    pub(crate) fn note(&mut self, operation: u64, began: Instant) {
        if self.calls.len() >= MAX_CALLS {
            self.left_out += 1;
            return;
        }
        self.calls.push(Call {
            operation,
            began,
            took: began.elapsed(),
        });
    }

    /// The answer to the commit, for which was asked then.
    pub(crate) fn note_commit(&mut self, began: Instant, server: Option<Trace>) {
        // Always told: it ends the transaction.
        self.calls.truncate(MAX_CALLS - 1);
        self.note(0, began);
        self.server = server;
    }

    /// The calls, each with what its query processor did for it and what the way there took.
    pub(crate) fn trace(&self) -> Trace {
        let server = self.server.clone().unwrap_or_default();
        let mut operations = operations(server.hops).into_iter().peekable();
        let mut calls: Vec<&Call> = self.calls.iter().collect();
        calls.sort_by_key(|call| (call.operation == 0, call.began));
        let mut hops = Vec::new();
        for call in calls {
            let is_its =
                |operation: &Vec<Hop>| operation.first().is_some_and(|first| call.is_answered_by(first));
            let known = operations.clone().any(|operation| is_its(&operation));
            // What belongs to no single call, as the pages of a scan, stands by itself.
            while known && let Some(other) = operations.next_if(|next| !is_its(next)) {
                hops.extend(other);
            }
            let inner = operations.next_if(is_its).unwrap_or_default();
            hops.extend(call.hops(inner));
        }
        hops.extend(operations.flatten());
        Trace {
            hops,
            left_out: server.left_out + self.left_out,
        }
    }
}

impl Call {
    fn is_answered_by(&self, hop: &Hop) -> bool {
        match self.operation {
            0 => hop.kind() == HopKind::Commit,
            number => hop.operation == number,
        }
    }

    fn hops(&self, inner: Vec<Hop>) -> Vec<Hop> {
        let hop = |kind: HopKind, depth, duration_us| Hop {
            kind: kind.into(),
            duration_us,
            depth,
            ..Hop::default()
        };
        let took = micros(self.took);
        let mut hops = vec![hop(HopKind::Call, 0, took)];
        if let Some(server) = inner.first() {
            hops.push(hop(HopKind::Network, 1, took.saturating_sub(server.duration_us)));
        }
        hops.extend(inner.into_iter().map(|hop| Hop {
            depth: hop.depth.saturating_add(1),
            ..hop
        }));
        hops
    }
}

/// The trace of a transaction that was one call, for which was asked then.
pub(crate) fn of_execute(began: Instant, server: Option<Trace>) -> Option<Trace> {
    let server = server?;
    let whole = micros(began.elapsed());
    let measured = server.hops.iter().filter(|hop| hop.depth == 0);
    let inside: u64 = measured.map(|hop| hop.duration_us).fold(0, u64::saturating_add);
    let hop = |kind: HopKind, depth, duration_us| Hop {
        kind: kind.into(),
        duration_us,
        depth,
        ..Hop::default()
    };
    let mut hops = vec![
        hop(HopKind::Call, 0, whole),
        hop(HopKind::Network, 1, whole.saturating_sub(inside)),
    ];
    hops.extend(server.hops.into_iter().map(|hop| Hop {
        depth: hop.depth.saturating_add(1),
        ..hop
    }));
    Some(Trace {
        hops,
        left_out: server.left_out,
    })
}

/// Each hop of its own with its parts.
fn operations(hops: Vec<Hop>) -> Vec<Vec<Hop>> {
    let mut operations: Vec<Vec<Hop>> = Vec::new();
    for hop in hops {
        match operations.last_mut() {
            Some(operation) if hop.depth > 0 => operation.push(hop),
            _ => operations.push(vec![hop]),
        }
    }
    operations
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(kind: HopKind, depth: u32, duration_us: u64, operation: u64) -> Hop {
        Hop {
            kind: kind.into(),
            duration_us,
            depth,
            operation,
            ..Hop::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_has_what_the_server_did_for_it() {
        let mut calls = Calls::default();
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(1)).await;
        calls.note(7, began);
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(4)).await;
        let hops = vec![
            hop(HopKind::Get, 0, 300, 7),
            hop(HopKind::ScanPage, 0, 50, 0),
            hop(HopKind::Commit, 0, 3_000, 0),
            hop(HopKind::Plan, 1, 10, 0),
        ];
        calls.note_commit(began, Some(Trace { hops, left_out: 2 }));
        let trace = calls.trace();
        let shown: Vec<_> = trace
            .hops
            .iter()
            .map(|hop| (hop.kind(), hop.depth, hop.duration_us))
            .collect();
        assert_eq!(
            shown,
            [
                (HopKind::Call, 0, 1_000),
                (HopKind::Network, 1, 700),
                (HopKind::Get, 1, 300),
                (HopKind::ScanPage, 0, 50),
                (HopKind::Call, 0, 4_000),
                (HopKind::Network, 1, 1_000),
                (HopKind::Commit, 1, 3_000),
                (HopKind::Plan, 2, 10),
            ]
        );
        assert_eq!(trace.left_out, 2);
    }
}
