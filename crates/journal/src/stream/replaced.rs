//! Which of a stream's entries on the disk are not in its log any more, because a later segment replaced them.
//!
//! Reading the log again needs them or what replaced them, whole: a base file that stands for a part of such entries, beside segments with
//! the rest of them, would leave a gap where they went on (decision 28.4).

use meridian_types::Lsn;

use super::Index;
use crate::wal::Location;

/// Cuts that are told apart, per stream.
const MAX_CUTS: usize = 8;

/// A cut: what was written from a segment on was replaced, from an entry on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// The first segment with an entry that was replaced.
    from: u32,
    /// The first entry that replaced one.
    by: Lsn,
}

/// What was replaced in one stream's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    cuts: Vec<Cut>,
    /// The segment of the record by which the log began anew; `u32::MAX` while that is not written.
    begun_in: Option<u32>,
}

impl Replaced {
    /// The entries `removed` are to be replaced, from `by` on. `before` is where the entry before them lies.
    pub fn on_cut(&mut self, by: Lsn, removed: impl Iterator<Item = Location>, before: Option<Location>) {
        // One that is not written yet comes after everything that is.
        let first = removed
            .chain(before)
            .filter(Location::is_placed)
            .map(segment)
            .min();
        let cut = Cut {
            from: first.unwrap_or(0),
            by,
        };
        // Those that replaced something later are replaced themselves.
        let mut from = cut.from;
        self.cuts.retain(|earlier| {
            let is_kept = earlier.by < by;
            if !is_kept {
                from = from.min(earlier.from);
            }
            is_kept
        });
        self.cuts.push(Cut { from, by });
        if self.cuts.len() > MAX_CUTS {
            // The later of two covers both from where the earlier begins.
            let first = self.cuts.remove(0);
            if let Some(second) = self.cuts.first_mut() {
                second.from = second.from.min(first.from);
            }
        }
    }

    /// The log begins anew, by a record that lies in `segment`; `u32::MAX` while it is not written.
    pub fn on_begun(&mut self, segment: u32) {
        self.cuts.clear();
        self.begun_in = Some(segment);
    }

    /// The record by which the log begins anew was written.
    pub fn on_begun_durable(&mut self, segment: u32) {
        if self.begun_in.is_some() {
            self.begun_in = Some(segment);
        }
    }

    /// The pairs of segments (first, last) such that no base file may stand for a segment from the first on but not for the last.
    pub fn spans<'a>(&'a self, index: &'a Index) -> impl Iterator<Item = (u32, u32)> + 'a {
        let cuts = self.cuts.iter().filter_map(|cut| {
            let by = index.get(cut.by).map(|slot| slot.location);
            match by {
                // Gone with the segment that it lay in, or copied: so is what it replaced.
                None if cut.by <= index.base().position.lsn => None,
                Some(location) if location.segment & Location::IN_BASE != 0 => None,
                Some(location) if location.is_placed() => Some((cut.from, location.segment)),
                _ => Some((cut.from, u32::MAX)),
            }
        });
        cuts.chain(self.begun_in.map(|segment| (0, segment)))
    }

    /// The segments up to `last` are gone.
    pub fn on_trimmed(&mut self, last: u32) {
        self.begun_in = self.begun_in.filter(|segment| *segment > last);
    }
}

fn segment(location: Location) -> u32 {
    match location.segment & Location::IN_BASE {
        0 => location.segment,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use meridian_rpc::internal::entry::Kind;
    use meridian_types::{LogBase, Timestamp};

    use super::*;
    use crate::stream::Slot;

    fn at(segment: u32) -> Location {
        Location {
            segment,
            len: 10,
            ..Location::default()
        }
    }

    fn index(segments: &[u32]) -> Index {
        let mut index = Index::after(LogBase::default());
        for segment in segments {
            index.push(Slot {
                location: at(*segment),
                timestamp: Timestamp(1),
                kind: Kind::Commit,
            });
        }
        index
    }

    #[test]
    fn a_cut_spans_from_what_was_replaced_to_what_replaced_it() {
        let mut replaced = Replaced::default();
        replaced.on_cut(Lsn(3), [at(2), at(4)].into_iter(), Some(at(1)));
        let spans = |replaced: &Replaced, segments: &[u32]| {
            let index = index(segments);
            replaced.spans(&index).collect::<Vec<_>>()
        };
        assert_eq!(spans(&replaced, &[1, 1, 5]), [(1, 5)]);
        assert_eq!(spans(&replaced, &[1, 1, 0]), [(1, u32::MAX)], "not written yet");
        assert_eq!(spans(&replaced, &[1, 1, Location::IN_BASE | 5]), []);
        replaced.on_cut(Lsn(2), [at(1), at(5)].into_iter(), None);
        assert_eq!(spans(&replaced, &[1, 6, 6]), [(1, 6)], "one cut of both");
        replaced.on_begun(u32::MAX);
        assert_eq!(spans(&replaced, &[]), [(0, u32::MAX)]);
        replaced.on_begun_durable(7);
        assert_eq!(spans(&replaced, &[]), [(0, 7)]);
        replaced.on_trimmed(7);
        assert_eq!(replaced, Replaced::default());
    }

    #[test]
    fn many_cuts_are_taken_together_and_none_is_forgotten() {
        let mut replaced = Replaced::default();
        for lsn in 1..=20_u32 {
            replaced.on_cut(Lsn(u64::from(lsn)), std::iter::once(at(lsn)), None);
        }
        let segments: Vec<u32> = (1..=20).map(|lsn| lsn + 30).collect();
        let index = index(&segments);
        let spans: Vec<_> = replaced.spans(&index).collect();
        assert_eq!(spans.len(), MAX_CUTS);
        for segment in 1..50 {
            let is_split = |(from, to): &(u32, u32)| *from <= segment && segment < *to;
            assert!(spans.iter().any(is_split), "{segment}");
        }
    }
}
