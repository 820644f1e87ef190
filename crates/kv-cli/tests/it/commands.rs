//! One-shot commands: results, remarks, exit codes.

use meridian_client::fake::Fault;
use meridian_client::{KvError, TxnOptions};

use crate::{Server, run_at};

#[tokio::test]
async fn put_get_del_in_every_format() {
    let server = Server::start().await;
    let remark = server
        .run(&["put", "greeting", "hello world"])
        .await
        .expect(0, "")
        .to_owned();
    assert!(remark.starts_with("ok, committed at 17000000000000"), "{remark}");
    server
        .run(&["get", "greeting"])
        .await
        .expect(0, "key       value\ngreeting  hello world\n");
    let json = server.run(&["--format", "json", "get", "greeting", "none"]).await;
    let stderr = json.expect(
        0,
        "{\"key\":\"greeting\",\"value\":\"hello world\"}\n{\"key\":\"none\",\"value\":null}\n",
    );
    assert_eq!(stderr, "none has no value\n");
    server
        .run(&["get", "greeting", "--format=csv"])
        .await
        .expect(0, "key,value,base64\ngreeting,hello world,\n");
    server.run(&["del", "greeting", "other"]).await.expect(0, "");
    assert_eq!(
        server.run(&["get", "greeting"]).await.expect(0, ""),
        "greeting has no value\n"
    );
    let json = server.run(&["put", "k", "v", "--format", "json"]).await;
    let line: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (json.code, json.stderr.as_str(), &line["committed"]),
        (0, "", &true.into())
    );
    let token = line["token"].as_str().unwrap();
    let outcome = server.run(&["outcome", token]).await;
    assert_eq!(
        outcome.stdout,
        format!("committed at {}\n", line["timestamp"].as_str().unwrap())
    );
}

#[tokio::test]
async fn scan_and_count_with_their_options() {
    let server = Server::start().await;
    server.cluster.set_page_rows(2);
    let client = server.client();
    for (key, value) in [("a/1", "one"), ("a/2", "two"), ("a/3", "three"), ("b/1", "x\ty")] {
        client.put(key, value).await.unwrap();
    }
    client.put(&b"b/\xff"[..], &b"\xfe"[..]).await.unwrap();
    server
        .run(&["scan", "a/"])
        .await
        .expect(0, "key  value\na/1  one\na/2  two\na/3  three\n");
    server
        .run(&["scan", "b/"])
        .await
        .expect(0, "key     value\nb/1     x\\ty\nb/\\xff  \\xfe\n");
    server
        .run(&["scan", "a/", "--reverse", "--limit", "2", "--keys"])
        .await
        .expect(0, "key\na/3\na/2\n");
    server
        .run(&["scan", "a/2", "b/"])
        .await
        .expect(0, "key  value\na/2  two\na/3  three\n");
    server.run(&["scan", "b/", "--format", "json"]).await.expect(
        0,
        "{\"key\":\"b/1\",\"value\":\"x\\ty\"}\n{\"key_base64\":\"Yi//\",\"value_base64\":\"/g==\"}\n",
    );
    server
        .run(&["scan", "b/", "--format", "csv"])
        .await
        .expect(0, "key,value,base64\nb/1,x\ty,\nYi//,/g==,key value\n");
    server
        .run(&["scan", "none/", "--format", "csv"])
        .await
        .expect(0, "key,value,base64\n");
    server.run(&["scan", "none/"]).await.expect(0, "");
    server.run(&["count"]).await.expect(0, "5\n");
    server
        .run(&["count", "a/", "--format", "json"])
        .await
        .expect(0, "{\"count\":3}\n");
}

#[tokio::test]
async fn usage_is_2() {
    let server = Server::start().await;
    for args in [
        &["get"][..],
        &["put", "k"],
        &["fly"],
        &["--format", "xml", "status"],
        &["-e", "fly to the moon"],
        &["-e", "put 'open"],
        &["-e", "get k", "count"],
        &["outcome", "nonsense"],
        &["put", "", "v"],
        &["scan", "--limit", "0"],
        &["--timeout", "0", "status"],
        &["export", "-", "--format", "table"],
    ] {
        let run = server.run(args).await;
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (2, ""),
            "{args:?}: {}",
            run.stderr
        );
        assert!(!run.stderr.is_empty());
    }
}

