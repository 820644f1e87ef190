//! Time and randomness as libc hands them out, inside of a simulation.
//!
//! The binary defines `getrandom` and `clock_gettime` and asks here first, so that whatever libraries take from the
//! operating system (the order of hash maps, which branch `select!` tries first, the HTTP date header) comes from the
//! seed as well. Per thread: a simulation runs on a fresh thread, everything else is left alone.

use std::cell::Cell;

thread_local! {
    static RANDOM: Cell<Option<u64>> = const { Cell::new(None) };
    static NOW_NS: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's randomness derives from `seed`.
pub fn set_random(seed: u64) {
    RANDOM.set(Some(seed));
}

/// From now on this thread's clocks show this, in nanoseconds since the epoch.
pub fn set_now(nanos: u64) {
    NOW_NS.set(Some(nanos));
}

/// What the clocks show; `None` outside of a simulation.
pub fn now() -> Option<u64> {
    NOW_NS.get()
}

/// Fills `buffer`; false outside of a simulation.
pub fn fill_random(buffer: &mut [u8]) -> bool {
    let Some(mut state) = RANDOM.get() else {
        return false;
    };
    for chunk in buffer.chunks_mut(size_of::<u64>()) {
        let word = next(&mut state).to_le_bytes();
        for (to, from) in chunk.iter_mut().zip(word) {
            *to = from;
        }
    }
    RANDOM.set(Some(state));
    true
}

/// SplitMix64: needs no allocation and no library, as this runs inside of libc's callers.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(*state)
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A seed of its own for each purpose.
pub fn derive(seed: u64, purpose: &str) -> u64 {
    purpose
        .bytes()
        .fold(mix(seed ^ 0x6d65_7269_6469_616e), |state, byte| {
            mix(state ^ u64::from(byte))
        })
}
