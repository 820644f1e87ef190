use super::*;
use crate::config::RegionKind;

const GOOD: &str = r#"
[cluster]
id = "0197c2a0-0000-7000-8000-000000000001"

[[node]]
name = "j1"
address = "127.0.0.1:7001"
roles = ["journal", "adjudicator"]
data_dir = "j1"

[[node]]
name = "s1"
address = "127.0.0.1:7002"
roles = ["storage", "query", "router"]
data_dir = "s1"
"#;

fn problems(text: &str) -> Vec<String> {
    let file = File::parse(text).unwrap();
    check(&file, text).iter().map(ToString::to_string).collect()
}

#[test]
fn a_fit_configuration_has_no_problem() {
    assert_eq!(problems(GOOD), Vec::<String>::new());
}

#[test]
fn unknown_fields_and_wrong_types_are_refused_with_their_line() {
    let error = File::parse(&GOOD.replace("data_dir = \"s1\"", "datadir = \"s1\"")).unwrap_err();
    assert!(
        error.contains("line 15") && error.contains("unknown field `datadir`"),
        "{error}"
    );
    let error = File::parse(&GOOD.replace("\"query\"", "\"queries\"")).unwrap_err();
    assert!(
        error.contains("unknown variant `queries`") && error.contains("line 14"),
        "{error}"
    );
    let error = File::parse(&GOOD.replace("0197c2a0-", "")).unwrap_err();
    assert!(error.contains("is not an id"), "{error}");
    let clock = "data_dir = \"s1\"\nclock = { source = \"sundial\", bound_us = 1 }";
    let error = File::parse(&GOOD.replace("data_dir = \"s1\"", clock)).unwrap_err();
    assert!(error.contains("unknown variant `sundial`"), "{error}");
}

#[test]
fn metrics_need_an_address_of_their_own() {
    let with = |first: &str, second: &str| {
        let text = GOOD.replace(
            "data_dir = \"j1\"",
            &format!("data_dir = \"j1\"\nmetrics = {first:?}"),
        );
        problems(&text.replace(
            "data_dir = \"s1\"",
            &format!("data_dir = \"s1\"\nmetrics = {second:?}"),
        ))
    };
    assert_eq!(with("0.0.0.0:9400", "0.0.0.0:9401"), Vec::<String>::new());
    let found = with("127.0.0.1:9400", "127.0.0.1:9400");
    let expected = "line 17: error: node \"s1\", metrics: node \"j1\" of the same machine has this address already: choose another port";
    assert_eq!(found, [expected]);
    for wrong in ["9400", ":9400", "127.0.0.1:0", "127.0.0.1:http"] {
        let found = with(wrong, "127.0.0.1:9400");
        assert!(
            found.len() == 1 && found[0].starts_with("line 10: error: node \"j1\", metrics"),
            "{found:?}"
        );
    }
    for own in ["127.0.0.1:7001", "0.0.0.0:7001"] {
        let found = with(own, "127.0.0.1:9400");
        assert!(
            found.len() == 1 && found[0].contains("the node's own address"),
            "{found:?}"
        );
    }
    assert_eq!(with("127.0.0.2:7001", "127.0.0.1:9400"), Vec::<String>::new());
}

#[test]
fn duplicates_are_named_with_line_and_partner() {
    let found = problems(&GOOD.replace("7002", "7001"));
    let expected = "line 13: error: node \"s1\", address: node \"j1\" has this address already: every node needs its own";
    assert_eq!(found, [expected]);
    let found = problems(&GOOD.replace("\"s1\"\naddress", "\"j1\"\naddress"));
    assert!(
        found[0].starts_with("line 12: error: node \"j1\", name"),
        "{found:?}"
    );
    let found = problems(&GOOD.replace("data_dir = \"s1\"", "data_dir = \"j1\""));
    assert!(
        found[0].contains("line 15") && found[0].contains("has this directory already"),
        "{found:?}"
    );
}

#[test]
fn unfit_names_and_addresses_are_refused() {
    for name in ["", "söder", "a b", "x/../y", &"n".repeat(65)] {
        let found = problems(&GOOD.replace("name = \"s1\"", &format!("name = \"{name}\"")));
        assert!(
            found[0].contains("does not fit into a header"),
            "{name}: {found:?}"
        );
    }
    for (address, why) in [
        ("127.0.0.1", "has no port"),
        (":7002", "has no host"),
        ("127.0.0.1:0", "port 0"),
        ("127.0.0.1:70000", "is not a port"),
    ] {
        let found = problems(&GOOD.replace("127.0.0.1:7002", address));
        assert!(found[0].contains(why), "{address}: {found:?}");
    }
}