#[tokio::test]
async fn refused_is_1_and_names_the_limit() {
    let server = Server::start().await;
    let run = server.run(&["put", &"k".repeat(4_097), "v"]).await;
    assert_eq!(
        run.expect(1, ""),
        "error: key length in bytes is 4097, the limit is 4096\n"
    );
}

#[tokio::test]
async fn conflict_is_3() {
    let server = Server::start().await;
    let client = server.client();
    let after = client.put("k", "theirs").await.unwrap().timestamp;
    let conflict = || {
        Fault::Refuse(KvError::Conflict {
            key: "k".into(),
            with: after,
        })
    };
    server.cluster.inject([conflict()]);
    server.run(&["put", "k", "v"]).await.expect(0, "");
    server.cluster.inject([conflict()]);
    let run = server
        .run(&["-e", "begin; put k mine; get k; commit; put never done"])
        .await;
    let stderr = run.expect(3, "key  value\nk    mine\n");
    assert_eq!(
        stderr,
        format!(
            "error: conflict on key k: another transaction wrote it at {after}, after this one's snapshot\n  \
             nothing of this transaction was applied, and it is over\n  \
             begin again and repeat its 2 statements: they will see the other's write\n"
        )
    );
    assert_eq!(client.get("never").await.unwrap(), None);
}

#[tokio::test]
async fn unavailable_is_4() {
    let run = run_at("127.0.0.1:1", &["get", "k"], b"").await;
    let stderr = run.expect(4, "");
    assert!(
        stderr.contains("127.0.0.1:1") && stderr.contains("--endpoint"),
        "{stderr}"
    );
    let server = Server::start().await;
    server
        .cluster
        .set_down(Some(KvError::unavailable("no query processor is ready")));
    let run = server.run(&["--timeout", "1", "get", "k"]).await;
    assert!(
        run.expect(4, "").contains("no query processor is ready"),
        "{run:?}"
    );
}

#[tokio::test]
async fn unknown_is_5_and_says_how_to_ask() {
    let server = Server::start().await;
    server.cluster.inject([Fault::Silence]);
    let run = server.run(&["--timeout", "0.3", "put", "k", "v"]).await;
    let stderr = run.expect(5, "");
    let token = stderr.split("outcome ").nth(1).unwrap().trim().to_owned();
    let run = server.run(&["outcome", &token, "--format", "json"]).await;
    assert!(
        run.stdout
            .starts_with("{\"outcome\":\"committed\",\"timestamp\":\"17"),
        "{run:?}"
    );
    let open = server.client().begin(TxnOptions::default()).await.unwrap();
    let run = server.run(&["outcome", &format!("{}:0:0", open.id())]).await;
    run.expect(0, "aborted\n");
}

#[tokio::test]
async fn a_lost_answer_is_not_the_users_problem() {
    let server = Server::start().await;
    server.cluster.inject([Fault::LoseReply]);
    server.run(&["put", "k", "v"]).await.expect(0, "");
    server.run(&["get", "k"]).await.expect(0, "key  value\nk    v\n");
}

#[tokio::test]
async fn flags_win_over_the_environment() {
    let server = Server::start().await;
    let run = run_at("127.0.0.1:1", &["--endpoint", &server.address, "count"], b"").await;
    run.expect(0, "0\n");
    let several = format!("127.0.0.1:1,{}", server.address);
    run_at(&several, &["count"], b"").await.expect(0, "0\n");
}

#[tokio::test]
async fn a_reader_that_leaves_early_is_no_error() {
    let server = Server::start().await;
    let client = server.client();
    for n in 0..200 {
        client
            .put(format!("k{n}").as_str(), vec![b'v'; 5_000])
            .await
            .unwrap();
    }
    let script = format!(
        "{} scan --format json | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_kv-cli")
    );
    let output = tokio::process::Command::new("bash")
        .args(["-c", &script])
        .env("MERIDIAN_ENDPOINT", &server.address)
        .output()
        .await
        .unwrap();
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(0), "")
    );
}
