//! Deterministic simulation of Meridian: the real services and the real client library, in one thread, on a simulated
//! network, simulated disks and clocks that are wrong within their bounds. Everything derives from one seed.
//!
//! ```text
//! plan ──> run: steps ──┬─> cluster: nodes, wires, clocks, disks      seams: time and randomness of libc
//!                       ├─> faults: crashes, partitions, clock jumps
//!                       └─> workload: clients ──> history ──> invariants (with checker's graph) ──> violations
//! ```
//!
//! | module | what |
//! |---|---|
//! | `plan` | what the seed chose: sizes, settings, which faults how often |
//! | `run` | one simulation, from start to verdict |
//! | `cluster` | one node's services on simulated network, disk and clock |
//! | `faults` | what breaks when, and its repair |
//! | `workload`, `history` | what clients do, and what they saw |
//! | `events` | what services logged of the protocol |
//! | `invariants` | one file each, headed by its formal statement |
//! | `checker` | judges what clients saw: dependency graphs, replay by timestamps |
//! | `mutation`, `table` | rules broken on purpose, and how many seeds each takes to be caught |
//! | `live` | the same clients and checkers on a real cluster of containers |
//! | `driver`, `ledger`, `regressions` | many seeds, one process each; those ever run, and those to be kept |
//!
//! Caveats: one simulation per process: tokio numbers its tasks for the whole process, and the numbers decide the
//! order in which the tasks of a crashed node are dropped.
#![forbid(unsafe_code)]

pub mod checker;
pub mod cluster;
pub mod document;
pub mod driver;
pub mod events;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod ledger;
pub mod live;
pub mod mutation;
pub mod plan;
pub mod regressions;
pub mod run;
pub mod seams;
pub mod table;
pub mod trace;
pub mod workload;
