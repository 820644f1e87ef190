//! `dev`: a real cluster in the process of the command.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::run_at;

const NOWHERE: &str = "127.0.0.1:1";

/// Starts `dev` for other clients, and waits until it says where it is.
async fn serve(data: &str, options: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kv-cli"))
        .args(["dev", "--data", data, "--listen", "127.0.0.1:0", "--no-shell"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next_line().await.unwrap().expect("it says its address");
        if let Some(address) = line.strip_prefix("serving other clients at ") {
            // With several regions the first one's comes first, with its name behind it.
            break address.split(' ').next().unwrap_or_default().to_owned();
        }
    };
    // What it says when it stops has to go somewhere.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, address)
}

#[tokio::test]
async fn a_script_runs_on_an_embedded_cluster_that_keeps_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let args = ["dev", "--data", data.to_str().unwrap(), "-e"];
    let script = "begin; put a 1; put b 'two words'; savepoint s; del a; rollback to s; commit; count";
    let run = run_at(NOWHERE, &[&args[..], &[script]].concat(), b"").await;
    let stderr = run.expect(0, "2\n");
    assert!(
        stderr.contains("data in ") && stderr.ends_with("stopped\n"),
        "{stderr}"
    );
    let run = run_at(
        NOWHERE,
        &args[..3],
        b"scan\nbegin serializable\nget a for update\ncommit\n",
    )
    .await;
    run.expect(0, "key  value\na    1\nb    two words\nkey  value\na    1\n");
    let run = run_at(NOWHERE, &[&args[..], &["fly"]].concat(), b"").await;
    assert!(
        run.expect(2, "")
            .contains("\nstopped\nerror: there is no command fly\n"),
        "{run:?}"
    );
}

#[tokio::test]
async fn other_clients_are_served_and_nothing_acknowledged_is_lost_when_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").to_str().unwrap().to_owned();
    let (mut child, address) = serve(&data, &[]).await;
    let mut input = String::new();
    for n in 0..2_000 {
        input.push_str(&format!("{{\"key\":\"k{n:05}\",\"value\":\"{n}\"}}\n"));
    }
    let args = ["import", "-", "--batch", "100"];
    run_at(&address, &args, input.as_bytes()).await.expect(0, "");
    child.kill().await.unwrap();
    let gone = run_at(&address, &["count"], b"").await;
    assert_eq!(gone.code, 4, "{gone:?}");

    let (mut child, address) = serve(&data, &[]).await;
    let run = run_at(&address, &["export", "-"], b"").await;
    assert!(run.code == 0 && run.stdout == input, "{}", run.stderr);
    let interrupt = ["-INT", &child.id().unwrap().to_string()];
    Command::new("kill").args(interrupt).status().await.unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    assert_eq!(stopped.unwrap().unwrap().code(), Some(0));
}

const REGIONS: [&str; 6] = [
    "--regions",
    "3",
    "--delay",
    "a-b=8ms,a-w=3ms,b-w=3ms",
    "--split",
    "n",
];

#[tokio::test]
async fn the_shell_goes_from_region_to_region_and_breaks_and_mends_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let dev = [&["dev", "--data", data.to_str().unwrap()], &REGIONS[..]].concat();
    let script = "put apple 1; put pear 2; region b; get apple; begin; put apple 3; commit; \
                  fault cut a-b; fault heal; fault kill b; put pear 4; fault restart b; region; region a; get pear";
    let run = run_at(
        NOWHERE,
        &[&dev[..], &["--format", "json", "-e", script]].concat(),
        b"",
    )
    .await;
    assert_eq!(run.code, 0, "{run:?}");
    for expected in [
        r#"{"key":"apple","value":"1"}"#,
        r#"{"cut":true,"delay_ns":8000000,"from":"a","to":"b"}"#,
        r#"{"cut":false,"delay_ns":8000000,"from":"a","to":"b"}"#,
        r#"{"node":"router-b1","region":"b","running":false}"#,
        r#"{"node":"router-b1","region":"b","running":true}"#,
        r#"{"key":"pear","value":"4"}"#,
    ] {
        assert!(
            run.stdout.lines().any(|line| line == expected),
            "{expected}: {run:?}"
        );
    }
    // Its regions and ranges stay.
    let run = run_at(
        NOWHERE,
        &[
            &dev[..3],
            &["--format", "json", "-e", "get apple; ranges; region c"],
        ]
        .concat(),
        b"",
    )
    .await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.stderr
            .contains("no router in region \"c\"; there are some in a, b"),
        "{run:?}"
    );
    let ranges: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&ranges[0]["value"], &ranges[2]["start"]),
        (&"3".into(), &"n".into()),
        "{run:?}"
    );
}

