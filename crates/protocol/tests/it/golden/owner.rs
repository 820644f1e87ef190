//! Commands about one range's owner: deciding, closing, recovering.

use std::time::Duration;

use meridian_protocol::adjudication::{
    Adjudication, AdjudicationLimits, CommitRequest, Decision, Opening, OutcomeAnswer, Refusal,
};
use meridian_protocol::takeover::RecoveredLog;
use meridian_protocol::visibility::{Consulted, Horizon, Version, versions_to_keep, visible_at};
use meridian_types::{
    Attempt, CommitToken, Epoch, Interval, Key, KeyRange, Lsn, RangeId, StreamId, Timestamp, TxnId,
};
use uuid::Uuid;

use super::{Command, key_range};

pub struct Owner {
    now: u64,
    error: u64,
    lead: u64,
    limits: AdjudicationLimits,
    real: Option<Adjudication>,
    log: RecoveredLog,
    versions: Vec<Version<String>>,
}

impl Default for Owner {
    fn default() -> Self {
        let limits = AdjudicationLimits {
            max_clock_error: Duration::from_nanos(50),
            ..Default::default()
        };
        let log = RecoveredLog::default();
        Self {
            now: 0,
            error: 0,
            lead: 0,
            limits,
            real: None,
            log,
            versions: Vec::new(),
        }
    }
}

impl Owner {
    fn clock(&self) -> Interval {
        let error = Duration::from_nanos(self.error);
        Interval {
            earliest: Timestamp(self.now).saturating_sub(error),
            latest: Timestamp(self.now),
        }
    }

    fn real(&mut self) -> &mut Adjudication {
        self.real.as_mut().expect("open first")
    }

    pub fn run(&mut self, command: &Command<'_>) -> Option<String> {
        Some(match command.name {
            "limits" => {
                if let Some(bytes) = command.maybe("recent_writes_bytes") {
                    self.limits.recent_writes_bytes = bytes as usize;
                }
                if let Some(outcomes) = command.maybe("outcomes") {
                    self.limits.outcomes = outcomes as usize;
                }
                String::new()
            }
            "now" => {
                self.now = command.plain[0].parse().expect("a time");
                self.error = command.maybe("error").unwrap_or(self.error);
                String::new()
            }
            "lead" => {
                self.lead = command.plain[0].parse().expect("a duration");
                String::new()
            }
            "open" => self.open(command),
            "commit" => self.commit(command),
            "outcome" => self.outcome(command),
            "lease" => {
                let end = command.time("end");
                self.real().on_lease_durable(end);
                String::new()
            }
            "close" => self.close(),
            "depend" => {
                self.real()
                    .note_dependency(StreamId(command.number("stream")), Lsn(command.number("lsn")));
                String::new()
            }
            "forget" => {
                let count = self.real().forget_outcomes_before(command.time("before"));
                let real = self.real();
                format!(
                    "forgot {count}, outcome_low {}, window_low {}",
                    real.outcome_low(),
                    real.window_low()
                )
            }
            "release" => {
                let (floor, lsn) = self.real().release();
                format!("Released floor {floor} at lsn {lsn}")
            }
            "log" => self.read_log(command),
            "versions" => self.versions(command),
            "read" => self.read(command),
            "retain" => self.retain(command),
            _ => return None,
        })
    }

    fn open(&mut self, command: &Command<'_>) -> String {
        let opening = Opening {
            range: RangeId(1),
            stream: StreamId(1),
            epoch: Epoch(command.maybe("epoch").unwrap_or(1)),
            floor: Timestamp(command.maybe("floor").unwrap_or_default()),
            lease_end: command.time("lease_end"),
            opened: Lsn(command.maybe("lsn").unwrap_or(1)),
            outcome_low: Timestamp(command.maybe("outcome_low").unwrap_or_default()),
        };
        self.real = Some(Adjudication::open(opening, self.limits));
        String::new()
    }

