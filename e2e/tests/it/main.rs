//! Real processes on loopback. One binary, so that the servers are built once.

mod anomalies;
mod bank;
mod import;
mod takeover;
