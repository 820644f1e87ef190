//! `dev`: a real cluster in the process of the command.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::run_at;

const NOWHERE: &str = "127.0.0.1:1";

/// Starts `dev` for other clients, and waits until it says where it is.
async fn serve(data: &str) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kv-cli"))
        .args(["dev", "--data", data, "--listen", "127.0.0.1:0", "--no-shell"])
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
            break address.to_owned();
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
    let (mut child, address) = serve(&data).await;
    let mut input = String::new();
    for n in 0..2_000 {
        input.push_str(&format!("{{\"key\":\"k{n:05}\",\"value\":\"{n}\"}}\n"));
    }
    let args = ["import", "-", "--batch", "100"];
    run_at(&address, &args, input.as_bytes()).await.expect(0, "");
    child.kill().await.unwrap();
    let gone = run_at(&address, &["count"], b"").await;
    assert_eq!(gone.code, 4, "{gone:?}");

    let (mut child, address) = serve(&data).await;
    let run = run_at(&address, &["export", "-"], b"").await;
    assert!(run.code == 0 && run.stdout == input, "{}", run.stderr);
    let interrupt = ["-INT", &child.id().unwrap().to_string()];
    Command::new("kill").args(interrupt).status().await.unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    assert_eq!(stopped.unwrap().unwrap().code(), Some(0));
}
