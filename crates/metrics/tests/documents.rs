//! The table of metrics, its documentation, the dashboard and the alerts cannot drift apart.
//!
//! `MERIDIAN_WRITE_DOCS=1 cargo test -p meridian-metrics` writes the tables of `docs/metrics.md` anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use meridian_metrics::names::ALL;
use meridian_metrics::{Family, Kind};

const BEGIN: &str = "<!-- The tables below are written by a test from crates/metrics/src/names.rs. -->\n";
const DASHBOARD: &str = "deploy/grafana/meridian.json";
const ALERTS: &str = "deploy/prometheus/alerts.yml";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_metric_is_documented_as_the_table_has_it() {
    let text = read("docs/metrics.md");
    let (head, tables) = text.split_once(BEGIN).expect("the tables have a beginning");
    let expected = tables_of_all();
    if std::env::var_os("MERIDIAN_WRITE_DOCS").is_some() {
        fs::write(path("docs/metrics.md"), [head, BEGIN, &expected].concat())
            .expect("docs/metrics.md is written");
        return;
    }
    assert!(
        tables == expected,
        "docs/metrics.md is old: MERIDIAN_WRITE_DOCS=1 cargo test -p meridian-metrics"
    );
}

fn tables_of_all() -> String {
    let titles = [
        ("", "Every process"),
        ("router", "Routers"),
        ("query", "Query processors"),
        ("adjudicator", "Adjudicators"),
        ("journal", "Journal nodes"),
        ("storage", "Storage nodes"),
    ];
    let mut text = String::new();
    for (role, title) in titles {
        let is_here = |family: &&&Family| family.roles.first().copied().unwrap_or_default() == role;
        write!(
            text,
            "\n## {title}\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n"
        )
        .expect("a string");
        for family in ALL.iter().filter(is_here) {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let only = if family.only.is_empty() {
                String::new()
            } else {
                format!(" Only while {}.", family.only)
            };
            let (name, kind, labels) = (family.name, family.kind.name(), labels.join(", "));
            writeln!(text, "| `{name}` | {kind} | {labels} | {}{only} |", family.help).expect("a string");
        }
    }
    text
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let words = text.split(|char| !is_part(char));
    words.filter(|word| word.starts_with("meridian_")).collect()
}

/// The family of a series' name.
fn family(series: &str) -> Option<&'static Family> {
    let find = |name: &str| ALL.iter().copied().find(|family| family.name == name);
    let of_histogram = || {
        let parts = ["_bucket", "_sum", "_count"];
        let name = parts.iter().find_map(|part| series.strip_suffix(part))?;
        find(name).filter(|family| matches!(family.kind, Kind::Histogram(_)))
    };
    // A histogram is no series itself.
    find(series)
        .filter(|family| !matches!(family.kind, Kind::Histogram(_)))
        .or_else(of_histogram)
}

#[test]
fn what_dashboard_and_alerts_show_exists() {
    for (document, at_least) in [(DASHBOARD, 50), (ALERTS, 20)] {
        let text = read(document);
        let named = named(&text);
        assert!(
            named.len() >= at_least,
            "{document} names {} metrics only",
            named.len()
        );
        let unknown: Vec<_> = named.iter().filter(|name| family(name).is_none()).collect();
        assert!(
            unknown.is_empty(),
            "{document} names what does not exist: {unknown:?}"
        );
    }
}

#[test]
fn the_dashboard_is_json_and_shows_almost_everything() {
    let text = read(DASHBOARD);
    let parsed: serde_json::Value = serde_json::from_str(&text).expect("the dashboard is JSON");
    assert!(
        parsed["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 30)
    );
    let shown: BTreeSet<&str> = named(&text)
        .into_iter()
        .filter_map(family)
        .map(|family| family.name)
        .collect();
    let left: Vec<&str> = ALL
        .iter()
        .map(|family| family.name)
        .filter(|name| !shown.contains(name))
        .collect();
    // What others say as well.
    let known = [
        "meridian_router_requests_total",
        "meridian_router_sessions_total",
        "meridian_router_answers_broken_total",
        "meridian_query_transactions_begun_total",
        "meridian_query_sessions_total",
        "meridian_query_commits_told_by_journal_total",
        "meridian_adjudicator_lease_records_total",
        "meridian_range_committed_lsn",
        "meridian_journal_trimmed_segments_total",
        "meridian_journal_trimmed_bytes_total",
        "meridian_journal_log_bytes",
        "meridian_journal_stream_promised_epoch",
        "meridian_storage_open_read_bytes",
        "meridian_storage_feeds_opened_total",
    ];
    assert_eq!(left, known);
}

#[test]
fn every_alert_says_what_to_do_and_is_in_the_table_of_alarms() {
    let (alerts, alarms) = (read(ALERTS), read("docs/alarms.md"));
    let mut names = BTreeSet::new();
    for rule in alerts.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap_or_default();
        assert!(names.insert(name), "{name} is there twice");
        for part in ["expr: ", "severity: ", "summary: ", "cause: ", "remedy: "] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
        assert!(
            alarms.contains(&format!("| `{name}` |")),
            "docs/alarms.md lacks {name}"
        );
    }
    let listed = alarms
        .lines()
        .filter(|line| line.starts_with("| `Meridian"))
        .count();
    assert_eq!(listed, names.len(), "docs/alarms.md has alerts that do not exist");
}
