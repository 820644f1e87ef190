//! Every process publishes what the table of metrics says, from its start, in the form that Prometheus reads; and it moves.

use std::collections::{BTreeMap, BTreeSet};

use meridian_client::{Client, Isolation, KvError, TxnOptions};
use meridian_e2e::{Cluster, Layout};
use meridian_metrics::{Family, Kind, names};
use meridian_rpc::metered::REASONS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_publishes_the_metrics_of_its_roles() {
    let cluster = Cluster::start(Layout {
        journals: 1,
        adjudicators: 1,
        storages: 1,
        queries: 1,
        routers: 1,
        metrics: true,
        ..Layout::default()
    })
    .await;
    let mut met = BTreeSet::new();
    for node in cluster.nodes() {
        let role = node.split_once('-').unwrap().0;
        let scrape = scrape(&cluster, &node).await;
        for family in names::ALL {
            let count = scrape.of(family).count();
            assert!(count == 0 || family.is_of(&[role]), "{node}: {}", family.name);
            let is_expected = family.is_of(&[role]) && family.only.is_empty();
            assert!(count > 0 || !is_expected, "{node} has no {}", family.name);
            met.extend((count > 0).then_some(family.name));
        }
        for (label, values) in known_values(role) {
            for value in values {
                scrape.one(label.0, &[(label.1, value)]);
            }
        }
        assert_eq!(scrape.one(&names::READY, &[("role", role)]), 1.0);
        only_metrics_are_served(cluster.metrics_address(&node)).await;
    }
    let all: BTreeSet<&str> = names::ALL.iter().map(|family| family.name).collect();
    assert_eq!(met, all, "a cluster in use has each metric somewhere");
    counters_move(&cluster).await;
}

