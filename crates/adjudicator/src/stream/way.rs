//! How long outcomes take to come back from a home (5.1).
//!
//! A vote's `lower` lies that far ahead: too near, and reads wait for the outcome (R12); too far, and every commit waits for its
//! timestamp (R3).

use std::collections::VecDeque;
use std::time::Duration;

/// Outcomes that count, the latest.
const OUTCOMES: usize = 9;

/// The way to one home and back.
#[derive(Clone, Debug, Default)]
pub(super) struct WayHome {
    /// How long an answer of the home's owner took, until an outcome has come back.
    asked: Option<Duration>,
    outcomes: VecDeque<Duration>,
}

impl WayHome {
    /// The home's owner has answered a question of another kind, after so long.
    pub(super) fn on_asked(&mut self, took: Duration) {
        // The shortest: others may have had to wait for the stream to be opened.
        self.asked = Some(self.asked.map_or(took, |before| before.min(took)));
    }

    /// An outcome came so long after the vote.
    pub(super) fn on_outcome(&mut self, took: Duration) {
        if self.outcomes.len() == OUTCOMES {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(took);
    }

    /// How long an outcome will take: as long as the middle one of those before, so that neither the first, for which a connection had to
    /// be opened, nor a slow sync counts for long. Nothing while nothing is known.
    pub(super) fn usual(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.outcomes.iter().copied().collect();
        sorted.sort_unstable();
        let middle = sorted.get(sorted.len() / 2).copied();
        match (middle, self.asked) {
            // The first outcomes may be slow, an answer cannot have been too quick.
            (Some(middle), Some(asked)) if sorted.len() < OUTCOMES / 2 => middle.min(asked),
            (Some(middle), _) => middle,
            (None, asked) => asked.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_latest_outcomes_counts() {
        let ms = Duration::from_millis;
        let mut way = WayHome::default();
        assert_eq!(way.usual(), ms(0));
        way.on_asked(ms(900));
        way.on_asked(ms(61));
        way.on_asked(ms(70));
        assert_eq!(way.usual(), ms(61), "before any outcome");
        way.on_outcome(ms(300));
        assert_eq!(way.usual(), ms(61), "the first one had to open a connection");
        for took in [62, 64, 63, 250] {
            way.on_outcome(ms(took));
        }
        assert_eq!(way.usual(), ms(64));
        for took in 100..109 {
            way.on_outcome(ms(took));
        }
        assert_eq!(way.usual(), ms(104), "those before are forgotten");
    }
}
