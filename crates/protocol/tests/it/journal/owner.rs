//! A candidate and, when it won, the owner: the real `FenceRound` and `Replication`.

use std::collections::BTreeMap;

use meridian_protocol::EpochRuns;
use meridian_protocol::replication::{Replication, Standing};
use meridian_protocol::takeover::{FenceOutcome, FenceRound, Fenced};
use meridian_types::{DiskId, Epoch, Lsn, Position};

use super::node::{Node, refused_epoch};
use super::{Append, Entry, Message, Oracle, QUORUM, REPLICAS};

struct Owner {
    replication: Replication,
    content: Vec<Entry>,
}

enum State {
    Idle,
    Fencing(FenceRound, [Option<Position>; REPLICAS]),
    Adopting(Epoch, Fenced, [Option<Position>; REPLICAS]),
    Owner(Owner),
}

pub struct Candidate {
    index: usize,
    state: State,
}

impl Candidate {
    pub fn new(index: usize) -> Self {
        Self {
            index,
            state: State::Idle,
        }
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    pub fn is_owner(&self) -> bool {
        matches!(self.state, State::Owner(_))
    }

    pub fn crash(&mut self) {
        self.state = State::Idle;
    }

    pub fn begin(&mut self, epoch: Epoch, rejoining: Option<(usize, DiskId)>) -> Vec<Message> {
        let candidate = self.index;
        self.state = State::Fencing(
            FenceRound::new(epoch, REPLICAS, QUORUM, rejoining),
            [None; REPLICAS],
        );
        (0..REPLICAS)
            .map(|node| Message::Fence {
                node,
                candidate,
                epoch,
            })
            .collect()
    }

    pub fn on_message(&mut self, message: Message, oracle: &mut Oracle) -> Vec<Message> {
        match (message, &mut self.state) {
            (
                Message::Fenced {
                    node,
                    epoch,
                    disk,
                    answer,
                    ..
                },
                State::Fencing(round, lasts),
            ) if epoch == round.epoch() => {
                match answer {
                    Ok(answer) => {
                        lasts[node] = Some(answer.last);
                        round.on_answer(node, disk, answer);
                    }
                    Err(refusal) => round.on_refused(node, refused_epoch(refusal)),
                }
                self.after_fence_answer()
            }
            (
                Message::Confirmed {
                    node,
                    epoch,
                    promised,
                    disk,
                    ..
                },
                State::Fencing(round, _),
            ) if epoch == round.epoch() => {
                round.on_confirmed(node, promised, disk);
                self.after_fence_answer()
            }
            (
                Message::Replied {
                    node, epoch, reply, ..
                },
                State::Owner(owner),
            ) => {
                if let Some(committed) = owner.replication.on_reply(node, epoch, reply) {
                    for entry in &owner.content[..committed.0 as usize] {
                        oracle.note(&format!("the owner of {epoch}"), *entry);
                    }
                }
                if matches!(owner.replication.standing(), Standing::Deposed { .. }) {
                    self.state = State::Idle;
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn after_fence_answer(&mut self) -> Vec<Message> {
        let State::Fencing(round, lasts) = &self.state else {
            return Vec::new();
        };
        let (candidate, epoch) = (self.index, round.epoch());
        match round.outcome() {
            FenceOutcome::Pending => Vec::new(),
            FenceOutcome::Lost { .. } => {
                self.state = State::Idle;
                Vec::new()
            }
            FenceOutcome::Confirm(nodes) => nodes
                .into_iter()
                .map(|node| Message::Confirm {
                    node,
                    candidate,
                    epoch,
                })
                .collect(),
            FenceOutcome::Won(fenced) => {
                self.state = State::Adopting(epoch, fenced, *lasts);
                Vec::new()
            }
        }
    }

    /// Reads the chosen log to exactly the position that was answered, and opens.
    pub fn adopt(&mut self, nodes: &[Node], opened: u64) {
        let State::Adopting(epoch, fenced, lasts) = &self.state else {
            return;
        };
        let Some(content) = nodes[fenced.adopt].read(fenced.last) else {
            self.state = State::Idle;
            return;
        };
        let mut log = EpochRuns::new();
        for entry in &content {
            log.push(entry.0).expect("a log without gaps");
        }
        let mut replication = Replication::new(*epoch, log, QUORUM, lasts);
        if let Some((replica, disk)) = fenced.rejoin {
            replication.allow_rejoin(replica, disk);
        }
        self.state = State::Owner(Owner { replication, content });
        self.append(opened);
    }

    pub fn append(&mut self, value: u64) {
        if let State::Owner(owner) = &mut self.state {
            let position = owner.replication.append();
            owner.content.push((position, value));
        }
    }

    pub fn send(&mut self, node: usize, at_most: usize) -> Option<Message> {
        let State::Owner(owner) = &mut self.state else {
            return None;
        };
        let outgoing = owner.replication.next_to_send(node, at_most)?;
        let from = outgoing.first.0 as usize - 1;
        let entries = owner.content[from..from + outgoing.count()].to_vec();
        let epoch = owner.replication.epoch();
        let acked = owner.replication.acked().collect();
        let append = Append {
            epoch,
            prev: outgoing.prev,
            entries,
            acked,
            rejoin: outgoing.rejoin,
        };
        Some(Message::Append {
            node,
            candidate: self.index,
            append,
        })
    }

    pub fn disconnect(&mut self, node: usize) {
        if let State::Owner(owner) = &mut self.state {
            owner.replication.on_disconnected(node);
        }
    }

    /// I7 for the last owner: it holds all that was ever committed, and has committed all it holds.
    pub fn check_log(&self, committed: &BTreeMap<Lsn, Entry>) -> Lsn {
        let State::Owner(owner) = &self.state else {
            panic!("without faults the takeover succeeds")
        };
        for (lsn, entry) in committed {
            assert_eq!(
                owner.content.get(lsn.0 as usize - 1),
                Some(entry),
                "I7: lost at {lsn}"
            );
        }
        assert_eq!(owner.replication.committed(), owner.replication.last().lsn);
        owner.replication.last().lsn
    }
}
