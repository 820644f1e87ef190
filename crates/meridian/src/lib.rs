//! Meridian as a process and as a library.
//!
//! - [`config`]: the cluster's configuration file and what is checked about it.
//! - [`init`]: creating a cluster, once.
//! - [`node`]: starting and stopping the services of one node, in whatever process.
//! - [`serve`]: one node as a process, with health, reflection and a clean end.
//! - [`probe`]: whether a node that runs is ready, for health checks.
//! - [`embedded`]: a whole cluster in one process, durable under one directory.
//!
//! Invariant: nothing here looks into what the services say to each other; it only introduces them.
#![forbid(unsafe_code)]

pub mod config;
pub mod embedded;
pub mod error;
mod front;
pub mod health;
pub mod init;
mod lock;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod probe;
pub mod serve;
mod services;
pub mod status;

pub use error::Error;

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
