//! A journal node: the real `ReplicaLog`, a write-ahead log in memory, syncs and crashes.

use meridian_protocol::fencing::{AppendDecision, FenceRefusal, ReplicaLog};
use meridian_protocol::replication::Reply;
use meridian_types::{DiskId, Epoch, Lsn, NodeName, Position};
use uuid::Uuid;

use super::{Append, Entry, Message, Oracle, QUORUM};

pub fn disk(number: u128) -> DiskId {
    DiskId(Uuid::from_u128(number))
}

#[derive(Clone, Debug)]
enum Record {
    Promise(Epoch),
    Entry(Entry),
    Rejoined,
}

/// What becomes true, and may be said, with the next sync.
enum AfterSync {
    Say(Message),
    Persisted {
        epoch: Epoch,
        matched: Position,
        acked: Vec<Lsn>,
        reply: Message,
    },
}

pub struct Node {
    index: usize,
    disk: DiskId,
    replaced: bool,
    log: ReplicaLog,
    /// Entry n at n - 1.
    content: Vec<Entry>,
    wal: Vec<Record>,
    synced: usize,
    waiting: Vec<AfterSync>,
    /// How often an owner rebuilt it after a lost disk.
    pub rebuilt: usize,
}

impl Node {
    pub fn new(index: usize, disk: DiskId) -> Self {
        let log = ReplicaLog::new();
        let (content, wal, waiting) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            index,
            disk,
            replaced: false,
            log,
            content,
            wal,
            synced: 0,
            waiting,
            rebuilt: 0,
        }
    }

    pub fn index(&self) -> usize {
        self.index
    }

    pub fn rejoining(&self) -> Option<DiskId> {
        self.log.is_rejoining()
    }

    /// Whether it is being rebuilt, as far as its disk knows: without the sync a crash would begin it anew.
    pub fn is_rejoining(&self) -> bool {
        let mark = |record: &Record| matches!(record, Record::Rejoined);
        self.replaced && !self.wal[..self.synced].iter().any(mark)
    }

    pub fn committed(&self) -> Lsn {
        self.log.committed()
    }

    /// The log up to `last`, if it is still there.
    pub fn read(&self, last: Position) -> Option<Vec<Entry>> {
        (self.log.epoch_at(last.lsn) == Some(last.epoch))
            .then(|| self.content[..last.lsn.0 as usize].to_vec())
    }

    pub fn on_fence(&mut self, candidate: usize, epoch: Epoch) {
        let answer = self
            .log
            .on_fence(epoch, NodeName(format!("adjudicator-{candidate}")));
        if answer.is_ok() {
            self.wal.push(Record::Promise(epoch));
        }
        let (node, disk) = (self.index, self.disk);
        self.waiting.push(AfterSync::Say(Message::Fenced {
            candidate,
            node,
            epoch,
            disk,
            answer,
        }));
    }

    pub fn on_confirm(&self, candidate: usize, epoch: Epoch) -> Message {
        let disk = self.log.is_rejoining().is_none().then_some(self.disk);
        Message::Confirmed {
            candidate,
            node: self.index,
            epoch,
            promised: self.log.promised(),
            disk,
        }
    }

    pub fn on_append(&mut self, candidate: usize, append: Append) -> Option<Message> {
        let Append {
            epoch,
            prev,
            entries,
            acked,
            rejoin,
        } = append;
        let positions: Vec<Position> = entries.iter().map(|entry| entry.0).collect();
        let reply = |reply| Message::Replied {
            candidate,
            node: self.index,
            epoch,
            reply,
        };
        match self.log.on_append(epoch, prev, &positions, rejoin) {
            AppendDecision::Refused { promised } => Some(reply(Reply::Refused { promised })),
            AppendDecision::Mismatch { last } => Some(reply(Reply::Mismatch { prev, last })),
            AppendDecision::Rejoining { disk } => Some(reply(Reply::Rejoining { disk })),
            AppendDecision::Malformed => panic!("no owner sends a malformed append"),
            AppendDecision::CutsCommitted { committed, at } => {
                panic!(
                    "I7: node {} has committed {committed}, {epoch} sends {at}",
                    self.index
                )
            }
            AppendDecision::Accepted {
                persist_promise,
                skip,
                cut_to,
                matched,
                rejoined,
            } => {
                let reply = reply(Reply::Matched(matched));
                if persist_promise {
                    self.wal.push(Record::Promise(epoch));
                }
                if let Some(lsn) = cut_to {
                    self.content.truncate(lsn.0 as usize);
                }
                for entry in &entries[skip..] {
                    assert_eq!(entry.0.lsn.0 as usize, self.content.len() + 1);
                    self.content.push(*entry);
                    self.wal.push(Record::Entry(*entry));
                }
                if rejoined {
                    self.rebuilt += 1;
                    self.wal.push(Record::Rejoined);
                }
                assert_eq!(self.log.last().lsn.0 as usize, self.content.len());
                self.waiting.push(AfterSync::Persisted {
                    epoch,
                    matched,
                    acked,
                    reply,
                });
                None
            }
        }
    }

    pub fn sync(&mut self, oracle: &mut Oracle) -> Vec<Message> {
        self.synced = self.wal.len();
        let mut out = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                AfterSync::Say(message) => out.push(message),
                AfterSync::Persisted {
                    epoch,
                    matched,
                    acked,
                    reply,
                } => {
                    self.log.on_persisted(epoch, matched);
                    if let Some(committed) = self.log.on_acked(epoch, &acked, self.index, QUORUM) {
                        for entry in &self.content[..committed.0 as usize] {
                            oracle.note(&format!("node {}", self.index), *entry);
                        }
                    }
                    out.push(reply);
                }
            }
        }
        out
    }

    /// The process dies: some prefix of what was not synced survives.
    pub fn crash(&mut self, random: u64) {
        let unsynced = self.wal.len() - self.synced;
        self.wal
            .truncate(self.synced + (random % (unsynced as u64 + 1)) as usize);
        self.recover();
    }

    /// The disk is lost.
    pub fn wipe(&mut self, disk: DiskId) {
        self.disk = disk;
        self.replaced = true;
        self.wal.clear();
        self.recover();
    }

    fn recover(&mut self) {
        self.waiting.clear();
        self.content.clear();
        self.synced = self.wal.len();
        self.log = if self.replaced {
            ReplicaLog::rejoining(self.disk)
        } else {
            ReplicaLog::new()
        };
        for record in &self.wal {
            match record {
                Record::Promise(epoch) => self.log.on_recovered_promise(*epoch, None),
                Record::Rejoined => self.log.on_recovered_rejoined(),
                Record::Entry(entry) => {
                    self.log
                        .on_recovered_entry(entry.0)
                        .expect("the log is as it was written");
                    self.content.truncate(entry.0.lsn.0 as usize - 1);
                    self.content.push(*entry);
                }
            }
        }
        assert_eq!(self.log.last().lsn.0 as usize, self.content.len());
    }
}

/// A refusal as the candidate's round wants it.
pub fn refused_epoch(refusal: FenceRefusal) -> Epoch {
    match refusal {
        FenceRefusal::Promised { promised } => promised,
        FenceRefusal::Rejoining { .. } => Epoch(0),
    }
}
