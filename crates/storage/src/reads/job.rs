//! One read, evaluated a chunk at a time.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;

use bytes::Bytes;
use meridian_protocol::events;
use meridian_protocol::visibility::{Consulted, Version};
use meridian_rpc::KvError;
use meridian_rpc::convert::range_from_bytes;
use meridian_rpc::error::KvResult;
use meridian_rpc::internal::storage_read::Read;
use meridian_rpc::internal::storage_read_reply::Result as Answer;
use meridian_rpc::internal::{GetKeys, GotKeys, ScanKeys, ScannedPage};
use meridian_rpc::v1::{GetResponse, Row};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Key, KeyRange, RangeId, RangeMap, Timestamp, limits};

use super::predicate::Predicate;
use crate::config::Config;
use crate::error::StoreError;
use crate::store::{Direction, VersionStore};

/// Most bytes of values that the answer to one `GetKeys` may hold: it must fit into a message beside others.
const MAX_GOT_BYTES: usize = 12 << 20;
/// About what a row costs beside its key and value.
const ROW_OVERHEAD_BYTES: usize = 24;

/// What a read wants, checked, and how far it has come.
pub(super) enum Job {
    Get(Get),
    Scan(Box<Scan>),
}

/// What one chunk came to.
pub(super) enum Step {
    /// Answered, and what was consulted for it (R4).
    Done(Answer, Consulted),
    /// There is more to do.
    More,
    /// The request cannot be answered as it is.
    Refused(KvError),
}

impl Job {
    /// Checks a read and names the ranges that it touches.
    pub fn new(read: Read, map: &RangeMap, config: &Config) -> KvResult<(Self, BTreeSet<RangeId>)> {
        let job = match read {
            Read::Get(get) => {
                check_keys(&get)?;
                Self::Get(Get::new(get))
            }
            Read::Scan(scan) => Self::Scan(Box::new(Scan::new(scan, config)?)),
            Read::Closed(_) => return Err(KvError::internal("a question about closures is no read")),
        };
        let ranges = job.ranges(map)?;
        Ok((job, ranges))
    }

    /// The ranges that are still to be read.
    pub fn ranges(&self, map: &RangeMap) -> KvResult<BTreeSet<RangeId>> {
        match self {
            Self::Get(get) => {
                let ranges = get.keys.iter().map(|key| {
                    let key = Key(key.clone());
                    map.lookup(&key)
                        .map(|range| range.id)
                        .ok_or_else(|| uncovered(&key))
                });
                ranges.collect()
            }
            Self::Scan(scan) => ranges_of(map, &scan.remaining),
        }
    }

    /// The keys that are still to be read, as ranges.
    pub fn keys(&self) -> Box<dyn Iterator<Item = KeyRange> + '_> {
        match self {
            Self::Get(get) => Box::new(get.keys.iter().map(|key| KeyRange::point(Key(key.clone())))),
            Self::Scan(scan) => Box::new(std::iter::once(scan.remaining.clone())),
        }
    }

    /// Does about `steps` versions' worth of work at the timestamp.
    pub fn step(
        &mut self,
        store: &dyn VersionStore,
        at: Timestamp,
        steps: usize,
    ) -> Result<Step, StoreError> {
        let at = if is_broken(Rule::SnapshotVersion) {
            Timestamp::MAX
        } else {
            at
        };
        match self {
            Self::Get(get) => get.step(store, at, steps),
            Self::Scan(scan) => scan.step(store, at, steps),
        }
    }
}

/// The ranges that a range of keys touches. All of it must be covered: what lies in a gap is nobody's to
/// close.
pub(super) fn ranges_of(map: &RangeMap, keys: &KeyRange) -> KvResult<BTreeSet<RangeId>> {
    if keys.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut ranges = BTreeSet::new();
    let mut covered = Some(keys.start.clone());
    for entry in map.overlapping(keys) {
        if covered.as_ref().is_none_or(|key| entry.keys.start > *key) {
            break;
        }
        ranges.insert(entry.id);
        covered = entry.keys.end.clone();
        if covered.is_none() {
            return Ok(ranges);
        }
    }
    match (covered, &keys.end) {
        (Some(covered), Some(end)) if covered >= *end => Ok(ranges),
        (covered, _) => Err(uncovered(&covered.unwrap_or_default())),
    }
}

fn uncovered(key: &Key) -> KvError {
    KvError::unavailable(format!("the range map has no range for key {key}"))
}

fn check_keys(get: &GetKeys) -> KvResult<()> {
    let exceeded = |limit: &str, allowed: usize, got: usize| KvError::LimitExceeded {
        limit: limit.to_owned(),
        allowed: allowed as u64,
        got: got as u64,
    };
    if get.keys.len() > limits::MAX_BATCH_KEYS {
        return Err(exceeded(
            "keys of one batch read",
            limits::MAX_BATCH_KEYS,
            get.keys.len(),
        ));
    }
    match get.keys.iter().map(Bytes::len).max() {
        Some(longest) if longest > limits::MAX_KEY_BYTES => {
            Err(exceeded("key length in bytes", limits::MAX_KEY_BYTES, longest))
        }
        _ => Ok(()),
    }
}

/// A read of single keys.
pub(super) struct Get {
    keys: VecDeque<Bytes>,
    values: Vec<GetResponse>,
    bytes: usize,
    consulted: Consulted,
}

impl Get {
    fn new(get: GetKeys) -> Self {
        Self {
            values: Vec::with_capacity(get.keys.len()),
            keys: get.keys.into(),
            bytes: 0,
            consulted: Consulted::new(),
        }
    }

