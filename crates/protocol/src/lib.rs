//! The pure decisions of Meridian's protocol: no I/O, no runtime, no clock, no randomness.
//!
//! Inputs and the time go in, outputs come out. The services around it move bytes, wait and retry;
//! what may be answered, committed, cut or forgotten is decided here and only here. Rule numbers
//! (R…) and invariants (I…) are those of the protocol's description.
//!
//! | module | decides | used by |
//! |---|---|---|
//! | [`quorum`] | which log entries are committed | journal, adjudicator |
//! | [`fencing`] | what a journal node accepts for a stream | journal |
//! | [`replication`] | what an owner sends to each journal node | adjudicator |
//! | [`takeover`] | whether an owner is gone, which log to adopt, where time resumes | adjudicator |
//! | [`conflict`] | which recent writes a transaction collides with | adjudicator |
//! | [`outcomes`] | what became of recent transactions | adjudicator |
//! | [`adjudication`] | whether and when a transaction commits | adjudicator |
//! | [`closing`] | up to when a range is complete, and when a subscriber may know | adjudicator, journal, storage |
//! | [`lease`], [`lead`], [`quiet`] | when to renew a lease, how far ahead to commit, and to close for who asks | adjudicator |
//! | [`visibility`] | what a read returns, what retention drops | storage |
//! | [`clock_rules`] | what must be waited for, and which timestamps are absurd | all |
//! | [`events`] | nothing: what services log of all this, for who judges it | all |
//!
//! Invariant: this crate knows nothing of tokio, tonic, rand or any clock; its manifest keeps it so.
#![forbid(unsafe_code)]

pub mod adjudication;
pub mod clock_rules;
pub mod closing;
pub mod conflict;
mod epoch_runs;
pub mod events;
pub mod fencing;
pub mod lead;
pub mod lease;
pub mod outcomes;
pub mod quiet;
pub mod quorum;
pub mod replication;
pub mod takeover;
pub mod visibility;

pub use epoch_runs::{EpochRuns, LogGap};
