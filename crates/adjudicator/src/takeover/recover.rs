//! Reading what a new owner needs of the adopted log: the epochs of its entries and the recent outcomes (section 5).

use bytes::Bytes;
use meridian_protocol::{EpochRuns, LogGap};
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::{Entry, LeaseRecord};
use meridian_rpc::meta;
use meridian_types::{LogBase, Lsn, Position, RangeMap, StreamId, Timestamp, TxnId, limits};
use prost::Message;
use tonic::Status;

use super::Fence;
use crate::context::Context;
use crate::journals::LogReader;
use crate::records::position;

/// Entries that are read at first, from the end of the log; eight times as many in each further round.
const FIRST_ROUND: u64 = 8_192;

/// What became of a transaction, by its record.
pub(crate) enum RecoveredOutcome {
    Committed(TxnId, Timestamp, Lsn),
    Barred(TxnId, Lsn),
}

/// The end of the adopted log.
pub(crate) struct Recovered {
    /// The entries' epochs, from the first that was read.
    pub(crate) log: EpochRuns,
    /// What the log begins behind, if that is a log that was trimmed, and all of the rest was read.
    pub(crate) base: Option<LogBase>,
    /// In order of lsn.
    pub(crate) outcomes: Vec<RecoveredOutcome>,
    /// Outcomes of transactions that began before this may not have been read, or are gone with what was trimmed; zero when the whole log
    /// was read.
    pub(crate) outcome_low: Timestamp,
    /// The highest commit timestamp that was read: never above the answer to the fence, unless that was wrong.
    pub(crate) last_commit: Timestamp,
    /// The floor and place of a `Sealed` record: the stream takes part in no commit any more.
    pub(crate) sealed: Option<(Timestamp, Lsn)>,
    /// The newest range map, of the meta stream.
    pub(crate) map: Option<RangeMap>,
}

/// Reads the log's end, as far back as outcomes must be known.
///
/// It reads from a commit that is older than the retention, not from the first that is younger: a `Barred` record has no
/// timestamp, and one that follows the last old commit may be recent.
pub(super) async fn read(ctx: &Context, stream: StreamId, fence: &Fence) -> Result<Recovered, Status> {
    let last = fence.fenced.last;
    let horizon = ctx.now().earliest.saturating_sub(limits::OUTCOME_RETENTION);
    let mut wanted = FIRST_ROUND;
    loop {
        let from = Lsn(last.lsn.0.saturating_sub(wanted) + 1);
        let chunk = read_from(ctx, stream, fence, from, horizon).await?;
        // The log may have been trimmed: then there is nothing before its first entry.
        let is_whole = from.0 <= 1 || chunk.base.is_some();
        let reaches_back = chunk.first_commit.is_some_and(|commit| commit < horizon);
        if is_whole || (reaches_back && chunk.last_lease.is_some()) {
            let outcome_low = chunk.outcome_low(horizon);
            let map = match chunk.last_map {
                Some(lsn) => Some(meta::decode(&read_payload(ctx, stream, fence, lsn).await?)?),
                None => None,
            };
            check_map(ctx, stream, fence, chunk.last_lease).await?;
            return Ok(Recovered {
                map,
                sealed: chunk.sealed,
                log: chunk.log,
                base: chunk.base,
                outcomes: chunk.outcomes,
                outcome_low,
                last_commit: chunk.last_commit,
            });
        }
        wanted = wanted.saturating_mul(8);
    }
}

/// The payload of the entry at `lsn`.
async fn read_payload(ctx: &Context, stream: StreamId, fence: &Fence, lsn: Lsn) -> Result<Bytes, Status> {
    let (adopt, last) = (fence.fenced.adopt, fence.fenced.last);
    let mut reader = LogReader::open(ctx, adopt, stream, lsn, last, false).await?;
    let entries = reader.next().await?.unwrap_or_default();
    match entries.into_iter().next().filter(|entry| entry.lsn == lsn.0) {
        Some(entry) => Ok(entry.payload),
        None => Err(Status::data_loss(format!("entry {lsn} is not there"))),
    }
}

/// R19 is about the streams that the last owner voted for: those of the map version that its last `Opened` or `Lease` record names.
/// An older map may not know them.
async fn check_map(ctx: &Context, stream: StreamId, fence: &Fence, lease: Option<Lsn>) -> Result<(), Status> {
    // The meta stream has no part in commits, and is where the map comes from.
    let Some(lsn) = lease.filter(|_| stream != StreamId::META) else {
        return Ok(());
    };
    let payload = read_payload(ctx, stream, fence, lsn).await?;
    let record = LeaseRecord::decode(payload)
        .map_err(|error| Status::data_loss(format!("the lease in entry {lsn} cannot be read: {error}")))?;
    let known = ctx.map.borrow().version;
    if record.map_version <= known {
        return Ok(());
    }
    Err(Status::unavailable(format!(
        "version {} of the range map is not known here yet, only version {known}",
        record.map_version
    )))
}

