//! A cluster of real processes on loopback, for tests: built binaries, real sockets, real files, `kill -9`.
#![forbid(unsafe_code)]

mod binaries;
mod cluster;

pub use binaries::{kv_cli, meridian};
pub use cluster::{Cluster, Layout};
