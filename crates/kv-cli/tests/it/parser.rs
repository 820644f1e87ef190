//! What statements mean, and what is said to those that mean nothing.

use kv_cli::command::parse;
use kv_cli::words::split;

/// Each statement and how it is understood, one per line.
fn understood(input: &str) -> String {
    let statements = split(input).unwrap();
    let lines = statements.iter().map(|words| match parse(words) {
        Ok(command) => format!("{command:?}\n"),
        Err(failure) => format!("{failure}\n"),
    });
    lines.collect()
}

#[test]
fn statements() {
    let input = "\
begin; BEGIN Serializable; begin read only serializable; begin at 7; begin stale 30
commit; rollback; rollback to s1; savepoint s1
get k; get 'for' for update; put k 'v w'; del a b
delrange a/; delrange a b; delrange a ''
scan; scan a/; scan a b limit 3 reverse keys; scan limit 2; scan 'limit'; scan a reverse
count; count a b; status; ranges; help; exit; quit
outcome 07070707-0707-0707-0707-070707070707:12:1";
    let expect = r#"Begin { serializable: false, read_only: false, past: None }
Begin { serializable: true, read_only: false, past: None }
Begin { serializable: true, read_only: true, past: None }
Begin { serializable: false, read_only: true, past: Some(At(7)) }
Begin { serializable: false, read_only: true, past: Some(Stale(30)) }
Commit
Rollback
RollbackTo("s1")
Savepoint("s1")
Get { key: "k", for_update: false }
Get { key: "for", for_update: true }
Put { key: "k", value: [118, 32, 119] }
Delete(["a", "b"])
DeleteRange(KeyRange { start: "a/", end: Some("a0") })
DeleteRange(KeyRange { start: "a", end: Some("b") })
DeleteRange(KeyRange { start: "a", end: None })
Scan(Scan { range: KeyRange { start: "", end: None }, limit: None, reverse: false, keys_only: false })
Scan(Scan { range: KeyRange { start: "a/", end: Some("a0") }, limit: None, reverse: false, keys_only: false })
Scan(Scan { range: KeyRange { start: "a", end: Some("b") }, limit: Some(3), reverse: true, keys_only: true })
Scan(Scan { range: KeyRange { start: "", end: None }, limit: Some(2), reverse: false, keys_only: false })
Scan(Scan { range: KeyRange { start: "limit", end: Some("limiu") }, limit: None, reverse: false, keys_only: false })
Scan(Scan { range: KeyRange { start: "a", end: Some("b") }, limit: None, reverse: true, keys_only: false })
Count(KeyRange { start: "", end: None })
Count(KeyRange { start: "a", end: Some("b") })
Status
Ranges
Help
Exit
Exit
Outcome(CommitToken { txn: TxnId(07070707-0707-0707-0707-070707070707), start: Timestamp(12), home: Some(StreamId(1)) })
"#;
    assert_eq!(understood(input), expect);
}

#[test]
fn refusals() {
    let input = "\
fly; get; get k for; get k v; put k; put k v w; del; delrange
scan a b c; scan limit; scan limit 0; scan limit x; begin now; rollback to; savepoint; outcome x; 'get' k; get ''";
    let expect = "\
error: there is no command fly
  help shows what there is
error: a key is missing
error: for is followed by update
error: v is too much here
  values with blanks are quoted; help shows what there is
error: a value is missing
error: w is too much here
  values with blanks are quoted; help shows what there is
error: a key is missing
error: delrange needs a prefix, or a start and an end
  to delete every key: delrange ''
error: c is too much here
  values with blanks are quoted; help shows what there is
error: a number of rows is missing
error: limit 0: a number above 0 is needed
error: limit x: a number above 0 is needed
error: now is too much here
  values with blanks are quoted; help shows what there is
error: a savepoint's name is missing
error: a name is missing
error: x is no token: it has the form TXN:START:HOME
error: there is no command get
  help shows what there is
error: a key has at least one byte
";
    assert_eq!(understood(input), expect);
}
