//! Small histories by hand, good and bad, as data: `histories/*.txt`. Each says what every checker has to find in it.
//!
//! ```text
//! == a name
//! # Words about it.
//! ann 1..5 ser start=3 commit=10: r x -; w x a
//! lists: lost update + G-SI (not a snapshot)
//! replay: -
//! ```
//! A transaction: its client, when it began and was over, how it ran, and its operations. Without `commit` it committed,
//! and nobody knows when; or it is `aborted`, `unknown`, or the cluster was asked once more: `asked=10`, `asked=aborted`.
//!
//! | operation | |
//! |---|---|
//! | `r x a@3`, `u x a@3` | read, read for update; `-` for nothing, `@0` for its own write; a list is written `a.b.c` |
//! | `w x a`, `d x` | write, delete |
//! | `s p/ p/1=a@3 p/2=b@4`, `su p/ ...` | scan, scan for update |
//! | `part p/ reverse limit=1 keys: p/2=@4`, `count p/ 2` | a part of a scan |
//! | `save s`, `back s` | savepoint, and back to it |

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use meridian_client::{CommitToken, Timestamp, TxnId};
use meridian_types::StreamId;

use super::{Anomaly, check, lists, promises, registers, replay};
use crate::history::{Found, Mode, Moment, Op, Outcome, Part, Txn};

#[derive(Default)]
struct Case {
    name: String,
    txns: Vec<Txn>,
    expected: Vec<(String, Vec<String>)>,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case {
                name: name.to_owned(),
                ..Case::default()
            });
            continue;
        }
        let case = cases.last_mut().expect("a case begins with its name");
        let (head, body) = line.split_once(':').expect("a colon");
        if ["lists", "registers", "replay", "promises"].contains(&head) {
            let names = body.split(" + ").map(|name| name.trim().to_owned());
            let names = names.filter(|name| name != "-").collect();
            case.expected.push((head.to_owned(), names));
        } else {
            let id = case.txns.len();
            case.txns.push(txn(id, head, body));
        }
    }
    cases
}

fn txn(id: usize, head: &str, body: &str) -> Txn {
    let mut words = head.split_whitespace();
    let client = words.next().unwrap().to_owned();
    let (began, ended) = words.next().unwrap().split_once("..").unwrap();
    let ops = body.split(';').map(str::trim).filter(|op| !op.is_empty());
    let mut txn = Txn {
        id,
        client,
        began: moment(began),
        ended: (ended != "-").then(|| moment(ended)),
        ops: ops.map(op).collect(),
        outcome: Outcome::Committed(Timestamp::ZERO),
        ..Txn::default()
    };
    for word in words {
        let (what, value) = word.split_once('=').unwrap_or((word, ""));
        match what {
            "ser" => txn.mode.serializable = true,
            "ro" => txn.mode.read_only = true,
            "at" => txn.mode = Mode::at(timestamp(value)),
            "past" => txn.mode = Mode::not_older_than(1_000),
            "start" => txn.token = Some(token(timestamp(value))),
            "commit" => txn.outcome = Outcome::Committed(timestamp(value)),
            "aborted" => txn.outcome = Outcome::Aborted("told so".to_owned()),
            "unknown" => txn.outcome = Outcome::Unknown,
            "asked" if value == "aborted" => txn.asked.push(Outcome::Aborted("asked".to_owned())),
            "asked" => txn.asked.push(Outcome::Committed(timestamp(value))),
            _ => panic!("{word} is not known"),
        }
    }
    txn
}

fn moment(text: &str) -> Moment {
    let order = text.parse().unwrap();
    Moment {
        order,
        at: Duration::from_millis(order),
    }
}

fn timestamp(text: &str) -> Timestamp {
    Timestamp(text.parse().unwrap())
}

fn token(start: Timestamp) -> CommitToken {
    CommitToken {
        txn: TxnId(uuid::Uuid::nil()),
        start,
        home: Some(StreamId(1)),
    }
}

