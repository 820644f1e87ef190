//! A scan of a transaction, page by page.
//!
//! A scan sees the transaction's own writes as they were when it began; what the transaction writes while it
//! reads the pages does not disturb it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use meridian_rpc::error::KvResult;
use meridian_rpc::internal::{ScanKeys, ScannedPage};
use meridian_rpc::v1::hop::Kind;
use meridian_rpc::v1::{Predicate, Row, ScanPage, ScanRequest};
use meridian_rpc::{KvError, convert};
use meridian_types::{Key, KeyRange};
use tokio::time::Instant;

use crate::budget::Reservation;
use crate::buffer::{Buffered, ENTRY_OVERHEAD, check_bound};
use crate::overlay::Overlay;
use crate::predicate;
use crate::processor::Processor;
use crate::txn::Txn;

/// What a row costs in a message beside its key and value, about.
const ROW_OVERHEAD: usize = 16;
/// Most rows asked of storage beyond the limit, to make up for rows that own writes hide.
const MAX_EXTRA_ROWS: u64 = 1_000;

/// What to scan.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScanSpec {
    pub(crate) range: KeyRange,
    /// Most rows; `None`: all.
    pub(crate) limit: Option<u64>,
    pub(crate) reverse: bool,
    pub(crate) keys_only: bool,
    pub(crate) count_only: bool,
    pub(crate) predicates: Vec<Predicate>,
    pub(crate) for_update: bool,
}

impl ScanSpec {
    /// From a request, checked.
    pub(crate) fn new(request: ScanRequest) -> KvResult<Self> {
        check_bound(&request.start)?;
        check_bound(&request.end)?;
        predicate::check(&request.predicates)?;
        Ok(Self {
            range: convert::range_from_bytes(request.start, request.end),
            limit: (request.limit > 0).then_some(request.limit),
            reverse: request.reverse,
            keys_only: request.keys_only,
            count_only: request.count_only,
            predicates: request.predicates,
            for_update: request.for_update,
        })
    }
}

/// A scan under way.
pub(crate) struct Scan {
    txn: Arc<Txn>,
    spec: ScanSpec,
    /// Whether what it reads is checked at commit.
    checked: bool,
    overlay: Overlay,
    /// Keys that are still to be read.
    rest: KeyRange,
    /// Rows found, and not handed out yet.
    ready: VecDeque<Row>,
    /// Rows found in all.
    found: u64,
    /// Rows handed out in all (or counted).
    handed_out: u64,
    /// Nothing more is to be read.
    read_all: bool,
    _held: Reservation,
}

impl Scan {
    /// A scan with the transaction's own writes as they are now. `held` must cover [`Self::held_bytes`].
    pub(crate) fn new(
        txn: Arc<Txn>,
        spec: ScanSpec,
        checked: bool,
        own: Vec<(Key, Buffered)>,
        held: Reservation,
    ) -> Self {
        Self {
            overlay: Overlay::new(own, spec.reverse),
            rest: spec.range.clone(),
            read_all: spec.range.is_empty(),
            txn,
            spec,
            checked,
            ready: VecDeque::new(),
            found: 0,
            handed_out: 0,
            _held: held,
        }
    }

    /// What a scan over so many own writes holds, about; the payloads are shared with the transaction.
    pub(crate) fn held_bytes(own: usize) -> usize {
        own * ENTRY_OVERHEAD
    }

    /// The next page: at least one row, unless it is the last one. A scan that only counts has one page.
    pub(crate) async fn next_page(&mut self, processor: &Processor, deadline: Instant) -> KvResult<ScanPage> {
        let _busy = self.txn.enter()?;
        let span = self.txn.span(Kind::ScanPage);
        let range = &self.spec.range;
        let at = self.txn.start(processor, range, deadline, &span).await?;
        while !self.read_all && (self.spec.count_only || self.ready.is_empty()) {
            let request = self.request(processor.config.page_bytes);
            let page = processor.storage.scan(at, request, deadline, &span).await;
            self.absorb(page.map_err(|error| self.txn.too_fresh(error))?)?;
        }
        // The transaction may have ended meanwhile; then its reads are not answered any more.
        self.txn.check_open()?;
        Ok(ScanPage {
            snapshot: self.txn.snapshot(processor),
            ..self.hand_out(processor.config.page_bytes)
        })
    }

