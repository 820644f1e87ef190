//! R7: a page of stored rows with the transaction's own writes laid over it.
//!
//! ```text
//! stored page   a  c  e |            border: the page ends here, more may follow
//! own writes      b -c  | f          f waits for the page that reaches it
//! merged        a b   e |
//! ```

use std::collections::VecDeque;

use meridian_rpc::v1::Row;
use meridian_types::Key;

use crate::buffer::Buffered;

/// The own writes that a scan has still to pass, in the scan's direction.
///
/// Invariant: ordered ascending, or descending when `reverse`.
#[derive(Debug)]
pub(crate) struct Overlay {
    own: VecDeque<(Key, Buffered)>,
    reverse: bool,
}

impl Overlay {
    /// Own writes in ascending order, for a scan in the given direction.
    pub(crate) fn new(own: Vec<(Key, Buffered)>, reverse: bool) -> Self {
        let mut own = VecDeque::from(own);
        if reverse {
            own.make_contiguous().reverse();
        }
        Self { own, reverse }
    }

    /// Own writes not passed yet.
    pub(crate) fn len(&self) -> usize {
        self.own.len()
    }

    /// Merges one stored page, in the scan's direction. `border`: where the next page begins (forwards, that
    /// key is the next page's; in reverse it is the last that this page covers); `None`: no page follows.
    /// `row` makes a row of an own value, or drops it (a predicate).
    pub(crate) fn merge(
        &mut self,
        stored: Vec<Row>,
        border: Option<&Key>,
        row: impl Fn(&Key, &bytes::Bytes) -> Option<Row>,
    ) -> Vec<Row> {
        let reverse = self.reverse;
        let mut merged = Vec::with_capacity(stored.len());
        for stored in stored {
            while let Some((key, value)) = self.pop_own(|key| before(reverse, key, &stored)) {
                merged.extend(value.and_then(|value| row(&key, &value)));
            }
            // An own write to the same key hides the stored row; it comes out with the next round.
            let hidden = self.own.front().is_some_and(|(key, _)| *key.0 == *stored.key);
            if !hidden {
                merged.push(stored);
            }
        }
        let covered =
            |key: &Key| border.is_none_or(|border| if reverse { key >= border } else { key < border });
        while let Some((key, value)) = self.pop_own(covered) {
            merged.extend(value.and_then(|value| row(&key, &value)));
        }
        merged
    }

    /// The next own write, if it is one that the scan has come to.
    fn pop_own(&mut self, is_due: impl Fn(&Key) -> bool) -> Option<(Key, Buffered)> {
        match self.own.front() {
            Some((key, _)) if is_due(key) => self.own.pop_front(),
            _ => None,
        }
    }
}

/// Whether the scan meets `key` before the stored row.
fn before(reverse: bool, key: &Key, stored: &Row) -> bool {
    if reverse {
        *key.0 > *stored.key
    } else {
        *key.0 < *stored.key
    }
}
