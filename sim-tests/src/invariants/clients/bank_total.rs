//! For every transaction T that read all accounts: the sum of the balances that T saw is the sum that was put in.
//!
//! Follows from snapshot isolation, as every transfer keeps the sum; holds for transactions that were aborted later too.

use crate::history::Op;
use crate::invariants::{Evidence, Violation};
use crate::workload::{ACCOUNT_START, BANK, accounts, balance};

/// Every sum that was read.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let accounts = accounts(evidence.plan).len();
    let expected = ACCOUNT_START * i64::try_from(accounts).unwrap_or(i64::MAX);
    let mut violations = Vec::new();
    for txn in evidence.txns {
        for op in &txn.ops {
            let Op::Scan { prefix, rows, .. } = op else {
                continue;
            };
            if !BANK.starts_with(prefix.as_str()) {
                continue;
            }
            let balances: Vec<i64> = rows
                .iter()
                .filter(|(key, _)| key.starts_with(BANK))
                .map(|(_, found)| balance(&found.value).unwrap_or(i64::MIN / 1_000))
                .collect();
            let sum: i64 = balances.iter().sum();
            if balances.len() != accounts || sum != expected {
                let what = format!(
                    "{} accounts hold {sum}, not {accounts} accounts {expected}",
                    balances.len()
                );
                violations.push(Violation::new("bank total", what, [txn.id]));
            }
        }
    }
    violations
}
