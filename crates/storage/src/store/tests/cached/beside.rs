//! Any order of changes and reads, beside a store that has nothing in memory.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Turn {
    /// Writes of a batch: key, how far below the newest timestamp, and how long the value is.
    Apply(Vec<(u8, u64, Option<usize>)>),
    /// What was applied last, again.
    Again,
    Sweep {
        back: u64,
        max_steps: usize,
        chunks: usize,
    },
    Read {
        key: u8,
        back: u64,
    },
    Fill {
        max_steps: usize,
    },
}

fn turn() -> impl Strategy<Value = Turn> {
    let value = prop::option::weighted(0.8, prop::sample::select(vec![0_usize, 10, 100, 3_000]));
    let writes = prop::collection::vec((0..8_u8, 0..6_u64, value), 1..5);
    prop_oneof![
        6 => writes.prop_map(Turn::Apply),
        1 => Just(Turn::Again),
        2 => (0..20_u64, 1..9_usize, 1..4_usize)
            .prop_map(|(back, max_steps, chunks)| Turn::Sweep { back, max_steps, chunks }),
        9 => (0..8_u8, 0..12_u64).prop_map(|(key, back)| Turn::Read { key, back }),
        1 => (1..9_usize).prop_map(|max_steps| Turn::Fill { max_steps }),
    ]
}

/// A store with its newest versions in memory beside one without.
struct Beside {
    cached: Cached,
    plain: MemoryStore,
    now: u64,
    /// Nothing at or below is applied any more.
    horizon: u64,
    last: AppliedBatch,
}

impl Beside {
    fn new(capacity: u64) -> Self {
        Self {
            cached: Cached::new(Arc::new(MemoryStore::new()), capacity, Arc::default()),
            plain: MemoryStore::new(),
            now: 10,
            horizon: 0,
            last: AppliedBatch::default(),
        }
    }

    fn both(&self, change: impl Fn(&dyn VersionStore)) {
        change(&self.plain);
        change(&self.cached);
    }

    fn run(&mut self, turn: &Turn) {
        match turn {
            Turn::Apply(writes) => {
                self.now += 2;
                let versions = writes.iter().map(|(key, back, value)| VersionWrite {
                    key: vec![*key].into(),
                    timestamp: Timestamp(self.now.saturating_sub(*back).max(self.horizon + 1)),
                    value: value.map(|length| Bytes::from(vec![*key; length])),
                });
                let mut versions: Vec<VersionWrite> = versions.collect();
                // One timestamp has one value.
                versions.retain(|write| {
                    let there = self.plain.newest(write.key.as_ref(), write.timestamp).unwrap();
                    there.is_none_or(|there| there.timestamp < write.timestamp)
                });
                versions.sort_by_key(|write| (write.key.clone(), write.timestamp));
                versions.dedup_by_key(|write| (write.key.clone(), write.timestamp));
                self.last.versions = versions;
                self.both(|store| store.apply(&self.last).unwrap());
            }
            Turn::Again => {
                let horizon = self.horizon;
                self.last.versions.retain(|write| write.timestamp.0 > horizon);
                self.both(|store| store.apply(&self.last).unwrap());
            }
            Turn::Sweep {
                back,
                max_steps,
                chunks,
            } => {
                self.horizon = self.horizon.max(self.now.saturating_sub(*back));
                let below = Timestamp(self.horizon);
                self.both(|store| {
                    let mut range = KeyRange::all();
                    for _ in 0..*chunks {
                        match store.sweep(&range, below, below, *max_steps).unwrap().1 {
                            Some(start) => range.start = start,
                            None => break,
                        }
                    }
                });
            }
            Turn::Read { key, back } => self.read(&[*key], self.now.saturating_sub(*back)),
            Turn::Fill { max_steps } => {
                self.both(|store| {
                    store.begin_filling().unwrap();
                    while !store.clear(*max_steps).unwrap() {}
                    store.apply(&self.last).unwrap();
                    store
                        .end_filling(&BTreeMap::new(), Timestamp(self.horizon))
                        .unwrap();
                });
            }
        }
    }

    /// Old tombstones may be there or not.
    fn read(&self, key: &[u8], at: u64) {
        let at = at.max(self.horizon);
        let read = |store: &dyn VersionStore| {
            let found = store.newest(key, Timestamp(at)).unwrap();
            found.filter(|version| version.value.is_some() || version.timestamp.0 > self.horizon)
        };
        assert_eq!(read(&self.cached), read(&self.plain), "{key:?} at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn it_answers_as_if_there_was_no_memory(
        capacity in prop::sample::select(vec![1_u64 << 10, 2 << 10, SMALL, 4 << 20]),
        turns in prop::collection::vec(turn(), 1..120),
    ) {
        let mut beside = Beside::new(capacity);
        for turn in &turns {
            beside.run(turn);
        }
        for key in 0..8 {
            beside.read(&[key], u64::MAX);
            beside.read(&[key], beside.horizon);
        }
    }
}
