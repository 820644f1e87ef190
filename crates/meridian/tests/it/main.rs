//! The server: creating clusters, the command line, the embedded cluster.
#![allow(clippy::unwrap_used)]

mod command;
mod embedded;
mod init;
mod past;
mod placement;
mod process;
mod ranges;
mod regions;
