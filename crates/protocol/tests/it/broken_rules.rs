//! Each rule of commits across ranges, broken on purpose: the model of ranges sees it (`--features mutation`).
#![cfg(feature = "mutation")]

use std::process::Command;

use meridian_types::mutation::{Rule, break_rule};

const MODEL: &str = "ranges_model::transactions_across_ranges_are_atomic_isolated_and_told_the_truth";

/// The rules that stand in the way of what the model does.
const RULES: [Rule; 17] = [
    Rule::CommitAfterStart,
    Rule::CommitOrder,
    Rule::ConflictCheck,
    Rule::ReadCheck,
    Rule::AttemptBar,
    Rule::PromisedWrites,
    Rule::HeldReads,
    Rule::PrepareClosure,
    Rule::PrepareOutcome,
    Rule::HomeFloor,
    Rule::HomePromise,
    Rule::OutcomeFloor,
    Rule::OutcomeDependency,
    Rule::AttemptName,
    Rule::RaiseFloor,
    Rule::HandOverWindow,
    Rule::HandOverPosition,
];

/// Breaks the rule that the environment names, in a process that a test below started.
pub fn arm() {
    let Ok(name) = std::env::var("MERIDIAN_BREAK") else {
        return;
    };
    let mut all = Rule::ALL.into_iter();
    break_rule(all.find(|rule| rule.name() == name).expect("a rule's name"));
}

/// What the model says of the broken rule, in another process; `None` when it sees nothing.
fn seen(rule: Rule) -> Option<String> {
    let this = std::env::current_exe().expect("the test's own file");
    let output = Command::new(this)
        .args([MODEL, "--exact", "--nocapture"])
        .env("MERIDIAN_BREAK", rule.name())
        .env("MERIDIAN_SEEDS", "5000")
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("a process");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then_some(said)
}

#[test]
fn every_broken_rule_is_seen() {
    let mut missed = Vec::new();
    for rule in RULES {
        match seen(rule) {
            Some(said) => println!("{}: {said}", rule.name()),
            None => missed.push(rule),
        }
    }
    assert!(missed.is_empty(), "not seen: {missed:?}");
}
