//! Status in every format. These forms are stable: scripts read them.

use crate::Server;

#[tokio::test]
async fn status_as_tables() {
    let server = Server::start().await;
    let run = server.run(&["status"]).await;
    run.expect(
        0,
        "\
node  region  address         role         state                            clock    version
n1    a       127.0.0.1:7401  journal      ready                            ±1.0 ms  0.1.0
n1    a       127.0.0.1:7401  adjudicator  ready                            ±1.0 ms  0.1.0
n1    a       127.0.0.1:7401  storage      ready                            ±1.0 ms  0.1.0
n2    a       127.0.0.1:7402  -            unreachable: connection refused  -

ranges
range  stream  node  role   epoch  lsn  committed  lead    lease until              closed to                replicas
1      1       n1    owner  3      120  118        2.0 ms  2023-11-14 22:13:20.500  2023-11-14 22:13:20.499  n1:120 n2:115

journal
stream  node  owner  epoch  lsn  committed  behind  bytes
1       n1    n1     3      120  118        0       65,536

storage
stream  node  applied  behind  closed to
1       n1    117      1       2023-11-14 22:13:20.499

alarms (doctor says what to do)
severity  what
problem   n2 at 127.0.0.1:7402 does not answer: connection refused
problem   1 of 2 journal nodes answer: nothing can be committed
warning   only one adjudicator is ready
",
    );
}

#[tokio::test]
async fn status_for_programs() {
    let server = Server::start().await;
    let run = server.run(&["status", "--format", "json"]).await;
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[0],
        "{\"address\":\"127.0.0.1:7401\",\"clock_bound_ns\":1000000,\"clock_healthy\":true,\
         \"cluster_id\":\"00000000-0000-0000-0000-000000000001\",\"disk_bytes\":0,\"disk_free_bytes\":0,\"node\":\"n1\",\"region\":\"a\",\"services\":[\
         {\"applied\":[],\"figures\":{},\"ranges\":[],\"role\":\"journal\",\"state\":\"ready\",\"streams\":[\
         {\"bytes\":65536,\"committed_lsn\":118,\"last_epoch\":3,\"last_lsn\":120,\
         \"lease_end\":\"1700000000500000000\",\"owner\":\"n1\",\"promised_epoch\":3,\"stream\":1}]},\
         {\"applied\":[],\"figures\":{},\"ranges\":[{\"candidates\":[\"n1\",\"n2\"],\"closed\":\"1700000000499999998\",\"committed_lsn\":118,\
         \"end\":\"\",\"epoch\":3,\"floor\":\"1700000000499999999\",\"last_lsn\":120,\"lead_ns\":2000000,\
         \"lease_end\":\"1700000000500000000\",\"range\":1,\"replicas\":{\"n1\":120,\"n2\":115},\
         \"retired\":false,\"role\":\"owner\",\"start\":\"\",\"stream\":1,\"window_low\":\"1\"}],\"role\":\"adjudicator\",\"state\":\"ready\",\
         \"streams\":[]},{\"applied\":[{\"applied_lsn\":117,\"closed\":\"1700000000499999997\",\"stream\":1}],\
         \"figures\":{\"keys\":42},\"ranges\":[],\"role\":\"storage\",\"state\":\"ready\",\"streams\":[]}],\
         \"unreachable\":null,\"uptime_s\":0,\"version\":\"0.1.0\"}"
    );
    let run = server.run(&["status", "--format", "csv"]).await;
    assert!(
        run.stdout
            .starts_with("node,region,address,role,state,clock,version\nn1,a,"),
        "{run:?}"
    );
    let run = server.run(&["ranges", "--format", "json"]).await;
    let range: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&range["node"], &range["epoch"]), (&"n1".into(), &3.into()));
    let run = server.run(&["ranges"]).await;
    run.expect(
        0,
        "\
range  from  to  stream  owner  region  epoch  lsn  lead    journals behind  storage behind
1                1       n1     a       3      120  2.0 ms  a:5              a:1
",
    );
}

#[tokio::test]
async fn doctor_says_what_is_wrong_and_what_to_do() {
    let server = Server::start().await;
    let run = server.run(&["doctor"]).await;
    assert_eq!(run.code, 1, "{run:?}");
    let first = "problem: n2 at 127.0.0.1:7402 does not answer: connection refused\n    start it, or";
    assert!(run.stdout.starts_with(first), "{run:?}");
    assert!(run.stderr.contains("the cluster needs somebody"), "{run:?}");
    let run = server.run(&["doctor", "--format", "json"]).await;
    let kinds: Vec<_> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].clone())
        .collect();
    assert_eq!(kinds, ["unreachable", "no-quorum", "one-adjudicator"]);
}