#[test]
fn a_missing_role_or_directory_is_found() {
    let found = problems(&GOOD.replace("\"journal\", ", ""));
    assert!(found.iter().any(|p| p.contains("no quorum")), "{found:?}");
    let found = problems(&GOOD.replace("data_dir = \"s1\"", ""));
    assert!(found[0].contains("a storage node keeps files"), "{found:?}");
    let found = problems(&GOOD.replace(
        "address = \"127.0.0.1:7002\"",
        "address = \"127.0.0.1:7002\"\nregion = \"north\"",
    ));
    assert_eq!(found, Vec::<String>::new());
    let found = problems(
        &GOOD
            .replace(", \"query\"", "")
            .replace("\"adjudicator\"", "\"adjudicator\", \"query\"")
            .replace(
                "address = \"127.0.0.1:7002\"",
                "address = \"127.0.0.1:7002\"\nregion = \"north\"",
            ),
    );
    assert!(found[0].contains("no storage node to read from"), "{found:?}");
}

#[test]
fn contradicting_bounds_are_found() {
    let with = |settings: &str| problems(&format!("{GOOD}\n[cluster.settings]\n{settings}\n"));
    for (settings, field, line) in [
        ("lease_ms = 50", "cluster.settings.lease_ms", 18),
        (
            "lease_ms = 400\nlead = { fixed = { ms = 300 } }",
            "cluster.settings.lead",
            19,
        ),
        (
            "lead = { auto = { floor_ms = 5, ceiling_ms = 4 } }",
            "cluster.settings.lead",
            18,
        ),
        ("retention_s = 300", "cluster.settings.retention_s", 18),
        ("max_clock_error_ms = 2000", "cluster.settings.retention_s", 0),
        ("max_clock_error_ms = 5", "node \"j1\", clock.bound_us", 6),
    ] {
        let found = with(settings);
        assert!(found.iter().any(|p| p.contains(field)), "{settings}: {found:?}");
        if line > 0 {
            assert!(
                found[0].starts_with(&format!("line {line}:")),
                "{settings}: {found:?}"
            );
        }
    }
}

#[test]
fn what_all_must_agree_on_is_refused_at_a_node() {
    let found = problems(&format!(
        "{GOOD}\n[node.settings.adjudicator]\nlease_length_ms = 9\n"
    ));
    let expected = "line 18: error: node \"s1\", settings.adjudicator.lease_length_ms: belongs into cluster.settings.lease_ms: remove it here";
    assert_eq!(found, [expected]);
}

#[test]
fn settings_with_which_a_service_could_not_work_are_found() {
    let found = problems(&format!("{GOOD}\n[node.settings.storage]\ncache_bytes = 0\n"));
    assert!(
        found[0].contains("settings.storage: storage.cache_bytes must be greater"),
        "{found:?}"
    );
    assert!(found[0].starts_with("line 17:"), "{found:?}");
}

