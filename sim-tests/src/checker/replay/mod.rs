//! Replays all committed transactions in the order of the timestamps that clients were told, and compares.
//!
//! For all transactions T with snapshot s and, if T committed a write, commit timestamp c; whatever became of T:
//!
//! - every read of T, in whatever way, shows exactly the newest versions with timestamp <= s (R6) beneath T's own writes as
//!   they were at that moment, without those rolled back to a savepoint (R7);
//! - s < c (R2), and no other transaction committed a key that T wrote within (s, c) (I2);
//! - what T read for update, and all of it if T is serializable, it would have read at c - 1 as well (I2s);
//! - s is not below the commit timestamp of any transaction that was acknowledged before T began, nor below that of any
//!   version that was read by a transaction that was over before T began (I1), unless T asked for the past.
//!
//! Where s is not told, there has to be one: see `Snapshot`.

mod reads;
mod snapshot;
mod versions;

use meridian_client::Timestamp;

use super::Anomaly;
use crate::history::{Op, Txn};
use reads::Reader;
use snapshot::{Recency, Snapshot};
use versions::Versions;

/// Everything that does not fit. `real_time`: clocks keep within their bounds, so I1 holds.
pub fn check(txns: &[Txn], real_time: bool) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let versions = Versions::new(txns, &mut anomalies);
    let recency = Recency::new(txns, &versions);
    for txn in txns {
        let recent = if real_time { recency.at(txn) } else { None };
        check_one(txn, &versions, recent, &mut anomalies);
    }
    anomalies
}

fn check_one(
    txn: &Txn,
    versions: &Versions<'_>,
    recent: Option<(Timestamp, usize)>,
    anomalies: &mut Vec<Anomaly>,
) {
    let snapshot = Snapshot::new(txn, versions, recent);
    let reader = Reader { txn, versions };
    let at = match reader.fits(&snapshot) {
        Ok(at) => at,
        Err(anomaly) => {
            anomalies.push(anomaly);
            return;
        }
    };
    if let (Some(at), Some((newest, by))) = (snapshot.exact, recent)
        && at < newest
    {
        anomalies.push(Anomaly {
            name: "I1 recency",
            what: format!(
                "T{} has the snapshot {}, and T{by} showed {} before it began",
                txn.id, at.0, newest.0
            ),
            txns: vec![by, txn.id],
        });
    }
    if let Some(commit) = versions.commit(txn.id)
        && !txn.is_aborted()
    {
        // A snapshot that was not told may have been later than the first that fits.
        check_commit(&reader, snapshot.exact, at, commit, anomalies);
    }
}

fn check_commit(
    reader: &Reader<'_, '_>,
    exact: Option<Timestamp>,
    at: Timestamp,
    commit: Timestamp,
    anomalies: &mut Vec<Anomaly>,
) {
    let (txn, versions) = (reader.txn, reader.versions);
    let mut report = |name, what, txns| anomalies.push(Anomaly { name, what, txns });
    if at >= commit {
        let what = format!("T{} committed at {}, its snapshot is {}", txn.id, commit.0, at.0);
        report("R2 commits after its snapshot", what, vec![txn.id]);
        return;
    }
    if let Some(start) = exact {
        for key in txn.effects().into_keys() {
            if let Some((at, version)) = versions.between(key, start, commit) {
                let writer = version.writer.unwrap_or(txn.id);
                let what = format!(
                    "T{} wrote {key} from {} to {}, and T{writer} committed it at {}",
                    txn.id, start.0, commit.0, at.0
                );
                report("I2 first committer wins", what, vec![writer, txn.id]);
            }
        }
    }
    let before = Timestamp(commit.0.saturating_sub(1));
    let is_checked = |op: &Op| {
        txn.mode.serializable
            || matches!(
                op,
                Op::Read { for_update: true, .. } | Op::Scan { for_update: true, .. }
            )
    };
    if let Err(mismatch) = reader.all_fit(before, is_checked) {
        let what = format!(
            "T{} {} as of {}, just before its commit",
            txn.id, mismatch.what, before.0
        );
        report("I2s checked reads", what, reader.shown_by(&mismatch));
    }
}
