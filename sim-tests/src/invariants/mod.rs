//! What must hold of a run, one file each, headed by its formal statement and named as in the protocol's description.
//!
//! `clients` judges what clients saw. Everything else judges what services logged of the protocol
//! ([`crate::events`]): it finds the broken rule itself, also where no client has noticed, and the events that show it.

pub mod clients;
pub mod coverage;
pub mod i1_recency;
pub mod i2_first_committer_wins;
pub mod i2s_serializable;
pub mod i3_commits_rise;
pub mod i4_atomicity;
pub mod i5_promises;
pub mod i6_reads_are_final;
pub mod i7_committed_stays;
pub mod i8_one_entry_per_lsn;
pub mod i9_outcomes;
mod log;
pub mod r11_r12_prepares;
pub mod r13_closures;
pub mod r18_takeovers;
pub mod r19_floors;
pub mod r3_r4_waits;
pub mod r6_newest_version;
mod replica;
pub mod s5_outcomes;
pub mod s7_journal_nodes;
pub mod s7_trimming;
pub mod s8_changes;
mod stream_log;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;

use meridian_types::{RangeMap, TxnId};

use crate::cluster::Role;
use crate::events::{Happened, Short};
use crate::history::Txn;
use crate::plan::{MAY_CROSS, Plan};

pub use log::Log;
pub use stream_log::StreamLog;

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// How.
    pub what: String,
    /// The transactions that show it, by their place in the history.
    pub txns: Vec<usize>,
    /// The events that show it, in order.
    pub excerpt: Vec<String>,
    /// The transactions that the events are about.
    subjects: Vec<TxnId>,
    /// The place of the last of the events: from there on it was broken.
    seen_at: usize,
}

impl Violation {
    /// A broken promise to clients.
    pub fn new(
        invariant: &'static str,
        what: impl Into<String>,
        txns: impl IntoIterator<Item = usize>,
    ) -> Self {
        Self {
            invariant,
            what: what.into(),
            txns: txns.into_iter().collect(),
            excerpt: Vec::new(),
            subjects: Vec::new(),
            seen_at: usize::MAX,
        }
    }

    /// A broken rule, shown by these events of the run.
    pub fn shown(
        invariant: &'static str,
        what: impl Into<String>,
        events: &[Happened],
        shown_by: impl IntoIterator<Item = usize>,
    ) -> Self {
        let mut shown_by: Vec<usize> = shown_by.into_iter().collect();
        shown_by.sort_unstable();
        shown_by.dedup();
        let shown: Vec<&Happened> = shown_by.iter().filter_map(|index| events.get(*index)).collect();
        Self {
            excerpt: shown.iter().map(ToString::to_string).collect(),
            seen_at: shown_by.last().copied().unwrap_or(usize::MAX),
            subjects: shown.iter().filter_map(|happened| happened.event.txn()).collect(),
            ..Self::new(invariant, what, [])
        }
    }

    /// Adds what clients saw of the transactions that the events are about.
    fn find_txns(&mut self, txns: &[Txn]) {
        if self.subjects.is_empty() {
            return;
        }
        for txn in txns {
            if let Some(id) = txn
                .token
                .map(|token| token.txn)
                .filter(|id| self.subjects.contains(id))
            {
                self.excerpt.push(format!("{} is T{}:", Short(id), txn.id));
                self.txns.push(txn.id);
            }
        }
    }
}

/// The newest value of each key at a storage node, with its timestamp.
pub type Content = BTreeMap<String, (u64, String)>;

/// What is known of a run after its end.
pub struct Evidence<'a> {
    /// What the seed chose.
    pub plan: &'a Plan,
    /// The range map that the cluster began with.
    pub map: &'a RangeMap,
    /// What clients saw.
    pub txns: &'a [Txn],
    /// What the auditor found at the very end; `None` when the run did not come so far.
    pub audit: Option<&'a Txn>,
    /// What the storage nodes hold.
    pub stores: &'a [(String, Content)],
    /// What services logged of the protocol.
    pub events: &'a [Happened],
    /// Why some of that could not be read.
    pub unreadable: &'a [String],
}

/// Everything that was broken.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let mut log = Log::new(evidence.events, evidence.map);
    log.held = evidence.plan.shards.divided_nodes();
    log.storage = evidence.plan.shape.names(Role::Storage);
    // What only holds while all clocks keep to their bounds.
    let of_clocks = [
        i1_recency::check,
        r3_r4_waits::check,
        r18_takeovers::acts_after_the_end,
    ];
    let rules = [
        i2_first_committer_wins::check,
        i2s_serializable::check,
        i3_commits_rise::check,
        i4_atomicity::check,
        i5_promises::check,
        i6_reads_are_final::check,
        i7_committed_stays::check,
        i8_one_entry_per_lsn::check,
        i9_outcomes::check,
        r6_newest_version::check,
        r11_r12_prepares::check,
        r13_closures::check,
        r18_takeovers::openings,
        r19_floors::kept,
        s5_outcomes::check,
        s7_journal_nodes::check,
        s7_trimming::check,
        s8_changes::check,
    ];
    let mut violations = coverage::check(evidence);
    violations.extend(rules.iter().flat_map(|check| check(&log)));
    if MAY_CROSS {
        violations.extend(r19_floors::asked(&log));
    }
    if !evidence.plan.clocks_beyond {
        violations.extend(of_clocks.iter().flat_map(|check| check(&log)));
    }
    // What went wrong first: the rest may follow from it.
    violations.sort_by_key(|violation| violation.seen_at);
    for violation in &mut violations {
        violation.find_txns(evidence.txns);
    }
    violations.extend(clients::check(evidence));
    violations
}
