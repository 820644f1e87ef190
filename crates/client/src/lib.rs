//! The Rust client library of Meridian.
//!
//! ```
//! use meridian_client::{Client, Error, KeyRange, ScanOptions};
//!
//! # use meridian_client::fake::FakeCluster;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
//! # let cluster = FakeCluster::new();
//! # let address = cluster.listen().await.to_string();
//! let client = Client::connect([address]).await?;
//! client.put("greeting/en", "hello").await?;
//!
//! // A transaction: run again by itself when it meets a conflict.
//! client
//!     .transact(|txn| async move {
//!         let hello = txn.get("greeting/en").await?.unwrap_or_default();
//!         txn.put("greeting/de", "hallo").await?;
//!         txn.put("greeting/copy", hello).await
//!     })
//!     .await?;
//!
//! let rows = client
//!     .scan(KeyRange::prefix("greeting/".into()), ScanOptions::default())
//!     .await?;
//! assert_eq!(rows.len(), 3);
//! # Ok(()) }
//! ```
//!
//! Beneath it are *sessions*: streams that multiplex many transactions, on which writes are pipelined. They
//! reconnect by themselves, to another endpoint if need be. A transaction does not survive the loss of its
//! session before commit; `transact` runs it again. If the answer to a commit is lost the library asks for
//! the outcome itself, and runs the work again only when it is certain that it was not applied.
//!
//! Caveats: a client must be made within a tokio runtime, and its background tasks live there.
//!
//! Invariant: nothing here knows which services are behind an endpoint.
#![forbid(unsafe_code)]

mod budget;
mod builder;
mod client;
mod error;
mod execute;
#[cfg(feature = "fake")]
pub mod fake;
mod options;
mod outcome;
mod places;
mod pool;
mod scan;
mod session;
mod trace;
mod transaction;
mod transport;
mod trouble;
mod txn;

pub use budget::RetryBudget;
pub use builder::Builder;
pub use client::Client;
pub use error::{Error, Result};
pub use execute::{Execute, Executed};
pub use options::{Isolation, Predicate, ScanOptions, TxnOptions};
pub use outcome::Outcome;
pub use scan::{Row, Scan};
pub use trace::{Hop, HopKind, Trace};
pub use transaction::{Committed, Transaction};
pub use txn::{Snapshot, Txn, Versioned};

pub use meridian_rpc::KvError;
/// The messages of `cluster_status`.
pub use meridian_rpc::v1 as proto;
/// What `change_ranges` can do.
pub use meridian_rpc::v1::change_ranges_request::Change as RangeChange;
pub use meridian_types::{CommitToken, Key, KeyRange, Timestamp, TxnId};