/// What one pass over the log's end found.
struct Chunk {
    log: EpochRuns,
    base: Option<LogBase>,
    first: Lsn,
    first_commit: Option<Timestamp>,
    outcomes: Vec<RecoveredOutcome>,
    last_commit: Timestamp,
    last_map: Option<Lsn>,
    /// The last record that names a version of the range map.
    last_lease: Option<Lsn>,
    /// It follows every transaction: what was read of the log's end holds it, if there is one.
    sealed: Option<(Timestamp, Lsn)>,
}

async fn read_from(
    ctx: &Context,
    stream: StreamId,
    fence: &Fence,
    from: Lsn,
    horizon: Timestamp,
) -> Result<Chunk, Status> {
    let last = fence.fenced.last;
    let mut chunk = Chunk {
        log: EpochRuns::new(),
        base: None,
        first: from,
        first_commit: None,
        outcomes: Vec::new(),
        last_commit: Timestamp::ZERO,
        last_map: None,
        last_lease: None,
        sealed: None,
    };
    if last == Position::START {
        return Ok(chunk);
    }
    let mut reader = LogReader::open(ctx, fence.fenced.adopt, stream, from, last, true).await?;
    let mut is_first = true;
    while let Some(entries) = reader.next().await? {
        if std::mem::take(&mut is_first) {
            chunk.begin(entries.first().map(position), reader.base());
        }
        for entry in &entries {
            chunk
                .add(entry, horizon)
                .map_err(|gap| Status::data_loss(gap.to_string()))?;
        }
    }
    if chunk.log.last() != last {
        let got = chunk.log.last();
        return Err(Status::data_loss(format!(
            "the log ended at {got}, it should end at {last}"
        )));
    }
    Ok(chunk)
}

impl Chunk {
    /// What comes before the first entry that was read is not known, but for the beginning of the log. One that was trimmed begins after
    /// its base; without any entry it ends there too.
    fn begin(&mut self, first: Option<Position>, base: Option<LogBase>) {
        self.base = base.filter(|base| first.is_none_or(|first| first.lsn == base.position.lsn.next()));
        match (self.base, first) {
            (Some(base), _) => {
                self.first = base.position.lsn.next();
                self.last_commit = base.last_commit;
                self.log = EpochRuns::after(base.position);
            }
            (None, Some(first)) if first.lsn > Lsn(1) => {
                self.first = first.lsn;
                self.log = EpochRuns::after(first);
            }
            (None, first) => self.first = first.map_or(self.first, |first| first.lsn),
        }
    }

    /// The start below which a transaction that is not known here may have an outcome. A journal node keeps what is younger than the
    /// retention; one whose clock runs ahead has trimmed more. Then it is the first commit that is left: whatever is gone, `Barred`
    /// records too, was appended before it.
    fn outcome_low(&self, horizon: Timestamp) -> Timestamp {
        match self.base {
            Some(base) => horizon
                .max(base.last_commit)
                .max(self.first_commit.unwrap_or_default()),
            None if self.first.0 <= 1 => Timestamp::ZERO,
            None => horizon,
        }
    }

    fn add(&mut self, entry: &Entry, horizon: Timestamp) -> Result<(), LogGap> {
        let at = position(entry);
        if at != self.log.base() {
            self.log.push(at)?;
        }
        let timestamp = Timestamp(entry.timestamp);
        let txn = TxnId::from_slice(&entry.txn);
        match (entry.kind(), txn) {
            (Kind::Commit, Some(txn)) => {
                self.first_commit.get_or_insert(timestamp);
                self.last_commit = self.last_commit.max(timestamp);
                if timestamp >= horizon || self.first.0 <= 1 {
                    self.outcomes
                        .push(RecoveredOutcome::Committed(txn, timestamp, at.lsn));
                }
            }
            (Kind::Barred, Some(txn)) => self.outcomes.push(RecoveredOutcome::Barred(txn, at.lsn)),
            (Kind::Lease | Kind::Opened, None) => self.last_lease = Some(at.lsn),
            (Kind::Sealed, None) => self.sealed = Some((timestamp, at.lsn)),
            (Kind::Map, None) => self.last_map = Some(at.lsn),
            _ => {}
        }
        Ok(())
    }
}
