//! What operators see of ranges, and how they change them, with the shell against a whole cluster under load.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use meridian_e2e::ledger::{self, Writers};
use meridian_e2e::{Cluster, RegionLayout};
use serde_json::Value;

const RANGES: usize = 2;
/// For liveness only.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `kv-cli` prints; an error is what it complains of.
fn run(cluster: &Cluster, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(meridian_e2e::kv_cli());
    command.stdin(Stdio::null());
    command.args(["--endpoint", &cluster.endpoints()[0]]);
    let output = command.args(args).output().expect("kv-cli runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// The ranges that the shell shows as JSON; the stream of the map itself, which is shown while it has an owner, left out.
fn json(cluster: &Cluster) -> Vec<Value> {
    let lines = run(cluster, &["--format", "json", "ranges"]).expect("the ranges are shown");
    let parsed = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"));
    parsed.filter(|range: &Value| range["stream"] != 0).collect()
}

fn field<'a>(range: &'a Value, name: &str) -> &'a str {
    range[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name} in {range}"))
}

/// Waits until the shell shows these ranges, each by its first key and its owner's region, and every one of them owned.
async fn until(cluster: &Cluster, expected: &[(&str, &str)]) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ranges = json(cluster);
        let is_owned = ranges.iter().all(|range| field(range, "role") == "owner");
        let mut seen: Vec<_> = ranges
            .iter()
            .map(|range| (field(range, "start"), field(range, "region")))
            .collect();
        seen.sort_unstable();
        if is_owned && seen == expected {
            return ranges;
        }
        assert!(
            Instant::now() < deadline,
            "the ranges are {seen:?}, not {expected:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_and_change_ranges_under_load_and_no_transaction_fails() {
    let layout = RegionLayout {
        ranges: RANGES,
        ..RegionLayout::default()
    };
    let cluster = Cluster::start_regions(layout).await;
    let clients = [cluster.client_in("a"), cluster.client_in("b")];
    for client in &clients {
        client.put("1/first", "use").await.expect("every range is used");
        client.put("0/first", "use").await.expect("every range is used");
    }
    until(&cluster, &[("", "a"), ("1/", "b")]).await;
    let writers = Writers::start(&clients, RANGES, Duration::from_millis(20));

    run(&cluster, &["split", "1/entry/02"]).expect("a split");
    let split = until(&cluster, &[("", "a"), ("1/", "b"), ("1/entry/02", "b")]).await;
    let number = |range: &Value| range["range"].as_u64().expect("a number");
    let of = |start: &str| {
        split
            .iter()
            .find(|range| field(range, "start") == start)
            .expect("the range")
    };
    assert!(of("1/")["end"] == "1/entry/02" && of("1/entry/02")["stream"].as_u64() > Some(2));
    assert_eq!(of("1/")["candidates"][0], "adjudicator-b1");

    run(
        &cluster,
        &["move", &number(of("1/entry/02")).to_string(), "adjudicator-a1"],
    )
    .expect("a move");
    until(&cluster, &[("", "a"), ("1/", "b"), ("1/entry/02", "a")]).await;
    let text = run(&cluster, &["ranges"]).expect("the ranges are shown");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0][..6],
        ["range", "from", "to", "stream", "owner", "region"],
        "{text}"
    );
    let row = rows
        .iter()
        .find(|row| row.contains(&"1/entry/02") && row.contains(&"adjudicator-a1"));
    assert!(row.is_some_and(|row| row.contains(&"a")), "{text}");
    // One line for each range that holds keys, none for the one that was split; and the stream of the map.
    let owned = rows
        .iter()
        .filter(|row| row[0] != "0" && row.iter().any(|cell| cell.starts_with("adjudicator-")));
    assert_eq!(owned.count(), 3, "{text}");

    run(&cluster, &["merge", "1/entry/02"]).expect("a merge");
    let merged = until(&cluster, &[("", "a"), ("1/", "b")]).await;
    assert!(merged.iter().all(|range| range["retired"] == false), "{merged:?}");
    run(
        &cluster,
        &["move", &number(&merged[0]).to_string(), "adjudicator-b1"],
    )
    .expect("a move");
    until(&cluster, &[("", "b"), ("1/", "b")]).await;

    let refused = run(&cluster, &["merge", "nothing begins here"]).expect_err("a merge of nothing");
    assert!(refused.contains("begin"), "{refused}");
    let refused = run(&cluster, &["move", "1", "nobody"]).expect_err("a move to nobody");
    assert!(refused.contains("nobody"), "{refused}");

    let written = writers.stop().await;
    println!(
        "{} appends, longest gap of a writer {:?}",
        written.acknowledged.len(),
        written.longest_gap
    );
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    for client in &clients {
        ledger::check(&ledger::read(client, RANGES).await, &written);
    }
}
