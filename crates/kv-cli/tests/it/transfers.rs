//! Import and export.

use std::fmt::Write;

use meridian_client::fake::Fault;
use meridian_client::{KeyRange, KvError};

use crate::Server;

fn lines(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        writeln!(text, "{{\"key\":\"k/{n:05}\",\"value\":\"value {n}\"}}").unwrap();
    }
    text
}

#[tokio::test]
async fn what_is_imported_is_exported_again() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut input = lines(3_000);
    input.push_str("{\"key_base64\":\"/wA=\",\"value_base64\":\"/g==\"}\n");
    std::fs::write(path("in.jsonl"), &input).unwrap();
    let run = server.run(&["import", &path("in.jsonl"), "--batch", "100"]).await;
    let stderr = run.expect(0, "");
    assert!(stderr.starts_with("imported 3,001 records"), "{stderr}");
    let run = server.run(&["export", &path("out.jsonl")]).await;
    assert!(run.expect(0, "").starts_with("exported 3,001 records"));
    assert_eq!(std::fs::read_to_string(path("out.jsonl")).unwrap(), input);
    assert!(!dir.path().join("out.jsonl.partial").exists());

    server.run(&["export", &path("out.csv")]).await.expect(0, "");
    let other = Server::start().await;
    other.run(&["import", &path("out.csv")]).await.expect(0, "");
    let run = other.run(&["export", "-"]).await;
    assert!(run.stdout == input, "through CSV");
    let run = other
        .run(&["export", "-", "--prefix", "k/0000", "--format", "csv"])
        .await;
    assert_eq!(run.stdout.lines().count(), 11);
}

#[tokio::test]
async fn standard_input_is_imported() {
    let server = Server::start().await;
    server
        .run_with(&["import", "-"], lines(10).as_bytes())
        .await
        .expect(0, "");
    let csv = b"value,key\n\"a,\nb\",x\n";
    server
        .run_with(&["import", "-", "--format", "csv"], csv)
        .await
        .expect(0, "");
    server
        .run(&["get", "x"])
        .await
        .expect(0, "key  value\nx    a,\\nb\n");
    assert_eq!(server.client().count(KeyRange::all()).await.unwrap(), 11);
}

#[tokio::test]
async fn of_several_records_of_a_key_the_last_one_wins() {
    let server = Server::start().await;
    let mut text = String::new();
    for n in 0..2_000 {
        writeln!(text, "{{\"key\":\"k{}\",\"value\":\"{n}\"}}", n % 7).unwrap();
    }
    server
        .run_with(&["import", "-", "--batch", "3"], text.as_bytes())
        .await
        .expect(0, "");
    let run = server.run(&["scan", "--format", "csv"]).await;
    let expect = "key,value,base64\nk0,1995,\nk1,1996,\nk2,1997,\nk3,1998,\nk4,1999,\nk5,1993,\nk6,1994,\n";
    run.expect(0, expect);
}

#[tokio::test]
async fn a_bad_line_is_named_and_everything_before_it_is_kept() {
    let server = Server::start().await;
    let text = format!("{}{{\"key\":\"x\"}}\n{}", lines(25), lines(30));
    let run = server
        .run_with(&["import", "-", "--batch", "10"], text.as_bytes())
        .await;
    assert_eq!(
        run.expect(1, ""),
        "error: line 26: neither value nor value_base64 is there\n  25 records are acknowledged and kept\n  \
         to go on: kv-cli import - --skip 25\n"
    );
    assert_eq!(server.client().count(KeyRange::all()).await.unwrap(), 25);
}

#[tokio::test]
async fn an_import_that_failed_goes_on_where_it_was_acknowledged() {
    let server = Server::start().await;
    let text = lines(100);
    let mut faults = vec![Fault::None; 3];
    faults.push(Fault::Refuse(KvError::Internal {
        what: "disk full".to_owned(),
    }));
    server.cluster.inject(faults);
    let limit = KvError::LimitExceeded {
        limit: "something".to_owned(),
        allowed: 1,
        got: 2,
    };
    // The internal error is settled by asking and run again; the second one is final.
    server.cluster.inject([Fault::None, Fault::Refuse(limit)]);
    let args = ["import", "-", "--batch", "10", "--parallel", "1"];
    let run = server.run_with(&args, text.as_bytes()).await;
    let stderr = run.expect(1, "");
    assert!(stderr.contains("something is 2, the limit is 1"), "{stderr}");
    let skip = stderr.split("--skip ").nth(1).unwrap().trim();
    assert_eq!(skip, "40", "{stderr}");
    assert_eq!(server.client().count(KeyRange::all()).await.unwrap(), 40);
    let run = server
        .run_with(&["import", "-", "--skip", skip], text.as_bytes())
        .await;
    assert!(run.expect(0, "").starts_with("imported 60 records"));
    assert!(server.run(&["export", "-"]).await.stdout == text);
}

#[tokio::test]
async fn an_import_rides_over_lost_connections() {
    let server = Server::start().await;
    let faults = [
        Fault::None,
        Fault::LoseReply,
        Fault::LoseRequest,
        Fault::None,
        Fault::LoseTokenAndReply,
    ];
    server.cluster.inject(faults);
    let text = lines(200);
    server
        .run_with(&["import", "-", "--batch", "10"], text.as_bytes())
        .await
        .expect(0, "");
    assert!(server.run(&["export", "-"]).await.stdout == text);
}

#[tokio::test]
async fn an_export_whose_snapshot_is_gone_says_so_and_leaves_no_file() {
    let server = Server::start().await;
    server.client().put("k", "v").await.unwrap();
    server.cluster.set_horizon(meridian_client::Timestamp(u64::MAX));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.jsonl");
    let run = server
        .run(&["--timeout", "1", "export", file.to_str().unwrap()])
        .await;
    assert_ne!(run.code, 0);
    assert!(!file.exists());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let server = Server::start().await;
    let run = server.run(&["import", "/nowhere/at/all"]).await;
    assert!(
        run.expect(1, "")
            .starts_with("error: /nowhere/at/all: No such file"),
        "{run:?}"
    );
    let run = server.run(&["export", "/nowhere/at/all"]).await;
    assert!(
        run.expect(1, "")
            .starts_with("error: /nowhere/at/all.partial: No such file"),
        "{run:?}"
    );
}
