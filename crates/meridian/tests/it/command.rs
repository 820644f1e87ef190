use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const GOOD: &str = r#"
[cluster]
id = "0197c2a0-0000-7000-8000-000000000001"

[[node]]
name = "all"
address = "127.0.0.1:7001"
roles = ["journal", "adjudicator", "storage", "query", "router"]
data_dir = "all"
"#;

fn meridian(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MERIDIAN_")) {
        command.env_remove(name);
    }
    let Output { status, stderr, .. } = command.args(args).current_dir(dir).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn config_check_says_what_is_wrong_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    fs::write(&path, GOOD).unwrap();
    let (code, said) = meridian(dir.path(), &["config", "check"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("fit for use: 1 nodes"), "{said}");

    fs::write(
        &path,
        GOOD.replace("\"all\"\naddress", "\"a b\"\naddress")
            .replace("7001", "0"),
    )
    .unwrap();
    let (code, said) = meridian(dir.path(), &["config", "check"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("cluster.toml: line 6: error: node \"a b\", name: does not fit into a header"),
        "{said}"
    );
    assert!(
        said.contains("line 7: error") && said.contains("port 0"),
        "{said}"
    );

    let (code, said) = meridian(dir.path(), &["config", "check", "--config", "nowhere.toml"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("nowhere.toml"), "{said}");
}

#[test]
fn serve_refuses_what_was_not_initialised_and_who_is_not_configured() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cluster.toml"), GOOD).unwrap();
    for (args, expected) in [
        (vec!["serve", "--node", "all"], "run `meridian init`"),
        (
            vec!["serve", "--node", "nobody"],
            "has no node \"nobody\"; it has all",
        ),
        (vec!["serve", "--node", "all", "--role", "cook"], "unknown role"),
        (vec!["serve", "--node", "all", "--log", "a=b=c"], "log filter"),
    ] {
        let (code, said) = meridian(dir.path(), &args);
        assert!(code == Some(1) || code == Some(2), "{args:?}: {code:?} {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    let without_id: String = GOOD
        .lines()
        .filter(|line| !line.starts_with("id"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(dir.path().join("cluster.toml"), without_id).unwrap();
    let (code, said) = meridian(dir.path(), &["serve", "--node", "all"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("has no cluster id: run `meridian init` first"),
        "{said}"
    );
}
