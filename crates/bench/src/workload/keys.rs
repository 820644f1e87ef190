//! From an index to a key.

use std::ops::Range;

use bytes::Bytes;
use rand::Rng;
use rand::distr::Alphanumeric;

/// Where the keys of users begin and end: what a scan runs over.
pub const USERS: Range<&[u8]> = b"user".as_slice()..b"uses".as_slice();

/// The key of a user. Different indices have different keys, and neighbouring ones lie far apart.
pub fn user(index: u64) -> Bytes {
    Bytes::from(format!("user{:016x}", scatter(index)))
}

/// Where a scan may end that begins with this user and is to find so many rows of a table of so many keys: twice as far as they lie on
/// average. It is given because of etcd, which counts all keys of a range whatever the limit is.
pub fn end_of_scan(index: u64, rows: u32, count: u64) -> Bytes {
    let width = u64::MAX / count.max(1);
    match scatter(index).checked_add(width.saturating_mul(u64::from(rows) * 2)) {
        Some(end) => Bytes::from(format!("user{end:016x}")),
        None => Bytes::from_static(USERS.end),
    }
}

/// Keys at which the table of users is divided into two equal halves.
pub const USERS_MIDDLE: &str = "user8";

/// A bijection of 64-bit numbers that leaves no order (the finalizer of SplitMix64).
fn scatter(index: u64) -> u64 {
    let mut mixed = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A value of random letters and digits.
pub fn value(random: &mut impl Rng, length: usize) -> Bytes {
    random.sample_iter(Alphanumeric).take(length).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_scan_finds_what_it_is_to_find_and_little_more_is_there() {
        const COUNT: u64 = 10_000;
        let keys: BTreeSet<Bytes> = (0..COUNT).map(user).collect();
        for index in 0..500 {
            let (from, end) = (user(index), end_of_scan(index, 100, COUNT));
            let there = keys.range(from.clone()..end).count();
            let to_the_end = keys.range(from..).count();
            assert!(
                (100.min(to_the_end)..300).contains(&there),
                "{there} of {to_the_end}"
            );
        }
    }

    #[test]
    fn keys_are_distinct_within_the_table_and_in_both_halves() {
        let keys: BTreeSet<Bytes> = (0..10_000).map(user).collect();
        assert_eq!(keys.len(), 10_000);
        assert!(keys.iter().all(|key| USERS.contains(&key.as_ref())));
        let low = keys.iter().filter(|key| key.as_ref() < USERS_MIDDLE.as_bytes());
        let low = low.count();
        assert!((4_800..5_200).contains(&low), "{low} in the lower half");
    }
}