/// The labels of which all values are there from the start.
fn known_values(role: &str) -> Vec<((&'static Family, &'static str), &'static [&'static str])> {
    let mut known: Vec<((&'static Family, _), _)> = vec![((&names::RPC_ERRORS, "reason"), REASONS)];
    known.extend(match role {
        "router" => vec![((&names::ROUTER_REFUSED, "why"), names::REFUSALS)],
        "query" => vec![
            ((&names::QUERY_ABORTS, "reason"), &KvError::REASONS[..]),
            ((&names::QUERY_ERRORS, "reason"), &KvError::REASONS[..]),
            ((&names::QUERY_RETRIES, "why"), names::RETRIES),
            ((&names::QUERY_OPERATION, "operation"), names::OPERATIONS),
        ],
        "adjudicator" => vec![
            ((&names::ADJUDICATOR_ANSWERS, "answer"), names::ANSWERS),
            ((&names::ADJUDICATOR_TAKEOVERS, "result"), names::TAKEOVERS),
            ((&names::ADJUDICATOR_EPOCHS, "start"), names::EPOCHS),
        ],
        "storage" => vec![((&names::STORAGE_CHECKPOINTS, "result"), names::CHECKPOINTS)],
        _ => vec![],
    });
    known
}

async fn counters_move(cluster: &Cluster) {
    let before = all(cluster).await;
    let client = cluster.client().await;
    client.put("metrics/key", "1").await.unwrap();
    assert_eq!(
        client.get("metrics/key").await.unwrap().as_deref(),
        Some(&b"1"[..])
    );
    conflict(&client).await;
    let after = all(cluster).await;
    let rise = |node: &str, family: &Family, labels: &[(&str, &str)]| {
        after[node].one(family, labels) - before[node].one(family, labels)
    };
    let reason = [("reason", "CONFLICT")];
    assert_eq!(rise("query-1", &names::QUERY_COMMITS, &[]), 2.0);
    assert_eq!(rise("query-1", &names::QUERY_ABORTS, &reason), 1.0);
    assert_eq!(rise("query-1", &names::QUERY_ERRORS, &reason), 1.0);
    assert_eq!(
        rise("query-1", &names::QUERY_ATTEMPTS, &[]),
        3.0,
        "one for each commit"
    );
    assert_eq!(rise("query-1", &names::QUERY_WAIT, &[]), 2.0);
    assert!(rise("query-1", &names::QUERY_OPERATION, &[("operation", "get")]) >= 2.0);
    let session = [("method", "meridian.v1.Kv/Session")];
    assert!(rise("query-1", &names::RPC_CALLS, &session) >= 1.0);
    assert!(rise("router-1", &names::RPC_CALLS, &session) >= 1.0);
    assert!(
        after["router-1"].one(&names::RPC_OPEN, &session) >= 1.0,
        "the client's is open"
    );
    let answer = |answer| {
        rise(
            "adjudicator-1",
            &names::ADJUDICATOR_ANSWERS,
            &[("answer", answer)],
        )
    };
    assert_eq!((answer("committed"), answer("CONFLICT")), (2.0, 1.0));
    assert!(rise("adjudicator-1", &names::ADJUDICATOR_BUSY, &[]) >= 3.0);
    for family in [&names::JOURNAL_SYNC, &names::JOURNAL_GROUP, &names::JOURNAL_BUSY] {
        assert!(rise("journal-1", family, &[]) >= 2.0, "{}", family.name);
    }
    assert!(rise("storage-1", &names::STORAGE_READS, &[]) >= 3.0);
    assert!(rise("storage-1", &names::STORAGE_VERSIONS, &[]) >= 1.0);
}

/// Two transactions write what both have read.
async fn conflict(client: &Client) {
    let options = || TxnOptions {
        isolation: Isolation::Snapshot,
        ..TxnOptions::default()
    };
    let first = client.begin(options()).await.unwrap();
    let second = client.begin(options()).await.unwrap();
    for txn in [&first, &second] {
        txn.get("metrics/key").await.unwrap();
        txn.put("metrics/key", "2").await.unwrap();
    }
    first.commit().await.unwrap();
    let refused = second.commit().await.unwrap_err();
    assert!(
        matches!(refused.kv(), Some(KvError::Conflict { .. })),
        "{refused:?}"
    );
}

async fn all(cluster: &Cluster) -> BTreeMap<String, Scrape> {
    let mut scrapes = BTreeMap::new();
    for node in cluster.nodes() {
        let scraped = scrape(cluster, &node).await;
        scrapes.insert(node, scraped);
    }
    scrapes
}

async fn only_metrics_are_served(address: &str) {
    for (method, path, expected) in [
        ("GET", "/", "404"),
        ("GET", "/metrics/", "404"),
        ("POST", "/metrics", "405"),
        ("GET", "/metrics", "200"),
    ] {
        let answer = ask(address, method, path).await;
        let status = answer.split(' ').nth(1);
        assert_eq!(status, Some(expected), "{method} {path}");
    }
}

async fn ask(address: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let question = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn scrape(cluster: &Cluster, node: &str) -> Scrape {
    let answer = ask(cluster.metrics_address(node), "GET", "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    Scrape::read(node, body)
}

type Labels = BTreeMap<String, String>;

/// What one process published.
struct Scrape {
    node: String,
    /// By name; of histograms with `_bucket`, `_sum` and `_count`.
    samples: Vec<(String, Labels, f64)>,
}

impl Scrape {
    /// Reads the exposition, and sees to it that it is well-formed and says what the table says.
    fn read(node: &str, text: &str) -> Self {
        let mut types: BTreeMap<&str, &str> = BTreeMap::new();
        let mut helps: BTreeSet<&str> = BTreeSet::new();
        let mut samples = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(
                    helps.insert(rest.split_once(' ').unwrap().0),
                    "{node}: told twice: {line}"
                );
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(types.insert(name, kind).is_none(), "{node}: told twice: {line}");
            } else {
                let sample = read_sample(line);
                let family = family_of(&sample.0);
                assert_eq!(
                    types.get(family.name),
                    Some(&family.kind.name()),
                    "{node}: {line}"
                );
                assert!(helps.contains(family.name), "{node}: {line}");
                let labels: Vec<&str> = sample
                    .1
                    .keys()
                    .map(String::as_str)
                    .filter(|label| *label != "le")
                    .collect();
                let mut expected = [family.labels, &["node", "region"]].concat();
                expected.sort_unstable();
                assert_eq!(labels, expected, "{line}");
                assert_eq!(sample.1["node"], node, "{line}");
                samples.push(sample);
            }
        }
        let scrape = Self {
            node: node.to_owned(),
            samples,
        };
        scrape.check_histograms();
        scrape
    }

    fn check_histograms(&self) {
        let mut series: BTreeSet<(&str, Labels)> = BTreeSet::new();
        for (name, labels, _) in &self.samples {
            assert!(
                series.insert((name, labels.clone())),
                "{}: {name} {labels:?} is there twice",
                self.node
            );
        }
        let counts = self.samples.iter().filter(|(name, ..)| name.ends_with("_count"));
        for (name, labels, count) in counts {
            let bucket = name.replace("_count", "_bucket");
            let is_of = |other: &Labels| other.iter().filter(|(label, _)| *label != "le").eq(labels.iter());
            let mut buckets: Vec<(f64, f64)> = self
                .samples
                .iter()
                .filter(|(name, other, _)| *name == bucket && is_of(other))
                .map(|(_, labels, value)| (labels["le"].parse().unwrap(), *value))
                .collect();
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(
                buckets.is_sorted_by(|one, other| one.1 <= other.1),
                "{name}: {buckets:?}"
            );
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{name}");
            let Kind::Histogram(bounds) = family_of(name).kind else {
                panic!("{name} is no histogram");
            };
            assert_eq!(buckets.len(), bounds.len() + 1, "{name}");
        }
    }

    /// The series of a family; of a histogram, how often each was recorded.
    fn of<'a>(&'a self, family: &Family) -> impl Iterator<Item = (&'a Labels, f64)> {
        let name = match family.kind {
            Kind::Histogram(_) => format!("{}_count", family.name),
            Kind::Counter | Kind::Gauge => family.name.to_owned(),
        };
        let samples = self.samples.iter().filter(move |(sample, ..)| *sample == name);
        samples.map(|(_, labels, value)| (labels, *value))
    }

    /// The sum of the series with these labels, of which there must be at least one.
    fn one(&self, family: &Family, labels: &[(&str, &str)]) -> f64 {
        let fits = |of: &Labels| {
            labels
                .iter()
                .all(|(label, value)| of.get(*label).is_some_and(|is| is == value))
        };
        let values: Vec<f64> = self
            .of(family)
            .filter(|(of, _)| fits(of))
            .map(|(_, value)| value)
            .collect();
        assert!(
            !values.is_empty(),
            "{} has no {} with {labels:?}",
            self.node,
            family.name
        );
        values.iter().sum()
    }
}

fn family_of(sample: &str) -> &'static Family {
    let find = |name: &str| names::ALL.iter().copied().find(|family| family.name == name);
    let histogram = || {
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| sample.strip_suffix(suffix))?;
        find(name).filter(|family| matches!(family.kind, Kind::Histogram(_)))
    };
    find(sample)
        .or_else(histogram)
        .unwrap_or_else(|| panic!("{sample} is not in the table"))
}