    fn commit(&mut self, command: &Command<'_>) -> String {
        let (now, lead) = (self.clock(), Duration::from_nanos(self.lead));
        let real = self.real();
        let epoch = Epoch(command.maybe("epoch").unwrap_or(real.epoch().0));
        let written: Vec<Key> = command.list("write").into_iter().map(Key::from).collect();
        let reads: Vec<KeyRange> = command.list("read").into_iter().map(key_range).collect();
        let attempt = Attempt {
            txn: txn(command.plain[0]),
            number: 1,
            home: StreamId(1),
            home_epoch: epoch,
        };
        let start = command.time("start");
        let request = CommitRequest {
            attempt,
            start,
            written: &written,
            reads: &reads,
        };
        match real.decide(&request, now, lead) {
            Decision::Commit { commit, lsn } => format!("commit {commit} at lsn {lsn}"),
            Decision::Known { commit, lsn } => format!("known: commit {commit} at lsn {lsn}"),
            Decision::Refused(refusal) => describe(&refusal, epoch),
        }
    }

    fn outcome(&mut self, command: &Command<'_>) -> String {
        let token = CommitToken {
            txn: txn(command.plain[0]),
            start: command.time("start"),
            home: Some(StreamId(1)),
        };
        let now = self.clock();
        match self.real().outcome(&token, now) {
            OutcomeAnswer::Committed { commit, lsn } => format!("committed {commit} at lsn {lsn}"),
            OutcomeAnswer::Bar { lsn } => format!("bar: append Barred at lsn {lsn}"),
            OutcomeAnswer::Aborted { lsn } => format!("aborted once lsn {lsn} is committed"),
            OutcomeAnswer::Forgotten => "forgotten".to_owned(),
            OutcomeAnswer::Unavailable => "unavailable".to_owned(),
        }
    }

    fn close(&mut self) -> String {
        let (now, lead) = (self.clock(), Duration::from_nanos(self.lead));
        match self.real().close(now, lead) {
            Some(closure) => {
                let after: Vec<String> = closure
                    .after
                    .iter()
                    .map(|(stream, lsn)| format!("{stream}:{lsn}"))
                    .collect();
                format!(
                    "closed {} after {}, floor {}",
                    closure.x,
                    after.join(","),
                    self.real().floor()
                )
            }
            None => "nothing to close".to_owned(),
        }
    }

    /// `log commit=5` and so on: what recovery reads, and the floor that follows.
    fn read_log(&mut self, command: &Command<'_>) -> String {
        let lsn = self.log.last.next();
        for (what, value) in &command.named {
            let value = Timestamp(value.parse().expect("a time"));
            match *what {
                "commit" => self.log.on_commit(lsn, value),
                "lease_end" => self.log.on_lease(lsn, value),
                "released" => self.log.on_released(lsn, value),
                other => panic!("no record {other}"),
            }
        }
        format!("floor {}", self.log.floor())
    }

    fn versions(&mut self, command: &Command<'_>) -> String {
        let version = |text: &&str| {
            let (timestamp, value) = text.split_once(':').expect("time:value");
            let timestamp = Timestamp(timestamp.parse().expect("a time"));
            Version {
                timestamp,
                value: (value != "deleted").then(|| value.to_owned()),
            }
        };
        self.versions = command.plain.iter().map(version).collect();
        String::new()
    }

    fn read(&mut self, command: &Command<'_>) -> String {
        let at = command.time("at");
        let mut horizon = Horizon::default();
        horizon.advance(
            self.clock(),
            Duration::from_nanos(command.maybe("retention").unwrap_or(1_000)),
        );
        if let Err(refused) = horizon.admit(at) {
            return refused.to_string();
        }
        let mut consulted = Consulted::new();
        let found = visible_at(self.versions.clone(), at);
        if let Some(version) = &found {
            consulted.note(version.timestamp);
        }
        let value = found
            .and_then(|version| version.value)
            .unwrap_or_else(|| "nothing".to_owned());
        let wait = if consulted.may_answer(self.clock()) {
            "now"
        } else {
            "later"
        };
        format!("{value}, not before {}: {wait}", consulted.answer_not_before())
    }

    fn retain(&mut self, command: &Command<'_>) -> String {
        let versions = self
            .versions
            .iter()
            .map(|version| (version.timestamp, version.value.is_none()));
        format!("keep {}", versions_to_keep(versions, command.time("horizon")))
    }
}

fn txn(name: &str) -> TxnId {
    TxnId(Uuid::from_u128(
        name.trim_start_matches('t').parse().expect("t<number>"),
    ))
}

fn describe(refusal: &Refusal, epoch: Epoch) -> String {
    let means = if refusal.is_definite_abort(epoch) {
        "aborted"
    } else {
        "not decided"
    };
    format!("refused ({means}): {refusal}")
}
