//! Clocks that are wrong, within their bound or beyond it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use meridian_clock::{Clock, Interval, Timestamp};

use super::time::SimTime;

/// One node's clock: true time, plus an offset, plus a drift since the offset was set. Never further off than
/// `bound`, unless it was told to be.
pub struct SkewedClock {
    time: SimTime,
    bound: Duration,
    max_error: Duration,
    /// `earliest` is as late as `latest`: waiting for a timestamp to be past (R3, R4) never waits.
    pub claims_to_be_exact: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    offset_ns: i64,
    drift_ppm: i64,
    since_ns: u64,
    /// The bound is not kept.
    is_beyond: bool,
    latest: u64,
}

impl SkewedClock {
    /// A clock that is right.
    pub fn new(time: SimTime, bound: Duration, max_error: Duration) -> Self {
        Self {
            time,
            bound,
            max_error,
            claims_to_be_exact: false,
            state: Mutex::default(),
        }
    }

    /// Jumps: `offset` is a share of the bound, -1 to 1.
    pub fn skew(&self, offset: f64, drift_ppm: i64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(clippy::cast_possible_truncation, reason = "a bound is far below 2^53 ns")]
        let offset_ns = (self.bound.as_nanos() as f64 * offset.clamp(-1.0, 1.0)) as i64;
        state.is_beyond = false;
        self.set(&mut state, offset_ns, drift_ppm);
    }

    /// Jumps out of its bound, and says nothing of it.
    pub fn break_bound(&self, offset_ns: i64, drift_ppm: i64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_beyond = true;
        self.set(&mut state, offset_ns, drift_ppm);
    }

    fn set(&self, state: &mut State, offset_ns: i64, drift_ppm: i64) {
        state.offset_ns = offset_ns;
        state.drift_ppm = drift_ppm;
        state.since_ns = self.time.epoch_ns();
    }

    fn reading(&self, state: &State) -> Timestamp {
        let true_ns = self.time.epoch_ns();
        let passed = i64::try_from(true_ns - state.since_ns).unwrap_or(i64::MAX);
        let drift_ns = passed / 1_000_000 * state.drift_ppm;
        let bound_ns = i64::try_from(self.bound.as_nanos()).unwrap_or(i64::MAX);
        let error_ns = match state.is_beyond {
            true => state.offset_ns + drift_ns,
            false => (state.offset_ns + drift_ns).clamp(-bound_ns, bound_ns),
        };
        Timestamp(true_ns.saturating_add_signed(error_ns))
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Interval {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = self.reading(&state);
        state.latest = state.latest.max(reading.saturating_add(self.bound).0);
        let latest = Timestamp(state.latest);
        let earliest = match self.claims_to_be_exact {
            true => latest,
            false => reading.saturating_sub(self.bound),
        };
        Interval { earliest, latest }
    }

    fn max_error(&self) -> Duration {
        self.max_error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_beyond_its_bound_comes_back_but_for_latest() {
        let time = SimTime::new();
        let clock = SkewedClock::new(time.clone(), Duration::from_millis(5), Duration::from_millis(250));
        clock.break_bound(3_000_000_000, 0);
        let truth = Timestamp(time.epoch_ns());
        let ahead = clock.now();
        assert!(ahead.earliest > truth.saturating_add(Duration::from_secs(2)));
        clock.skew(0.0, 0);
        assert!(clock.now().earliest <= truth && clock.now().latest == ahead.latest);
        time.set(Duration::from_secs(4));
        let truth = Timestamp(time.epoch_ns());
        assert!(clock.now().latest <= truth.saturating_add(Duration::from_millis(5)));
    }

    #[test]
    fn true_time_always_lies_within_and_latest_never_goes_back() {
        let time = SimTime::new();
        let clock = SkewedClock::new(time.clone(), Duration::from_millis(5), Duration::from_millis(250));
        let mut latest = Timestamp::ZERO;
        for (step, offset) in [1.0, -1.0, 0.3, -0.7, 1.0].into_iter().enumerate() {
            clock.skew(offset, if step % 2 == 0 { 900 } else { -900 });
            for ms in 0..20_u64 {
                time.set(Duration::from_millis(step as u64 * 1_000 + ms * 40));
                let now = clock.now();
                let truth = Timestamp(time.epoch_ns());
                assert!(
                    now.earliest <= truth && truth <= now.latest,
                    "{now:?} at {truth:?}"
                );
                assert!(now.latest >= latest);
                latest = now.latest;
            }
        }
    }
}
