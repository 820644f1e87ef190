//! `-e` and piped input.

use meridian_client::KvError;
use meridian_client::fake::Fault;

use crate::Server;

#[tokio::test]
async fn a_transaction_in_a_script() {
    let server = Server::start().await;
    let script = "\
# moves something
begin serializable
put a 'one; two'
savepoint s
put b \"\\xff\\n\"; del a
rollback to s
put c \"two
lines\"
scan
commit
count
";
    let run = server.run_with(&["shell"], script.as_bytes()).await;
    let stderr = run.expect(0, "key  value\na    one; two\nc    two\\nlines\n2\n");
    assert!(stderr.starts_with("ok, committed at "), "{stderr}");
    // The shell is what there is without a command, and `exit` leaves early.
    server
        .run_with(&[], b"get c\nexit\nfly")
        .await
        .expect(0, "key  value\nc    two\\nlines\n");
}

#[tokio::test]
async fn the_first_failure_ends_a_script_with_its_code_and_line() {
    let server = Server::start().await;
    let run = server.run_with(&[], b"put a 1\n\nput b\nput c 3\n").await;
    let stderr = run.expect(2, "");
    assert!(
        stderr.ends_with("error: line 3: a value is missing\n"),
        "{stderr}"
    );
    server.cluster.inject([Fault::Refuse(KvError::Internal {
        what: "broken".to_owned(),
    })]);
    server
        .run(&["--timeout", "1", "-e", "begin; put x 1; commit; put c 3"])
        .await
        .expect(3, "");
    server.run(&["-e", "count"]).await.expect(0, "1\n");
}

#[tokio::test]
async fn a_script_that_ends_inside_a_transaction_has_failed() {
    let server = Server::start().await;
    let run = server.run(&["-e", "begin; put a 1"]).await;
    let stderr = run.expect(1, "");
    assert!(
        stderr.contains("ended inside a transaction") && stderr.contains("rolled back"),
        "{stderr}"
    );
    server.run(&["count"]).await.expect(0, "0\n");
}

#[tokio::test]
async fn what_makes_no_sense_in_this_state_is_explained() {
    let server = Server::start().await;
    for (script, expect) in [
        ("commit", "no transaction is open"),
        ("rollback", "no transaction is open"),
        ("savepoint s", "no transaction is open"),
        ("begin; begin", "a transaction is open already"),
        ("get k for update", "makes sense in a transaction only"),
        ("begin read only; put k v", "the transaction is read-only"),
    ] {
        let run = server.run(&["-e", script]).await;
        let stderr = run.expect(1, "");
        assert!(stderr.contains(expect), "{script}: {stderr}");
    }
}

#[tokio::test]
async fn a_read_only_transaction_reads_one_snapshot() {
    let server = Server::start().await;
    let script = "put k old; begin read only; get k; commit; delrange ''; count";
    let run = server.run(&["-e", script, "--format", "csv"]).await;
    run.expect(0, "key,value,base64\nk,old,\ndeleted\n1\ncount\n0\n");
}

#[tokio::test]
async fn help_is_a_result() {
    let server = Server::start().await;
    let run = server.run(&["-e", "help"]).await;
    assert_eq!(run.code, 0);
    for command in kv_cli::command::NAMES {
        assert!(run.stdout.contains(command), "{command} is not in the help");
    }
}
