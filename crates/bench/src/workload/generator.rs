//! Draws the operations of one client.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::zipf::Zipfian;
use super::{Op, Shape, Workload, bank, keys};

/// YCSB's skew.
const THETA: f64 = 0.99;
/// `hot` works on this many keys.
const HOT_KEYS: u64 = 100;
/// How many keys `scan` reads, and YCSB E at most.
const SCAN_KEYS: u32 = 100;
/// Keys that may be inserted in one measurement.
const INSERTS: u64 = 1 << 32;

/// Makes the generators of all clients of one measurement.
#[derive(Clone, Copy, Debug)]
pub struct Generators {
    workload: Workload,
    shape: Shape,
    zipfian: Zipfian,
    seed: u64,
    first_insert: u64,
}

impl Generators {
    /// The generators of a measurement. Two with the same seed and number draw the same operations; ones with different numbers
    /// insert different keys.
    pub fn new(workload: Workload, shape: Shape, seed: u64, number: u32) -> Self {
        Self {
            workload,
            shape,
            zipfian: Zipfian::new(shape.keys, THETA),
            seed: seed ^ (u64::from(number) << 32),
            first_insert: shape.keys + u64::from(number) * INSERTS,
        }
    }

    /// The generator of one of `clients` clients.
    pub fn client(&self, index: u64, clients: u64) -> Generator {
        Generator {
            parent: *self,
            random: StdRng::seed_from_u64(self.seed.wrapping_add(index.wrapping_mul(0x9e37_79b9))),
            next_insert: self.first_insert + index,
            stride: clients.max(1),
            inserted: 0,
        }
    }
}

/// The operations of one client.
#[derive(Clone, Debug)]
pub struct Generator {
    parent: Generators,
    random: StdRng,
    next_insert: u64,
    stride: u64,
    inserted: u64,
}

impl Generator {
    /// The next operation.
    pub fn draw(&mut self) -> Op {
        match self.parent.workload {
            Workload::Put => self.put_uniform(),
            Workload::Get => Op::Get { key: self.uniform() },
            Workload::Txn => self.rewrite_two(self.parent.shape.keys),
            Workload::Hot => self.rewrite_two(HOT_KEYS.min(self.parent.shape.keys)),
            Workload::Scan => {
                let first = self.uniform_index();
                self.scan(first, SCAN_KEYS)
            }
            Workload::YcsbA => self.read_or_update(0.5),
            Workload::YcsbB => self.read_or_update(0.95),
            Workload::YcsbC => self.read_or_update(1.0),
            Workload::YcsbD => {
                if self.happens(0.95) {
                    return Op::Get { key: self.latest() };
                }
                self.insert()
            }
            Workload::YcsbE => {
                if self.happens(0.95) {
                    let first = self.parent.zipfian.draw(&mut self.random);
                    let limit = self.random.random_range(1..=SCAN_KEYS);
                    return self.scan(first, limit);
                }
                self.insert()
            }
            Workload::YcsbF => {
                if self.happens(0.5) {
                    return Op::Get { key: self.zipfian() };
                }
                Op::Rewrite {
                    keys: vec![self.zipfian()],
                    value: self.value(),
                }
            }
            Workload::Bank => self.transfer(),
        }
    }

    fn happens(&mut self, share: f64) -> bool {
        self.random.random::<f64>() < share
    }

    fn value(&mut self) -> Bytes {
        keys::value(&mut self.random, self.parent.shape.value_bytes)
    }

    fn uniform_index(&mut self) -> u64 {
        self.random.random_range(0..self.parent.shape.keys.max(1))
    }

    fn uniform(&mut self) -> Bytes {
        keys::user(self.uniform_index())
    }

    fn scan(&self, first: u64, limit: u32) -> Op {
        Op::Scan {
            from: keys::user(first),
            to: keys::end_of_scan(first, limit, self.parent.shape.keys),
            limit,
        }
    }

    fn zipfian(&mut self) -> Bytes {
        keys::user(self.parent.zipfian.draw(&mut self.random))
    }

    /// A key that was inserted lately: by this client, whose own inserts it knows, or else at the end of what was preloaded.
    fn latest(&mut self) -> Bytes {
        let age = self.parent.zipfian.draw(&mut self.random);
        if age < self.inserted {
            return keys::user(self.next_insert - (age + 1) * self.stride);
        }
        let before = (age - self.inserted).min(self.parent.shape.keys - 1);
        keys::user(self.parent.shape.keys - 1 - before)
    }

    fn put_uniform(&mut self) -> Op {
        Op::Put {
            key: self.uniform(),
            value: self.value(),
        }
    }

    fn insert(&mut self) -> Op {
        let key = keys::user(self.next_insert);
        self.next_insert += self.stride;
        self.inserted += 1;
        Op::Put {
            key,
            value: self.value(),
        }
    }

