//! The query processor against small stand-ins for storage nodes and adjudicators that can be told to
//! misbehave. Everything runs in one process over the generated clients and servers.
#![allow(missing_docs, clippy::unwrap_used)]

mod adjudicator;
mod cluster;
mod commits;
mod limits;
mod ranges;
mod reads;
mod scans;
mod session_client;
mod sessions;
mod shards;
mod transactions;
mod world;