fn op(text: &str) -> Op {
    let (text, rows) = text.split_once(':').unwrap_or((text, ""));
    let words: Vec<&str> = text.split_whitespace().collect();
    let key = words[1].to_owned();
    match words[0] {
        kind @ ("r" | "u") => Op::Read {
            key,
            found: found(words[2]),
            for_update: kind == "u",
        },
        "w" => Op::Write {
            key,
            value: words[2].replace('.', " "),
        },
        "d" => Op::Delete { key },
        kind @ ("s" | "su") => Op::Scan {
            prefix: key,
            rows: words[2..].iter().map(|word| row(word)).collect(),
            for_update: kind == "su",
        },
        "count" => Op::Part {
            prefix: key,
            part: Part {
                count_only: true,
                ..Part::default()
            },
            rows: Vec::new(),
            count: words[2].parse().unwrap(),
        },
        "part" => {
            let rows: Vec<_> = rows.split_whitespace().map(row).collect();
            Op::Part {
                prefix: key,
                part: part(&words[2..]),
                count: rows.len() as u64,
                rows,
            }
        }
        "save" => Op::Savepoint { name: key },
        "back" => Op::RollbackTo { name: key },
        other => panic!("{other} is not known"),
    }
}

fn part(words: &[&str]) -> Part {
    let limit = words.iter().find_map(|word| word.strip_prefix("limit="));
    let contains = words.iter().find_map(|word| word.strip_prefix("contains="));
    Part {
        reverse: words.contains(&"reverse"),
        keys_only: words.contains(&"keys"),
        count_only: false,
        limit: limit.map(|limit| limit.parse().unwrap()),
        contains: contains.map(str::to_owned),
    }
}

fn row(word: &str) -> (String, Found) {
    let (key, value) = word.split_once('=').unwrap();
    (key.to_owned(), found(value).unwrap())
}

fn found(word: &str) -> Option<Found> {
    let (value, at) = word.split_once('@').unwrap_or((word, "1"));
    (value != "-").then(|| Found {
        value: value.replace('.', " "),
        timestamp: timestamp(at),
    })
}

fn names(anomalies: Vec<Anomaly>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for anomaly in anomalies {
        if !names.iter().any(|name| name == anomaly.name) {
            names.push(anomaly.name.to_owned());
        }
    }
    names.sort();
    names
}

fn found_by(checker: &str, txns: &[Txn]) -> Vec<String> {
    let with_graph = |(observed, mut anomalies): (super::Observed, Vec<Anomaly>)| {
        anomalies.extend(check(&observed, true));
        names(anomalies)
    };
    match checker {
        "lists" => with_graph(lists::read(txns, "")),
        "registers" => with_graph(registers::read(txns, "")),
        "replay" => names(replay::check(txns, true)),
        _ => names(promises::check(txns, txns.last())),
    }
}

#[test]
fn every_history_shows_what_it_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories");
    let files = std::fs::read_dir(folder).unwrap();
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        let path = file.unwrap().path();
        for case in cases(&std::fs::read_to_string(&path).unwrap()) {
            assert!(!case.expected.is_empty(), "{} expects nothing", case.name);
            for (checker, mut expected) in case.expected {
                expected.sort();
                let found = found_by(&checker, &case.txns);
                *counts
                    .entry(format!("{checker}: {}", found.join(", ")))
                    .or_default() += 1;
                if found != expected {
                    wrong.push(format!(
                        "{}, {checker}: {found:?} instead of {expected:?}",
                        case.name
                    ));
                }
            }
        }
    }
    println!("{counts:#?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(counts.values().sum::<usize>() > 60, "{counts:?}");
}

#[test]
fn a_report_says_who_what_and_why() {
    let text = "== skew\nann 1..9: r x -; r y -; w x a; w y a\nbob 2..8: r x a; r y -\ncid 3..7: r y a";
    let case = cases(text).remove(0);
    let (observed, _) = lists::read(&case.txns, "");
    let anomaly = check(&observed, true).remove(0);
    assert_eq!(
        anomaly.to_string(),
        "G-SI (not a snapshot): T0 -wr x-> T1 -rw y-> T0\
         \n      T0 (ann) wrote x = a, which T1 (bob) read\
         \n      T1 (bob) read y = nothing, which T0 (ann) replaced by a"
    );
}
