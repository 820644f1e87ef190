//! The nouns of Meridian: keys, key ranges, timestamps, identifiers and limits.
//!
//! Everything here is a plain value. Nothing in this crate performs I/O, reads a clock or
//! draws a random number, and it knows no other crate of the project.
#![forbid(unsafe_code)]

mod id;
mod key;
pub mod limits;
pub mod mutation;
mod range_map;
mod time;

pub use id::{
    Attempt, ClusterId, CommitToken, DiskId, Epoch, LogBase, Lsn, NodeName, Position, RangeId, StreamId,
    TxnId,
};
pub use key::{Key, KeyRange, Write};
pub use range_map::{
    Adjudicators, ChangeRefused, End, MAX_CARRIED_BARS, Origin, RangeMap, RangeMapEntry, Reshape, Reshaping,
    RetiredStream, candidates,
};
pub use time::{Interval, Timestamp, TimestampOverflow};
