//! Adjudicators against journal nodes in memory: in process, under simulated time.
#![allow(clippy::unwrap_used)]

mod chaos;
mod closures;
mod cluster;
mod conflicts;
mod cross_chaos;
mod cross_range;
mod fake_journal;
mod journal_faults;
mod leases;
mod map;
mod outcomes;
mod real_journal;
mod takeovers;
mod trimming;