/// The first hop of this name.
fn hop<'a>(trace: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let hops = trace["trace"]["hops"].as_array().unwrap();
    let found = hops.iter().find(|hop| hop["hop"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {trace}"))
}

/// Parts that follow one another take no longer than their whole.
fn check_sums(trace: &serde_json::Value) {
    let hops = trace["trace"]["hops"].as_array().unwrap();
    let number = |hop: &serde_json::Value, name: &str| hop[name].as_u64().unwrap();
    for (at, whole) in hops.iter().enumerate() {
        let depth = number(whole, "depth");
        let parts = hops[at + 1..]
            .iter()
            .take_while(|hop| number(hop, "depth") > depth);
        let parts = parts.filter(|hop| number(hop, "depth") == depth + 1 && hop["beside"] == false);
        let sum: u64 = parts.clone().map(|hop| number(hop, "duration_us")).sum();
        // Each is cut to whole microseconds.
        let most = number(whole, "duration_us") + 1;
        assert!(sum <= most, "{sum} of {whole}: {trace}");
    }
}

#[tokio::test]
async fn a_traced_transaction_shows_each_hop_across_regions() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").to_str().unwrap().to_owned();
    let (_child, address) = serve(&data, &REGIONS).await;
    let script =
        "put apple 0; put pear 0; trace begin; get apple; put apple 1; put pear 2; commit; get apple";
    let run = run_at(&address, &["--format", "json", "-e", script], b"").await;
    assert_eq!(run.code, 0, "{run:?}");
    let lines: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let traces: Vec<_> = lines.iter().filter(|line| line["trace"].is_object()).collect();
    let [trace] = traces[..] else {
        panic!("one trace: {run:?}");
    };
    for name in [
        "call",
        "network",
        "get",
        "storage",
        "commit",
        "home",
        "votes",
        "vote",
        "journal",
        "learn",
        "commit_wait",
    ] {
        hop(trace, name);
    }
    check_sums(trace);
    let took = |name: &str| hop(trace, name)["duration_us"].as_u64().unwrap();
    // Two ways between the regions for the vote, and between a and w for the quorum.
    assert!(took("votes") >= 16_000, "{trace}");
    assert!(took("journal") >= 6_000, "{trace}");
    assert!(
        hop(trace, "journal")["by"].as_array().unwrap().len() >= 2,
        "{trace}"
    );

    let run = run_at(&address, &["trace", "--json", "put", "apple", "3"], b"").await;
    let trace = run.stdout.lines().last().unwrap_or_default();
    let trace: serde_json::Value = serde_json::from_str(trace).unwrap();
    check_sums(&trace);
    assert_eq!(hop(&trace, "home")["region"], "a", "{trace}");
    assert!(
        !trace.to_string().contains("\"votes\""),
        "one range only: {trace}"
    );
    let run = run_at(&address, &["trace", "get", "apple"], b"").await;
    assert!(run.stdout.contains("a read at storage-a1"), "{run:?}");
    let run = run_at(&address, &["-e", "begin; trace get apple"], b"").await;
    assert!(run.stderr.contains("not begun with trace"), "{run:?}");
}

#[tokio::test]
async fn faults_and_regions_are_there_for_other_processes_too() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").to_str().unwrap().to_owned();
    let (_child, address) = serve(&data, &REGIONS).await;
    run_at(&address, &["put", "pear", "1"], b"").await.expect(0, "");
    let run = run_at(&address, &["--format", "csv", "fault", "cut", "a>w"], b"").await;
    assert!(
        run.stdout.contains("a>w,3.0 ms,CUT\n") && run.stdout.contains("w>a,3.0 ms,whole\n"),
        "{run:?}"
    );
    let run = run_at(&address, &["-e", "region b; get pear", "--format", "csv"], b"").await;
    run.expect(0, "key,value,base64\npear,1,\n");
    for wrong in [
        &["fault", "kill"][..],
        &["fault", "cut", "a-c"],
        &["fault", "cut", "journal-w1"],
    ] {
        let run = run_at(&address, wrong, b"").await;
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
    }
}
