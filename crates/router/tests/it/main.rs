//! The router between scripted query processors and clients, over loopback sockets and in process.
#![allow(missing_docs, clippy::unwrap_used)]

mod admission;
mod backend;
mod broken;
mod drain;
mod messages;
mod notice;
mod routing;
mod sessions;
mod status;
mod uploads;
mod world;