    fn read_or_update(&mut self, reads: f64) -> Op {
        if self.happens(reads) {
            return Op::Get { key: self.zipfian() };
        }
        Op::Put {
            key: self.zipfian(),
            value: self.value(),
        }
    }

    fn rewrite_two(&mut self, among: u64) -> Op {
        let (first, second) = self.two_of(among);
        Op::Rewrite {
            keys: vec![keys::user(first), keys::user(second)],
            value: self.value(),
        }
    }

    fn transfer(&mut self) -> Op {
        let (from, to) = self.two_of(bank::ACCOUNTS);
        Op::Transfer {
            accounts: [bank::account(from), bank::account(to)],
            amount: self.random.random_range(1..=bank::MOST),
        }
    }

    /// Two different indices.
    fn two_of(&mut self, count: u64) -> (u64, u64) {
        let first = self.random.random_range(0..count.max(2));
        let step = self.random.random_range(1..count.max(2));
        (first, (first + step) % count.max(2))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const SHAPE: Shape = Shape {
        keys: 1_000,
        value_bytes: 10,
    };

    fn drawn(workload: Workload, seed: u64, client: u64, count: usize) -> Vec<Op> {
        let mut generator = Generators::new(workload, SHAPE, seed, 0).client(client, 4);
        (0..count).map(|_| generator.draw()).collect()
    }

    /// How many of these operations are reads, writes, scans and transactions.
    fn kinds(ops: &[Op]) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for op in ops {
            let kind = match op {
                Op::Get { .. } => "get",
                Op::Put { .. } => "put",
                Op::Scan { .. } => "scan",
                Op::Rewrite { .. } => "rewrite",
                Op::Transfer { .. } => "transfer",
            };
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }

    #[test]
    fn a_seed_and_a_client_decide_everything() {
        for workload in Workload::ALL {
            let ops = drawn(workload, 7, 0, 50);
            assert_eq!(ops, drawn(workload, 7, 0, 50), "{workload}");
            assert_ne!(ops, drawn(workload, 8, 0, 50), "{workload}");
            assert_ne!(ops, drawn(workload, 7, 1, 50), "{workload}");
        }
    }

    #[test]
    fn operations_are_mixed_as_ycsb_says() {
        for (workload, kind, share) in [
            (Workload::YcsbA, "get", 0.5),
            (Workload::YcsbB, "get", 0.95),
            (Workload::YcsbC, "get", 1.0),
            (Workload::YcsbD, "get", 0.95),
            (Workload::YcsbE, "scan", 0.95),
            (Workload::YcsbF, "get", 0.5),
            (Workload::YcsbF, "rewrite", 0.5),
            (Workload::Bank, "transfer", 1.0),
            (Workload::Put, "put", 1.0),
        ] {
            let found = kinds(&drawn(workload, 1, 0, 20_000));
            let found = found.get(kind).copied().unwrap_or_default() as f64 / 20_000.0;
            assert!((found - share).abs() < 0.015, "{workload}: {found} {kind}");
        }
    }

    #[test]
    fn transactions_take_two_different_keys_and_hot_ones_a_hundred() {
        let keys = |workload| -> BTreeSet<Bytes> {
            let mut all = BTreeSet::new();
            for op in drawn(workload, 1, 0, 5_000) {
                let Op::Rewrite { keys, .. } = op else {
                    panic!("{op:?}")
                };
                assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 2);
                all.extend(keys);
            }
            all
        };
        assert_eq!(keys(Workload::Hot).len(), 100);
        assert_eq!(keys(Workload::Txn).len(), 1_000);
    }

    #[test]
    fn no_key_is_inserted_twice_and_what_is_read_was_inserted() {
        let preloaded: BTreeSet<Bytes> = (0..SHAPE.keys).map(keys::user).collect();
        let mut everywhere = BTreeSet::new();
        for (number, client) in [(0, 0), (0, 1), (1, 0)] {
            let mut generator = Generators::new(Workload::YcsbD, SHAPE, 1, number).client(client, 2);
            let (mut own, mut own_reads) = (BTreeSet::new(), 0);
            for _ in 0..5_000 {
                match generator.draw() {
                    Op::Put { key, .. } => {
                        assert!(!preloaded.contains(&key) && everywhere.insert(key.clone()));
                        own.insert(key);
                    }
                    Op::Get { key } => {
                        assert!(own.contains(&key) || preloaded.contains(&key));
                        own_reads += usize::from(own.contains(&key));
                    }
                    op => panic!("{op:?}"),
                }
            }
            assert!(own_reads > 1_000, "the newest keys are read most: {own_reads}");
        }
    }
}
