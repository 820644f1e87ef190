//! Storage nodes: versions of keys, rebuilt from the journal, read at timestamps.
//!
//! | module | does |
//! |---|---|
//! | `checkpoint` | all versions in a file of our own: written, verified, told of, sent to peers |
//! | `fill` | the store from a checkpoint, where the journal was trimmed |
//! | `applier`, `intake` | follows the journal's feed; checks, gathers and applies it (R14, I3, I6) |
//! | [`store`] | keeps the versions, in sled, in fjall or in memory |
//! | `reads` | answers: waits for closures (R5), evaluates (R6), waits for the clock (R4) |
//! | `closer` | asks the owners to close ranges for the reads that wait (R15) |
//! | `retention` | drops what nobody can read any more |
//!
//! Invariant: the store is no part of durability. All that it holds can be lost and is read from the journal, or from a checkpoint
//! and the journal after it, again.
//! Invariant: it knows nothing of adjudicators but `CloseThrough`.
#![forbid(unsafe_code)]

mod applier;
mod checkpoint;
mod closer;
mod config;
mod ends;
mod error;
mod feeds;
mod fill;
mod intake;
mod reads;
mod retention;
mod service;
mod shared;
pub mod store;

pub use config::{Config, Peer, Writer};
pub use error::{FeedFault, StoreError};
pub use service::{run, start, start_with_store};
pub use store::Engine;
