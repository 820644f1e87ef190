//! Real processes on loopback. One binary, so that the servers are built once.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod anomalies;
mod bank;
mod closing;
mod failover;
mod import;
mod journal_loss;
mod lifetimes;
mod membership;
mod metrics;
mod ranges;
mod region_drain;
mod region_loss;
mod rolling;
mod takeover;