/// `name{label="value",...} number`. No value here holds a quote, a comma or a brace.
fn read_sample(line: &str) -> (String, Labels, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap();
    let labels = labels.strip_suffix('}').unwrap();
    let labels = labels.split(',').map(|label| {
        let (label, value) = label.split_once('=').unwrap();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        (label.to_owned(), value.unwrap().to_owned())
    });
    (name.to_owned(), labels.collect(), value.parse().unwrap())
}

#[test]
fn an_exposition_that_says_something_else_is_noticed() {
    let name = names::JOURNAL_WAITING.name;
    let head = format!("# HELP {name} Waiting.\n# TYPE {name} gauge\n");
    let sample = format!("{name}{{node=\"n\",region=\"r\"}} 1\n");
    let good = head.clone() + &sample;
    assert_eq!(Scrape::read("n", &good).one(&names::JOURNAL_WAITING, &[]), 1.0);
    let group = names::JOURNAL_GROUP.name;
    let histogram = |bucket: &str, count: u32| {
        let mut text = format!("# HELP {group} Records.\n# TYPE {group} histogram\n");
        let Kind::Histogram(bounds) = names::JOURNAL_GROUP.kind else {
            panic!("{group} is no histogram");
        };
        for bound in bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]) {
            let value = if bound == "8" { bucket } else { "3" };
            text += &format!("{group}_bucket{{node=\"n\",region=\"r\",le=\"{bound}\"}} {value}\n");
        }
        text + &format!("{group}_count{{node=\"n\",region=\"r\"}} {count}\n")
    };
    assert_eq!(
        Scrape::read("n", &histogram("3", 3)).one(&names::JOURNAL_GROUP, &[]),
        3.0
    );
    let bad = [
        ("without a type", sample.clone()),
        ("another kind", good.replace("gauge", "counter")),
        ("told twice", head.clone() + &good),
        ("a series twice", good.clone() + &sample),
        ("no number", good.replace("} 1", "} one")),
        ("another node", good.replace("\"n\"", "\"m\"")),
        ("a label too many", good.replace("region=", "key=\"k\",region=")),
        ("not in the table", good.replace(name, "meridian_journal_weather")),
        ("buckets that fall", histogram("4", 3)),
        ("a count of its own", histogram("3", 4)),
    ];
    for (what, text) in bad {
        let read = std::panic::catch_unwind(|| Scrape::read("n", &text));
        assert!(read.is_err(), "not noticed: {what}");
    }
}
