//! Section 7: what a journal node has synced, and so may have acknowledged, it finds again when it starts: no entry and no
//! promise is forgotten, whatever it died of.

use super::{Log, Violation};

/// Every start of every journal node.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let forgotten = log.streams.values().flat_map(|stream| &stream.forgotten);
    let shown = forgotten.map(|(index, what)| {
        let node = log
            .events
            .get(*index)
            .map(|happened| happened.node.to_string())
            .unwrap_or_default();
        Violation::shown(
            "what is synced survives",
            format!("{node} {what}"),
            log.events,
            [*index],
        )
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::invariants::testing::{judge, persisted, promised, recovered};

    fn after(start: Event) -> Vec<String> {
        let history = [
            ("j-1", promised(2)),
            ("j-1", persisted(1, 1, 0)),
            ("j-1", persisted(1, 2, 9)),
            ("j-1", promised(3)),
            ("j-1", start),
        ];
        judge(check, history)
    }

    #[test]
    fn all_that_was_synced_is_there_and_perhaps_more() {
        assert_eq!(after(recovered(3, (1, 2))), [""; 0]);
        assert_eq!(after(recovered(4, (1, 4))), [""; 0]);
        assert_eq!(
            after(recovered(3, (3, 2))),
            [""; 0],
            "replaced by what was not acknowledged yet"
        );
    }

    #[test]
    fn a_lost_entry_and_a_lost_promise_are_found() {
        assert_eq!(after(recovered(3, (1, 1))).len(), 1);
        assert_eq!(after(recovered(2, (1, 2))).len(), 1);
        let new_disk = [
            ("j-1", persisted(1, 1, 0)),
            ("j-1", Event::Mounted { disk: 7 }),
            ("j-1", recovered(0, (0, 0))),
        ];
        assert_eq!(judge(check, new_disk), [""; 0]);
    }
}
