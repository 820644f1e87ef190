//! A transaction's own writes, as its client understands them: what it must read back, and what it leaves behind.

use std::collections::BTreeMap;

use super::Op;

/// Own writes, and what they were at each savepoint.
#[derive(Clone, Debug, Default)]
pub struct Buffer<'a> {
    /// Key and value; `None`: deleted.
    writes: BTreeMap<&'a str, Option<&'a str>>,
    savepoints: Vec<(&'a str, BTreeMap<&'a str, Option<&'a str>>)>,
}

impl<'a> Buffer<'a> {
    /// Takes in the next operation.
    pub fn apply(&mut self, op: &'a Op) {
        match op {
            Op::Write { key, value } => {
                self.writes.insert(key, Some(value));
            }
            Op::Delete { key } => {
                self.writes.insert(key, None);
            }
            Op::Savepoint { name } => self.savepoints.push((name, self.writes.clone())),
            Op::RollbackTo { name } => {
                let place = self.savepoints.iter().rposition(|(other, _)| other == name);
                if let Some(place) = place {
                    // The savepoint itself stays, later ones are gone.
                    self.savepoints.truncate(place + 1);
                    if let Some((_, writes)) = self.savepoints.last() {
                        self.writes.clone_from(writes);
                    }
                }
            }
            Op::Read { .. } | Op::Scan { .. } | Op::Part { .. } => {}
        }
    }

    /// What it holds of a key: `None` when it was not written, `Some(None)` when it was deleted.
    pub fn get(&self, key: &str) -> Option<Option<&'a str>> {
        self.writes.get(key).copied()
    }

    /// Everything it holds.
    pub fn writes(&self) -> &BTreeMap<&'a str, Option<&'a str>> {
        &self.writes
    }

    /// Everything it holds in the end.
    pub fn into_writes(self) -> BTreeMap<&'a str, Option<&'a str>> {
        self.writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: &str) -> Op {
        Op::Write {
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    fn savepoint(name: &str) -> Op {
        Op::Savepoint {
            name: name.to_owned(),
        }
    }

    fn back_to(name: &str) -> Op {
        Op::RollbackTo {
            name: name.to_owned(),
        }
    }

    fn left(ops: &[Op]) -> Vec<(&str, Option<&str>)> {
        let mut buffer = Buffer::default();
        ops.iter().for_each(|op| buffer.apply(op));
        buffer.into_writes().into_iter().collect()
    }

    #[test]
    fn what_was_rolled_back_is_not_left() {
        let ops = [
            write("a", "1"),
            savepoint("s"),
            write("a", "2"),
            write("b", "3"),
            back_to("s"),
        ];
        assert_eq!(left(&ops), [("a", Some("1"))]);
    }

    #[test]
    fn a_savepoint_can_be_gone_back_to_again_and_later_ones_are_gone() {
        let ops = [
            savepoint("s"),
            write("a", "1"),
            savepoint("t"),
            write("a", "2"),
            back_to("s"),
            write("a", "3"),
            // There is none of this name any more; the cluster refuses it, and nothing changes.
            back_to("t"),
            back_to("s"),
            write("b", "4"),
        ];
        assert_eq!(left(&ops), [("b", Some("4"))]);
    }

    #[test]
    fn a_name_that_is_used_again_hides_the_first() {
        let ops = [
            savepoint("s"),
            write("a", "1"),
            savepoint("s"),
            write("a", "2"),
            back_to("s"),
        ];
        assert_eq!(left(&ops), [("a", Some("1"))]);
    }
}
