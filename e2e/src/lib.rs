//! A cluster of real processes on loopback, for tests: built binaries, real sockets, real files, `kill -9`.
#![forbid(unsafe_code)]

mod binaries;
mod cluster;
mod layout;
pub mod ledger;
pub mod load;
mod owners;
pub mod region_loss;

pub use binaries::{kv_cli, meridian};
pub use cluster::Cluster;
pub use layout::{Layout, RegionLayout, preferred};
pub use owners::{key_in, owners, owning_nodes, until_owned};
