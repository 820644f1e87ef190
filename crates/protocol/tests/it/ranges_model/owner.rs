//! One owner of a stream, in office or not, and what the log tells its successor.

use std::time::Duration;

use meridian_protocol::adjudication::{Adjudication, AdjudicationLimits, HandedOver, Opening};
use meridian_protocol::takeover::RecoveredLog;
use meridian_types::{Epoch, Interval, Lsn, Position, RangeId, StreamId, Timestamp};

use super::oracle::{Entry, Record};

pub const LEASE: Duration = Duration::from_nanos(400);
pub const CLOCK_ERROR: u64 = 20;

/// An answer to `RaiseFloor` that waits for the log.
pub struct Raise {
    pub asker: usize,
    pub asker_epoch: Epoch,
    pub y: Timestamp,
    pub lsn: Lsn,
}

/// Somebody who decides, or still believes to.
pub struct Owner {
    pub real: Adjudication,
    /// Its own view of the log: what was adopted, and what it handed out since.
    pub log: Vec<Entry>,
    /// How many of these it knows to be committed.
    pub known: usize,
    /// How far its clock reads ahead of the true time, at most twice the error.
    pub ahead: u64,
    pub lease_asked: Timestamp,
    pub raises: Vec<Raise>,
    /// It goes on with its predecessor's state.
    pub was_handed: bool,
}

impl Owner {
    pub fn clock(&self, now: u64) -> Interval {
        let latest = now + self.ahead;
        Interval {
            earliest: Timestamp(latest - 2 * CLOCK_ERROR),
            latest: Timestamp(latest),
        }
    }

    pub fn hand_out(&mut self, lsn: Lsn, record: Record) {
        let epoch = self.real.epoch();
        self.log.push(Entry { epoch, record });
        assert_eq!(lsn.0 as usize, self.log.len(), "lsns are handed out without gaps");
    }

    pub fn epoch_of(&self, lsn: Lsn) -> Epoch {
        self.log[lsn.0 as usize - 1].epoch
    }

    /// Asks for a lease of at least `end`.
    pub fn lease(&mut self, end: Timestamp) -> Lsn {
        self.lease_asked = self.lease_asked.max(end);
        let lsn = self.real.take_lsn();
        let end = self.lease_asked;
        self.hand_out(lsn, Record::Lease { end });
        lsn
    }

    pub fn renew(&mut self, now: u64) {
        let end = self.clock(now).latest.saturating_add(LEASE);
        if end > self.lease_asked {
            self.lease(end);
        }
    }
}

/// R18: opens with what the log tells, or with what was handed over if that fits.
pub fn open(
    stream: usize,
    streams: usize,
    epoch: Epoch,
    mut log: Vec<Entry>,
    (now, ahead): (u64, u64),
    limits: AdjudicationLimits,
    handed: Option<&HandedOver>,
) -> Owner {
    let adopted = Position {
        epoch: log.last().map(|entry| entry.epoch).unwrap_or_default(),
        lsn: Lsn(log.len() as u64),
    };
    let mut recovered = RecoveredLog::default();
    for (index, entry) in log.iter().enumerate() {
        let lsn = Lsn(index as u64 + 1);
        match &entry.record {
            Record::Commit { commit, .. } => recovered.on_commit(lsn, *commit),
            Record::Lease { end } | Record::Opened { end } => recovered.on_lease(lsn, *end),
            Record::Released { floor } => recovered.on_released(lsn, *floor),
            Record::Barred { .. } => recovered.on_other(lsn),
        }
    }
    let floor = recovered.floor();
    let end = Timestamp(now + ahead).saturating_add(LEASE).max(floor);
    let record = Record::Opened { end };
    log.push(Entry { epoch, record });
    let opening = Opening {
        range: RangeId(stream as u64 + 1),
        stream: StreamId(stream as u64 + 1),
        epoch,
        floor,
        lease_end: end,
        opened: Lsn(log.len() as u64),
        outcome_low: Timestamp::ZERO,
    };
    let others = (0..streams).map(|other| StreamId(other as u64 + 1));
    let taken = handed.and_then(|handed| Adjudication::take_over(opening, adopted, limits, handed));
    let was_handed = taken.is_some();
    let mut real = match taken {
        Some(mut real) => {
            real.on_map_durable(others);
            real
        }
        None => Adjudication::open(opening, limits).with_streams(others),
    };
    for (index, entry) in log.iter().enumerate() {
        let lsn = Lsn(index as u64 + 1);
        match &entry.record {
            Record::Commit { txn, commit } => real.recover_commit(txn.id, *commit, lsn),
            Record::Barred { txn } => real.recover_barred(*txn, lsn),
            _ => {}
        }
    }
    let known = log.len();
    Owner {
        real,
        log,
        known,
        ahead,
        lease_asked: end,
        raises: Vec::new(),
        was_handed,
    }
}
