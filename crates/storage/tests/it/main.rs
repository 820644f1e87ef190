//! A whole storage node against a journal and an owner that do what a test tells them.
#![allow(clippy::unwrap_used)]

mod broken_store;
mod catching_up;
mod checkpoints;
mod journal;
mod owner;
mod peer;
mod ranges;
mod reads;
mod retention;
mod running;
mod scans;
mod world;
