//! Real processes on loopback. One binary, so that the servers are built once.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod anomalies;
mod bank;
mod import;
mod takeover;
