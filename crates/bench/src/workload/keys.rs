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
    fn keys_are_distinct_within_the_table_and_in_both_halves() {
        let keys: BTreeSet<Bytes> = (0..10_000).map(user).collect();
        assert_eq!(keys.len(), 10_000);
        assert!(keys.iter().all(|key| USERS.contains(&key.as_ref())));
        let low = keys.iter().filter(|key| key.as_ref() < USERS_MIDDLE.as_bytes());
        let low = low.count();
        assert!((4_800..5_200).contains(&low), "{low} in the lower half");
    }
}
