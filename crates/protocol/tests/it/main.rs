//! Golden scripts and random models of the protocol's decisions.
//!
//! Every random test prints its seed when it fails; `MERIDIAN_SEED=<n>` runs just that one, and `MERIDIAN_SEEDS=<n>` that many.

mod across_ranges;
mod adjudication_model;
mod broken_rules;
mod conflict;
mod golden;
mod journal;
mod properties;
mod ranges_model;
mod replica_log;
mod rng;
mod takeover;