#[test]
fn a_node_tries_itself_then_its_region_then_the_others() {
    let mut text = String::from("[cluster]\n");
    for (name, region) in [("j1", "a"), ("j2", "a"), ("j3", "b"), ("x", "a"), ("y", "a")] {
        text += &format!("[[node]]\nname = \"{name}\"\nregion = \"{region}\"\naddress = \"h:1\"\nroles = [");
        text += if name.starts_with('j') {
            "\"journal\"]\n"
        } else {
            "\"storage\"]\n"
        };
    }
    let file = File::parse(&text).unwrap();
    let order = |node| {
        let names = file.nearest(Role::Journal, file.node(node).unwrap());
        names
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(order("j2"), "j2 j1 j3");
    assert_eq!(order("j3"), "j3 j1 j2");
    assert_ne!(order("x"), order("y"), "two neighbours lean on different nodes");
    assert!(order("x").ends_with(" j3"));
}

/// Two active regions and a witness, with two ranges.
const REGIONS: &str = r#"
[cluster]

[[cluster.region]]
name = "a"

[[cluster.region]]
name = "b"

[[cluster.region]]
name = "w"
kind = "witness"

[[cluster.range]]
start = 'm\xff'
region = "b"

[[cluster.range]]
region = "a"

[[node]]
name = "a1"
region = "a"
address = "127.0.0.1:7001"
roles = ["journal", "adjudicator", "storage", "query", "router"]
data_dir = "a1"

[[node]]
name = "b1"
region = "b"
address = "127.0.0.1:7002"
roles = ["journal", "adjudicator", "storage", "query", "router"]
data_dir = "b1"

[[node]]
name = "w1"
region = "w"
address = "127.0.0.1:7003"
roles = ["journal"]
data_dir = "w1"
"#;

#[test]
fn ranges_are_owned_where_they_are_preferred() {
    assert_eq!(problems(REGIONS), Vec::<String>::new());
    let file = File::parse(REGIONS).unwrap();
    assert_eq!(file.regions(), ["a", "b", "w"]);
    assert_eq!(file.region_kind("w"), RegionKind::Witness);
    let map = file.range_map();
    let of = |key: &[u8]| {
        let range = map.lookup(&key.into()).unwrap();
        let names: Vec<_> = range.candidates.iter().map(ToString::to_string).collect();
        format!("{} {}: {}", range.id, range.stream, names.join(" "))
    };
    assert_eq!(of(b"m"), "r1 s1: a1 b1");
    assert_eq!(of(b"m\xff"), "r2 s2: b1 a1");
    let single = File::parse(GOOD).unwrap().range_map();
    assert_eq!(single, meridian_types::RangeMap::single(vec!["j1".into()]));
}

#[test]
fn regions_and_ranges_that_contradict_the_nodes_are_found() {
    let second = "\n[[cluster.range]]\nregion = \"a\"\n";
    for (from, to, line, expected) in [
        ("name = \"b\"\n\n", "name = \"a\"\n\n", 8, "is there already"),
        (
            "region = \"b\"\naddress",
            "region = \"c\"\naddress",
            30,
            "not among the regions (a, b, w)",
        ),
        (
            "roles = [\"journal\"]",
            "roles = [\"journal\", \"router\"]",
            39,
            "take the role router away",
        ),
        (
            "kind = \"witness\"",
            "",
            10,
            "no node in it has the role adjudicator, storage",
        ),
        (
            "region = \"w\"",
            "region = \"b\"",
            39,
            "has a journal node already",
        ),
        (r"'m\xff'", r"'m\xf'", 15, "malformed escape"),
        (r"start = 'm\xff'", "", 18, "begins at \"\" already"),
        (
            "region = \"b\"\n\n",
            "region = \"w\"\n\n",
            16,
            "no adjudicator is in region \"w\"",
        ),
        (second, "\n\n\n", 15, "no range holds the smallest keys"),
    ] {
        let text = REGIONS.replacen(from, to, 1);
        assert_ne!(text, REGIONS, "{from}");
        let found = problems(&text);
        let fitting = found.iter().find(|problem| problem.contains(expected));
        let fitting = fitting.unwrap_or_else(|| panic!("{expected}: {found:?}"));
        assert!(fitting.starts_with(&format!("line {line}: error")), "{fitting}");
    }
}

#[test]
fn the_examples_are_fit_for_use() {
    for text in [
        include_str!("../../../../../deploy/local/cluster.toml"),
        include_str!("../../../../../deploy/regions/cluster.toml"),
    ] {
        assert_eq!(problems(text), Vec::<String>::new());
    }
}

#[test]
fn the_storage_nodes_of_a_region_hold_all_keys_between_them() {
    let with = |first: &str, second: &str| {
        problems(&format!(
            "[cluster]\n[[node]]\nname = \"j1\"\naddress = \"h:1\"\nroles = [\"journal\", \"adjudicator\", \"query\", \"router\"]\n\
             data_dir = \"a\"\n[[node]]\nname = \"s1\"\naddress = \"h:2\"\nroles = [\"storage\"]\ndata_dir = \"b\"\n{first}\n\
             [[node]]\nname = \"s2\"\naddress = \"h:3\"\nroles = [\"storage\"]\ndata_dir = \"c\"\n{second}\n"
        ))
    };
    let none: [&str; 0] = [];
    assert_eq!(with("", ""), none);
    assert_eq!(
        with("storage_keys = { to = 'm' }", "storage_keys = { from = 'k' }"),
        none
    );
    assert_eq!(with("storage_keys = { from = 'k', to = 'm' }", ""), none);
    for (first, second, says) in [
        (
            "storage_keys = { to = 'k' }",
            "storage_keys = { from = 'm' }",
            "holds key k:",
        ),
        (
            "storage_keys = { from = 'a' }",
            "storage_keys = { from = 'k' }",
            "holds key :",
        ),
        (
            "storage_keys = { to = 'k' }",
            "storage_keys = { to = 'z' }",
            "holds key z:",
        ),
        (
            "storage_keys = { from = 'm', to = 'k' }",
            "",
            "ends before it begins",
        ),
        (r"storage_keys = { from = '\q' }", "", "an escape is malformed"),
    ] {
        let found = with(first, second);
        assert!(
            found.iter().any(|problem| problem.contains(says)),
            "{first} {second}: {found:?}"
        );
    }
}