    /// Counting is left to storage where no own write can hide a row.
    fn counts_at_storage(&self) -> bool {
        self.spec.count_only && self.overlay.len() == 0
    }

    fn request(&self, page_bytes: usize) -> ScanKeys {
        let (start, end) = convert::range_to_bytes(self.rest.clone());
        let own = u64::try_from(self.overlay.len()).unwrap_or(u64::MAX);
        let remaining = |limit: u64| (limit - self.found).saturating_add(own.min(MAX_EXTRA_ROWS));
        ScanKeys {
            start,
            end,
            limit: self.spec.limit.map_or(0, remaining),
            reverse: self.spec.reverse,
            keys_only: self.spec.keys_only || self.spec.count_only,
            count_only: self.counts_at_storage(),
            predicates: self.spec.predicates.clone(),
            page_bytes: page_bytes as u64,
        }
    }

    /// Takes in one page of storage's: lays the own writes over it, cuts it at the limit, and notes what
    /// was read.
    fn absorb(&mut self, page: ScannedPage) -> KvResult<()> {
        let border = page.more.then_some(Key(page.resume));
        if let Some(border) = &border {
            self.check_progress(border)?;
        }
        let left = self.spec.limit.map_or(u64::MAX, |limit| limit - self.found);
        let mut covered = self.covered(border.as_ref());
        let mut full = false;
        if self.counts_at_storage() {
            self.found += page.count.min(left);
            full = page.count >= left;
        } else {
            let spec = &self.spec;
            let mut rows = self
                .overlay
                .merge(page.rows, border.as_ref(), |key, value| own_row(spec, key, value));
            if rows.len() as u64 >= left {
                full = true;
                rows.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                // What lies behind the last row wanted was not read, as far as anybody can tell.
                if let Some(last) = rows.last() {
                    covered = up_to(covered, Key(last.key.clone()), self.spec.reverse);
                }
            }
            self.found += rows.len() as u64;
            if !self.spec.count_only {
                self.ready.extend(rows);
            }
        }
        if self.checked {
            self.txn.note_read(covered)?;
        }
        self.read_all = full || border.is_none();
        if let Some(border) = border {
            if self.spec.reverse {
                self.rest.end = Some(border);
            } else {
                self.rest.start = border;
            }
            self.read_all |= self.rest.is_empty();
        }
        Ok(())
    }

    /// A page must get on, or the scan would never end.
    fn check_progress(&self, border: &Key) -> KvResult<()> {
        let inside = *border >= self.rest.start && self.rest.end.as_ref().is_none_or(|end| border <= end);
        let stuck = if self.spec.reverse {
            self.rest.end.as_ref() == Some(border)
        } else {
            *border == self.rest.start
        };
        if inside && !stuck {
            return Ok(());
        }
        Err(KvError::internal(
            "a storage node's page of a scan does not get on",
        ))
    }

    /// The keys that a page of storage's tells about.
    fn covered(&self, border: Option<&Key>) -> KeyRange {
        let mut covered = self.rest.clone();
        match border {
            Some(border) if self.spec.reverse => covered.start = border.clone(),
            Some(border) => covered.end = Some(border.clone()),
            None => {}
        }
        covered
    }

    fn hand_out(&mut self, page_bytes: usize) -> ScanPage {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < page_bytes {
            let Some(row) = self.ready.pop_front() else {
                break;
            };
            bytes += row.key.len() + row.value.len() + ROW_OVERHEAD;
            rows.push(row);
        }
        if self.spec.count_only {
            self.handed_out = self.found;
        } else {
            self.handed_out += rows.len() as u64;
        }
        ScanPage {
            rows,
            count: self.handed_out,
            last: self.read_all && self.ready.is_empty(),
            snapshot: None,
        }
    }
}

/// The part of a range that a scan has passed once it returned `last`.
fn up_to(range: KeyRange, last: Key, reverse: bool) -> KeyRange {
    if reverse {
        KeyRange { start: last, ..range }
    } else {
        KeyRange {
            end: Some(last.successor()),
            ..range
        }
    }
}

/// The row of an own write, if the scan's predicates let it through.
fn own_row(spec: &ScanSpec, key: &Key, value: &Bytes) -> Option<Row> {
    predicate::all_hold(&spec.predicates, value).then(|| Row {
        key: key.0.clone(),
        value: if spec.keys_only || spec.count_only {
            Bytes::new()
        } else {
            value.clone()
        },
        timestamp: 0,
    })
}
