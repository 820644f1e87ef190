//! R3. Nobody is told "committed" before the commit's time has passed: true time > commit.
//! R4. No read is answered before the time of every version that it consulted: true time >= version.
//!
//! True time, which nodes only know within a bound: as `earliest` is never above it, the rules imply this. They are what I1
//! rests on; like I1 they are judged only while all clocks keep to their bounds.

use super::{Log, Violation};
use crate::events::{Event, Outcome, Seconds, Short};

/// Every acknowledgement and every answered read.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let now = Seconds(happened.now);
        let (name, what) = match &happened.event {
            Event::Ended {
                txn,
                outcome: Outcome::Committed(commit),
                ..
            }
            | Event::Told {
                txn,
                outcome: Outcome::Committed(commit),
            } if happened.now <= *commit => {
                let (txn, commit) = (Short(*txn), Seconds(*commit));
                (
                    "R3 commit wait",
                    format!("at {now} {txn} is told to have committed at {commit}"),
                )
            }
            Event::Shown { newest, .. } if happened.now < *newest => {
                let newest = Seconds(*newest);
                (
                    "R4 uncertainty wait",
                    format!("at {now} a read shows a version of {newest}"),
                )
            }
            _ => continue,
        };
        violations.push(Violation::shown(name, what, log.events, [index]));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{committed, happened_at, judge_all, shown};

    #[test]
    fn what_is_told_lies_in_the_past() {
        let good = [
            (11, "q-1", committed(1, 5, 10)),
            (10, "s-1", shown(12, 10)),
            (1, "s-1", shown(12, 0)),
        ];
        assert_eq!(judge_all(check, &happened_at(good)), [""; 0]);
        let early = [(10, "q-1", committed(1, 5, 10)), (9, "s-1", shown(12, 10))];
        assert_eq!(judge_all(check, &happened_at(early)).len(), 2);
    }
}
