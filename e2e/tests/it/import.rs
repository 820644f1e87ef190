//! The shell against a cluster that is killed in the middle of an import.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use meridian_e2e::{Cluster, Layout};

const RECORDS: usize = 20_000;

fn kv_cli(cluster: &Cluster) -> Command {
    let mut command = Command::new(meridian_e2e::kv_cli());
    command
        .args(["--endpoint", &cluster.endpoints()[0]])
        .stdin(Stdio::null());
    command
}

fn stdout(command: &mut Command) -> String {
    let output = command.output().expect("kv-cli runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// Records by key, from JSON lines.
fn records(lines: &str) -> BTreeMap<String, String> {
    let record = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        let text = |name: &str| record[name].as_str().expect("text").to_owned();
        (text("key"), text("value"))
    };
    lines.lines().map(record).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_survives_kill_9_of_everything() {
    survives_kill_9(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_into_sled_survives_kill_9_of_everything() {
    survives_kill_9(Some("sled")).await;
}

async fn survives_kill_9(engine: Option<&'static str>) {
    let mut cluster = Cluster::start(Layout {
        routers: 1,
        storages: 1,
        queries: 1,
        engine,
        ..Layout::default()
    })
    .await;
    let input = cluster.directory().join("input.jsonl");
    let mut lines = String::new();
    for number in 0..RECORDS {
        let value = format!(
            "value {number} with \\\"quotes\\\", ünïcode and some length {}",
            "x".repeat(number % 300)
        );
        writeln!(lines, r#"{{"key":"import/{number:06}","value":"{value}"}}"#).unwrap();
    }
    fs::write(&input, &lines).unwrap();

    let import = kv_cli(&cluster)
        .arg("import")
        .arg(&input)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut import = import.expect("kv-cli runs");
    tokio::time::sleep(Duration::from_millis(700)).await;
    cluster.kill_all();
    import.wait().expect("the import ends");
    cluster.start_all();
    cluster.wait_until_writable().await;

    // What is there is a part of the input, and nothing else.
    let expected = records(&lines);
    let partial = records(&stdout(
        kv_cli(&cluster).args(["export", "-", "--prefix", "import/"]),
    ));
    assert!(
        partial
            .iter()
            .all(|(key, value)| expected.get(key) == Some(value))
    );
    println!("{} of {RECORDS} records were there after the kill", partial.len());
    let is_fjall = cluster.directory().join("storage-1/storage/fjall").exists();
    assert_eq!(is_fjall, engine.is_none(), "the engine that was asked for");

    // Running it again completes it; and that survives as well.
    stdout(kv_cli(&cluster).arg("import").arg(&input));
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_until_writable().await;
    let complete = records(&stdout(
        kv_cli(&cluster).args(["export", "-", "--prefix", "import/"]),
    ));
    assert_eq!(complete.len(), RECORDS);
    assert!(complete == expected, "the export differs from the input");
}
