//! What of the log may go (decision 28): pure decisions.
//!
//! ```text
//! per stream: may_go ── the last entry that nobody needs      per node: choose ── the last segment of which little is still needed
//! ```

use std::collections::BTreeMap;

use meridian_types::Lsn;
use meridian_types::mutation::{Rule, is_broken};

/// More than this of what is still needed is not copied at once.
pub const MAX_COPIED_BYTES: u64 = 64 << 20;
/// So much is freed at once, at most.
pub const MAX_FREED_BYTES: u64 = 4 << 30;

/// What is known of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// It is the meta stream.
    pub is_meta: bool,
    /// Up to where it is committed.
    pub committed: Lsn,
    /// Up to where every storage node's checkpoint holds it; `None` while one has not told.
    pub checkpointed: Option<Lsn>,
    /// The last committed commit that is old enough; 0 when there is none.
    pub last_old_commit: Lsn,
    /// The newest committed `Opened` or `Lease`.
    pub newest_lease: Option<Lsn>,
    /// The first `Sealed` record.
    pub sealed: Option<Lsn>,
}

/// The last entry of a stream such that it and all before it may go; 0 when none may.
pub fn may_go(known: &Known) -> Lsn {
    if known.is_meta {
        return Lsn(0);
    }
    let everywhere = match is_broken(Rule::TrimEarly) {
        true => known.committed,
        false => known.checkpointed.unwrap_or_default(),
    };
    let before = |lsn: Lsn| Lsn(lsn.0.saturating_sub(1));
    let lease = known.newest_lease.map_or(Lsn(0), before);
    let sealed = known.sealed.map_or(Lsn(u64::MAX), before);
    let limits = [known.committed, before(known.last_old_commit), lease, sealed];
    limits.into_iter().fold(everywhere, Lsn::min)
}

/// What is known of the segments before the one that is written to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// The size of each, in bytes.
    pub sizes: BTreeMap<u32, u64>,
    /// The size of the base file, whose place a new one takes.
    pub base_bytes: u64,
    /// What would have to be copied of each; what of the base file is still needed counts at 0.
    pub needed: BTreeMap<u32, u64>,
    /// Pairs (first, last): from the first on none may go unless the last goes too.
    pub spans: Vec<(u32, u32)>,
}

impl Segments {
    /// So much of what would be copied is too much in any case: the first segment that certainly stays.
    pub fn first_kept(&self) -> u32 {
        let mut copied = 0;
        for (segment, bytes) in &self.needed {
            copied += bytes;
            if copied > MAX_COPIED_BYTES {
                return *segment;
            }
        }
        self.sizes.keys().next_back().map_or(0, |last| last + 1)
    }

    /// The last segment to go, with all before it. `None` when it is not worth while, or none may.
    pub fn choose(&self) -> Option<u32> {
        let mut chosen = None;
        let mut freed = self.base_bytes;
        let mut needed = self.needed.iter().peekable();
        let mut copied = 0;
        for (segment, size) in &self.sizes {
            freed += size;
            while let Some((_, bytes)) = needed.next_if(|(at, _)| *at <= segment) {
                copied += bytes;
            }
            if copied > MAX_COPIED_BYTES || (freed > MAX_FREED_BYTES && chosen.is_some()) {
                break;
            }
            let is_split = |(first, last): &(u32, u32)| first <= segment && segment < last;
            if copied <= freed / 2 && !self.spans.iter().any(is_split) {
                chosen = Some(*segment);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            is_meta: false,
            committed: Lsn(100),
            checkpointed: Some(Lsn(90)),
            last_old_commit: Lsn(80),
            newest_lease: Some(Lsn(95)),
            sealed: None,
        }
    }

    #[test]
    fn each_condition_alone_keeps_an_entry() {
        assert_eq!(may_go(&known()), Lsn(79), "what lies before the last old commit");
        let cases = [
            (
                Known {
                    is_meta: true,
                    ..known()
                },
                0,
            ),
            (
                Known {
                    committed: Lsn(50),
                    ..known()
                },
                50,
            ),
            (
                Known {
                    checkpointed: Some(Lsn(40)),
                    ..known()
                },
                40,
            ),
            (
                Known {
                    checkpointed: None,
                    ..known()
                },
                0,
            ),
            (
                Known {
                    last_old_commit: Lsn(30),
                    ..known()
                },
                29,
            ),
            (
                Known {
                    last_old_commit: Lsn(0),
                    ..known()
                },
                0,
            ),
            (
                Known {
                    newest_lease: Some(Lsn(20)),
                    ..known()
                },
                19,
            ),
            (
                Known {
                    newest_lease: None,
                    ..known()
                },
                0,
            ),
            (
                Known {
                    sealed: Some(Lsn(10)),
                    ..known()
                },
                9,
            ),
        ];
        for (known, expected) in cases {
            assert_eq!(may_go(&known), Lsn(expected), "{known:?}");
        }
    }

    fn segments(needed: &[(u32, u64)]) -> Segments {
        Segments {
            sizes: (3..=7).map(|segment| (segment, 1_000)).collect(),
            base_bytes: 0,
            needed: needed.iter().copied().collect(),
            spans: Vec::new(),
        }
    }

    #[test]
    fn segments_go_as_far_as_half_of_what_is_freed_need_not_be_copied() {
        assert_eq!(segments(&[]).choose(), Some(7));
        assert_eq!(segments(&[(6, 2_100)]).choose(), Some(7));
        assert_eq!(segments(&[(6, 2_501)]).choose(), Some(5));
        assert_eq!(segments(&[(3, 2_501)]).choose(), None);
        assert_eq!(segments(&[(0, 501), (4, 499)]).choose(), Some(7));
        assert_eq!(segments(&[(4, MAX_COPIED_BYTES + 1)]).choose(), Some(3));
        assert_eq!(Segments::default().choose(), None);
        let with_base = Segments {
            base_bytes: 3_000,
            ..segments(&[(0, 3_000)])
        };
        assert_eq!(with_base.choose(), Some(7), "of 8000 bytes 3000 are copied");
    }

    #[test]
    fn what_was_replaced_goes_with_what_replaced_it_or_stays() {
        let with = |spans: &[(u32, u32)]| Segments {
            spans: spans.to_vec(),
            ..segments(&[])
        };
        assert_eq!(with(&[(5, 7)]).choose(), Some(7));
        assert_eq!(with(&[(5, 8)]).choose(), Some(4));
        assert_eq!(with(&[(5, 6), (6, u32::MAX)]).choose(), Some(4));
        assert_eq!(with(&[(0, 8)]).choose(), None);
        assert_eq!(with(&[(4, 6), (6, 8)]).choose(), Some(3));
        assert_eq!(with(&[(4, 5), (6, 8)]).choose(), Some(5));
    }

    #[test]
    fn nothing_is_looked_at_beyond_what_can_be_copied() {
        assert_eq!(segments(&[(5, 10)]).first_kept(), 8);
        assert_eq!(segments(&[(4, MAX_COPIED_BYTES), (5, 1)]).first_kept(), 5);
    }
}
