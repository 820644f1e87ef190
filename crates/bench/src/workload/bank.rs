//! Accounts: their keys, how a balance is written, and the sum that transfers must not change.

use bytes::Bytes;

/// How many accounts there are.
pub const ACCOUNTS: u64 = 1_000;
/// What each begins with.
pub const OPENING: u64 = 1_000;
/// At most so much is moved at once.
pub const MOST: u64 = 100;

/// Where the accounts begin, where they are divided into equal halves, and where they end.
pub const FIRST: &str = "account";
/// See [`FIRST`].
pub const MIDDLE: &str = "account000500";
/// See [`FIRST`].
pub const END: &str = "accounu";

/// The key of an account.
pub fn account(index: u64) -> Bytes {
    Bytes::from(format!("account{index:06}"))
}

/// A balance, as long as any other value.
pub fn written(balance: u64, length: usize) -> Bytes {
    Bytes::from(format!("{balance:0length$}"))
}

/// Reads a balance; `None` when there is none.
pub fn balance(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Both balances after a transfer; nothing is moved that is not there. `None` when one of them cannot be read.
pub fn transferred(before: &[Option<Bytes>], amount: u64) -> Option<Vec<Bytes>> {
    let [Some(from), Some(to)] = before else {
        return None;
    };
    let (from_balance, to_balance) = (balance(from)?, balance(to)?);
    let moved = amount.min(from_balance);
    Some(vec![
        written(from_balance - moved, from.len()),
        written(to_balance.checked_add(moved)?, to.len()),
    ])
}

/// Whether these rows are all accounts, with all the money. The error says what is missing.
pub fn check(rows: &[(Bytes, Bytes)]) -> Result<(), String> {
    if rows.len() as u64 != ACCOUNTS {
        return Err(format!("{} accounts instead of {ACCOUNTS}", rows.len()));
    }
    let mut sum = 0_u64;
    for (key, value) in rows {
        let found = balance(value);
        sum += found.ok_or_else(|| format!("account {key:?} holds {value:?}"))?;
    }
    if sum == ACCOUNTS * OPENING {
        return Ok(());
    }
    Err(format!(
        "the accounts hold {sum} instead of {}: a transfer was done by half or twice",
        ACCOUNTS * OPENING
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Vec<(Bytes, Bytes)> {
        let rows = (0..ACCOUNTS).map(|index| (account(index), written(OPENING, 100)));
        rows.collect()
    }

    #[test]
    fn a_transfer_keeps_the_sum_and_never_overdraws() {
        let before = [Some(written(30, 100)), Some(written(5, 100))];
        let after = transferred(&before, 40).unwrap();
        let balances: Vec<_> = after.iter().map(|value| balance(value).unwrap()).collect();
        assert_eq!(balances, [0, 35]);
        assert!(after.iter().all(|value| value.len() == 100));
        assert_eq!(transferred(&[None, Some(written(1, 100))], 1), None);
    }

    #[test]
    fn lost_money_and_lost_accounts_are_found() {
        let mut rows = opened();
        assert_eq!(check(&rows), Ok(()));
        rows[3].1 = written(OPENING - 1, 100);
        assert!(check(&rows).unwrap_err().contains("999999 instead of 1000000"));
        rows.pop();
        assert!(check(&rows).unwrap_err().contains("999 accounts"));
    }

    #[test]
    fn accounts_lie_between_their_bounds() {
        assert!(FIRST.as_bytes() < account(0).as_ref() && account(ACCOUNTS - 1).as_ref() < END.as_bytes());
        assert_eq!(account(ACCOUNTS / 2).as_ref(), MIDDLE.as_bytes());
    }
}
