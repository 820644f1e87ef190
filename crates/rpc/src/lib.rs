//! Everything that concerns the wire: the code generated from `proto/`, the mapping of errors to gRPC
//! statuses, and the network seam (who is called how: in process, over TCP, or simulated).
//!
//! Invariant: nothing here knows what a service does with a message.
#![forbid(unsafe_code)]

pub mod batch;
pub mod committed;
pub mod convert;
mod env;
pub mod error;
pub mod guard;
pub mod handle;
pub mod listen;
pub mod meta;
pub mod metered;
pub mod network;
pub mod owner;
pub mod service;

pub use committed::{CommittedWatch, Known};
pub use env::{Env, FaultPoints};
pub use error::KvError;
pub use guard::Identity;
pub use listen::{Listener, serve, serve_renewed};
pub use network::{Dialer, LocalNodes, Network, TcpDialer, Transport};
pub use service::{Service, ServiceFailure, Started};

pub use generated::meridian::internal::v1 as internal;
pub use generated::meridian::v1;

/// Laid out as the packages are, because the generated code refers to itself that way.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]
mod generated {
    pub mod meridian {
        pub mod v1 {
            tonic::include_proto!("meridian.v1");
        }
        pub mod internal {
            pub mod v1 {
                tonic::include_proto!("meridian.internal.v1");
            }
        }
    }
}

/// The encoded file descriptors of all protos, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The format version of every message between services and of the session stream. A peer that speaks
/// another one is refused.
pub const FORMAT_VERSION: u32 = 1;