    /// Keys that are not read yet.
    pub fn remaining(&self) -> usize {
        self.keys.len()
    }

    fn step(&mut self, store: &dyn VersionStore, at: Timestamp, steps: usize) -> Result<Step, StoreError> {
        for _ in 0..steps.max(1) {
            let Some(key) = self.keys.pop_front() else { break };
            let version = store.newest(&key, at)?;
            let newest = version
                .as_ref()
                .map_or(Timestamp::ZERO, |version| version.timestamp);
            self.consulted.note(newest);
            tracing::trace!(
                target: events::TARGET, event = "looked_up", at = at.0, key = &key[..], newest = newest.0
            );
            let (timestamp, value) = match version {
                Some(Version {
                    timestamp,
                    value: Some(value),
                }) => (timestamp.0, Some(value)),
                _ => (0, None),
            };
            self.bytes += ROW_OVERHEAD_BYTES + value.as_ref().map_or(0, Bytes::len);
            self.values.push(GetResponse {
                value,
                timestamp,
                snapshot: None,
            });
            if self.bytes > MAX_GOT_BYTES {
                return Ok(Step::Refused(KvError::LimitExceeded {
                    limit: "bytes of values of one batch read".to_owned(),
                    allowed: MAX_GOT_BYTES as u64,
                    got: self.bytes as u64,
                }));
            }
        }
        if !self.keys.is_empty() {
            return Ok(Step::More);
        }
        let values = std::mem::take(&mut self.values);
        Ok(Step::Done(Answer::Got(GotKeys { values }), self.consulted))
    }
}

/// One page of a scan.
pub(super) struct Scan {
    remaining: KeyRange,
    direction: Direction,
    keys_only: bool,
    count_only: bool,
    predicates: Vec<Predicate>,
    rows_wanted: u64,
    bytes_wanted: usize,
    /// Keys that the page may still look at.
    keys_left: usize,
    page: ScannedPage,
    bytes: usize,
    consulted: Consulted,
}

impl Scan {
    fn new(scan: ScanKeys, config: &Config) -> KvResult<Self> {
        let asked = usize::try_from(scan.page_bytes).unwrap_or(usize::MAX);
        Ok(Self {
            remaining: range_from_bytes(scan.start, scan.end),
            direction: if scan.reverse {
                Direction::Reverse
            } else {
                Direction::Forward
            },
            keys_only: scan.keys_only,
            count_only: scan.count_only,
            predicates: Predicate::parse(scan.predicates)?,
            rows_wanted: if scan.limit == 0 { u64::MAX } else { scan.limit },
            bytes_wanted: if asked == 0 {
                config.page_bytes
            } else {
                asked.min(config.max_page_bytes)
            },
            keys_left: config.page_keys,
            page: ScannedPage::default(),
            bytes: 0,
            consulted: Consulted::new(),
        })
    }

    fn step(&mut self, store: &dyn VersionStore, at: Timestamp, steps: usize) -> Result<Step, StoreError> {
        let steps = steps.clamp(1, self.keys_left.max(1));
        let range = self.remaining.clone();
        let (mut looked_at, mut is_full) = (0, false);
        let resume = store.walk(&range, at, self.direction, steps, &mut |key, version| {
            looked_at += 1;
            is_full = self.visit(key, version);
            if is_full {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        // A chunk that met only versions that are too new has worked as well.
        let worked = if resume.is_some() && !is_full {
            steps
        } else {
            looked_at
        };
        self.keys_left = self.keys_left.saturating_sub(worked);
        self.log_read(&range, resume.as_ref(), at);
        let is_last = resume.is_none();
        if let Some(resume) = resume {
            match self.direction {
                Direction::Forward => self.remaining.start = resume,
                Direction::Reverse => self.remaining.end = Some(resume),
            }
        }
        if !is_last && !is_full && self.keys_left > 0 {
            return Ok(Step::More);
        }
        let mut page = std::mem::take(&mut self.page);
        page.more = !is_last;
        if page.more {
            page.resume = match self.direction {
                Direction::Forward => self.remaining.start.0.clone(),
                Direction::Reverse => self.remaining.end.take().unwrap_or_default().0,
            };
        }
        Ok(Step::Done(Answer::Page(page), self.consulted))
    }

    /// Of the range, what comes before `resume` in the scan's direction was looked at.
    fn log_read(&self, range: &KeyRange, resume: Option<&Key>, at: Timestamp) {
        let (start, end) = match (self.direction, resume) {
            (Direction::Forward, Some(resume)) => (&range.start, Some(resume)),
            (Direction::Reverse, Some(resume)) => (resume, range.end.as_ref()),
            (_, None) => (&range.start, range.end.as_ref()),
        };
        tracing::trace!(
            target: events::TARGET, event = "scanned", at = at.0, start = start.as_ref(), end = end.map(Key::as_ref),
            newest = self.consulted.answer_not_before().0
        );
    }

    /// Takes a key's visible version; answers whether the page is full.
    fn visit(&mut self, key: Key, version: Version<Bytes>) -> bool {
        // R4: rejected or deleted, it tells the reader something too.
        self.consulted.note(version.timestamp);
        let Some(value) = version.value else { return false };
        if !self.predicates.iter().all(|predicate| predicate.holds(&value)) {
            return false;
        }
        self.page.count += 1;
        if !self.count_only {
            let value = if self.keys_only { Bytes::new() } else { value };
            self.bytes += ROW_OVERHEAD_BYTES + key.0.len() + value.len();
            self.page.rows.push(Row {
                key: key.0,
                value,
                timestamp: version.timestamp.0,
            });
        }
        self.page.count >= self.rows_wanted || self.bytes >= self.bytes_wanted
    }
}
