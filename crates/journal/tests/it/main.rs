//! The journal crate's tests against the real service and the real log.
#![allow(clippy::unwrap_used)]

mod cluster;
mod durability;
mod feed;
mod log;
mod model;
mod support;
mod tcp;
mod trimming;
mod watch;
