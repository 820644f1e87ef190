use std::collections::BTreeSet;

use crate::Kind;
use crate::names::ALL;

#[test]
fn names_are_unique_and_tell_the_kind() {
    let names: BTreeSet<&str> = ALL.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), ALL.len());
    for family in ALL {
        let name = family.name;
        assert!(name.starts_with("meridian_"), "{name}");
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(name.bytes().all(fits), "{name}");
        assert_eq!(family.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        for reserved in ["_sum", "_count", "_bucket"] {
            assert!(!name.ends_with(reserved), "{name}");
        }
        assert!(
            family.help.ends_with('.') && !family.help.contains('\n'),
            "{name}"
        );
        assert!(
            !family
                .labels
                .iter()
                .any(|label| ["node", "region", "le"].contains(label)),
            "{name}"
        );
        if let Kind::Histogram(bounds) = family.kind {
            assert!(bounds.is_sorted(), "{name}");
        }
    }
}
