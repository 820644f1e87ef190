//! Commands about the journal: what a node accepts, what is committed, which log is adopted, which closures pass.

use meridian_protocol::closing::{Closure, FeedGate};
use meridian_protocol::fencing::{AppendDecision, ReplicaLog};
use meridian_protocol::quorum;
use meridian_protocol::takeover::choose_log;
use meridian_types::{DiskId, Epoch, Lsn, Position, RangeId, StreamId, Timestamp};
use uuid::Uuid;

use super::{Command, position};

#[derive(Default)]
pub struct Journal {
    node: ReplicaLog,
    gate: FeedGate,
}

impl Journal {
    pub fn run(&mut self, command: &Command<'_>) -> Option<String> {
        Some(match command.name {
            "lose_disk" => {
                self.node = ReplicaLog::rejoining(disk(command.number("disk")));
                String::new()
            }
            "fence" => match self.node.on_fence(Epoch(command.number("epoch")), "a".into()) {
                Ok(answer) => format!("promised; last {}, committed {}", answer.last, answer.committed),
                Err(refusal) => format!("refused: {refusal}"),
            },
            "append" => self.append(command),
            "acked" => self.acked(command),
            "committed" => {
                let matched: Vec<Lsn> = command
                    .plain
                    .iter()
                    .map(|lsn| Lsn(lsn.parse().expect("an lsn")))
                    .collect();
                let epoch_start = Lsn(command.number("epoch_start"));
                let committed = quorum::committed(
                    matched.iter().copied(),
                    quorum::majority(matched.len()),
                    epoch_start,
                );
                committed.map_or("nothing".to_owned(), |lsn| format!("up to {lsn}"))
            }
            "adopt" => {
                let answers: Vec<(usize, Position)> = command.named.iter().map(answer).collect();
                let chosen = choose_log(&answers, command.plain[0].parse().expect("a quorum"));
                chosen.map_or("no quorum".to_owned(), |replica| format!("the log of {replica}"))
            }
            "offer" => self.offer(command),
            "sent" => {
                let (stream, lsn) = position_in_stream(command.plain[0]);
                let passed = self.gate.on_sent(stream, lsn);
                passed
                    .iter()
                    .map(|closure| format!("passes {} to {}\n", closure.range, closure.x))
                    .collect()
            }
            "backfill" => match command.plain[0] {
                "start" => {
                    self.gate.start_backfill(RangeId(1));
                    String::new()
                }
                _ => {
                    let passed = self.gate.finish_backfill(RangeId(1));
                    passed.map_or("nothing".to_owned(), |closure| format!("passes to {}", closure.x))
                }
            },
            _ => return None,
        })
    }

    /// Appends, and syncs at once.
    fn append(&mut self, command: &Command<'_>) -> String {
        let epoch = Epoch(command.number("epoch"));
        let prev = position(command.named["prev"]);
        let entries: Vec<Position> = command.plain.iter().map(|text| position(text)).collect();
        match self
            .node
            .on_append(epoch, prev, &entries, command.maybe("rejoin").map(disk))
        {
            AppendDecision::Accepted {
                persist_promise,
                skip,
                cut_to,
                matched,
                rejoined,
            } => {
                self.node.on_persisted(epoch, matched);
                let cut = cut_to.map_or(String::new(), |lsn| format!(", cut after {lsn}"));
                let promise = if persist_promise { ", promise" } else { "" };
                let rejoined = if rejoined { ", rejoined" } else { "" };
                format!(
                    "matched {matched}, {skip} skipped{cut}{promise}{rejoined}; last {}",
                    self.node.last()
                )
            }
            AppendDecision::Refused { promised } => format!("refused: promised {promised}"),
            AppendDecision::Mismatch { last } => format!("mismatch: last {last}"),
            AppendDecision::Rejoining { .. } => "refused: rejoining".to_owned(),
            AppendDecision::Malformed => "malformed".to_owned(),
            AppendDecision::CutsCommitted { committed, at } => {
                format!("stop: {at} would cut what is committed up to {committed}")
            }
        }
    }

    fn acked(&mut self, command: &Command<'_>) -> String {
        let acked: Vec<Lsn> = command
            .plain
            .iter()
            .map(|lsn| Lsn(lsn.parse().expect("an lsn")))
            .collect();
        let rose = self.node.on_acked(Epoch(command.number("epoch")), &acked, 0, 2);
        rose.map_or("no news".to_owned(), |lsn| format!("committed {lsn}"))
    }

    fn offer(&mut self, command: &Command<'_>) -> String {
        let after = command
            .list("after")
            .into_iter()
            .map(position_in_stream)
            .collect();
        let closure = Closure {
            range: RangeId(1),
            epoch: Epoch(1),
            x: Timestamp(command.number("x")),
            after,
        };
        match self.gate.offer(closure) {
            Some(closure) => format!("passes to {}", closure.x),
            None => "held, or nothing new".to_owned(),
        }
    }
}

fn answer((replica, last): (&&str, &&str)) -> (usize, Position) {
    (replica.parse().expect("a replica"), position(last))
}

/// `s1:4`.
fn position_in_stream(text: &str) -> (StreamId, Lsn) {
    let parts = text.strip_prefix('s').and_then(|rest| rest.split_once(':'));
    let (stream, lsn) = parts.unwrap_or_else(|| panic!("{text} is not stream:lsn"));
    (
        StreamId(stream.parse().expect("a stream")),
        Lsn(lsn.parse().expect("an lsn")),
    )
}

fn disk(number: u64) -> DiskId {
    DiskId(Uuid::from_u128(u128::from(number)))
}
