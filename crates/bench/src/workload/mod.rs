//! What clients do: each workload is a generator of operations, pure and seeded, the same for every system.
//!
//! All keys are preloaded with values of random letters. An index becomes a key by [`keys::user`], which scatters neighbours, so that
//! the first hundred keys (`hot`) and the newest ones (`ycsb-d`) lie everywhere in the key space.

pub mod bank;
mod generator;
pub mod keys;
pub mod zipf;

use std::fmt;

use bytes::Bytes;
use clap::ValueEnum;

pub use generator::{Generator, Generators};

/// One workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Workload {
    /// Writes one key, without reading it. Uniform.
    Put,
    /// Reads one key, strongly. Uniform.
    Get,
    /// An interactive transaction: reads two keys, one after the other, and writes both. Uniform.
    Txn,
    /// The same over 100 keys.
    Hot,
    /// Reads 100 keys in order, from one snapshot. Uniform.
    Scan,
    /// YCSB A: half reads, half updates.
    #[value(alias = "a")]
    YcsbA,
    /// YCSB B: 95 % reads, 5 % updates.
    #[value(alias = "b")]
    YcsbB,
    /// YCSB C: reads.
    #[value(alias = "c")]
    YcsbC,
    /// YCSB D: 95 % reads, mostly of the newest keys, 5 % inserts.
    #[value(alias = "d")]
    YcsbD,
    /// YCSB E: 95 % scans of 1 to 100 keys, 5 % inserts.
    #[value(alias = "e")]
    YcsbE,
    /// YCSB F: half reads, half read-modify-writes of one key.
    #[value(alias = "f")]
    YcsbF,
    /// Moves money between two of 1,000 accounts; afterwards the sum must be what it was.
    Bank,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Put,
        Self::Get,
        Self::Txn,
        Self::Hot,
        Self::Scan,
        Self::YcsbA,
        Self::YcsbB,
        Self::YcsbC,
        Self::YcsbD,
        Self::YcsbE,
        Self::YcsbF,
        Self::Bank,
    ];

    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Txn => "txn",
            Self::Hot => "hot",
            Self::Scan => "scan",
            Self::YcsbA => "ycsb-a",
            Self::YcsbB => "ycsb-b",
            Self::YcsbC => "ycsb-c",
            Self::YcsbD => "ycsb-d",
            Self::YcsbE => "ycsb-e",
            Self::YcsbF => "ycsb-f",
            Self::Bank => "bank",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A strong read of one key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// A blind write of one key.
    Put {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// A strong read of several keys in order.
    Scan {
        /// From here, within the table of users.
        from: Bytes,
        /// Up to there, which is farther than needed.
        to: Bytes,
        /// At most so many.
        limit: u32,
    },
    /// A transaction that reads these keys, one after the other, and then writes the value to each.
    Rewrite {
        /// The keys, each once.
        keys: Vec<Bytes>,
        /// The value.
        value: Bytes,
    },
    /// A transaction that moves money, if there is enough of it.
    Transfer {
        /// From this account, to that one.
        accounts: [Bytes; 2],
        /// So much.
        amount: u64,
    },
}

/// How much data there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Preloaded keys.
    pub keys: u64,
    /// The length of each value.
    pub value_bytes: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            keys: 100_000,
            value_bytes: 100,
        }
    }
}
