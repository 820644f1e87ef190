//! What an adjudicator counts and measures beside its status.

use meridian_metrics::{Counter, Counters, Histogram, names};
use meridian_rpc::internal::refused::Reason;

/// Counters since the start of the process, of all its ranges together.
#[derive(Debug)]
pub(crate) struct Figures {
    answers: Counters,
    takeovers: Counters,
    epochs: Counters,
    /// Lease records appended.
    pub(crate) leases: Counter,
    /// Owners that found another in their place.
    pub(crate) deposed: Counter,
    /// Passes of the decision loops.
    pub(crate) busy: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            answers: Counters::new(&names::ADJUDICATOR_ANSWERS, &[], names::ANSWERS),
            takeovers: Counters::new(&names::ADJUDICATOR_TAKEOVERS, &[], names::TAKEOVERS),
            epochs: Counters::new(&names::ADJUDICATOR_EPOCHS, &[], names::EPOCHS),
            leases: names::ADJUDICATOR_LEASES.counter(&[]),
            deposed: names::ADJUDICATOR_DEPOSED.counter(&[]),
            busy: names::ADJUDICATOR_BUSY.histogram(&[]),
        }
    }
}

impl Figures {
    /// A commit request was answered, with one of [`names::ANSWERS`].
    pub(crate) fn count_answer(&self, answer: &'static str) {
        self.answers.count(answer);
    }

    /// A commit request was refused.
    pub(crate) fn count_refusal(&self, reason: Reason) {
        self.answers.count(reason.as_str_name());
    }

    /// Looking for an owner ended with one of [`names::TAKEOVERS`].
    pub(crate) fn count_takeover(&self, result: &'static str) {
        self.takeovers.count(result);
    }

    /// An epoch begins, with one of [`names::EPOCHS`].
    pub(crate) fn count_epoch(&self, start: &'static str) {
        self.epochs.count(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_a_refusal_is_counted_by_its_name() {
        let reasons: Vec<Reason> = (0..).map_while(|number| Reason::try_from(number).ok()).collect();
        assert!(reasons.len() > 11);
        for reason in reasons {
            assert!(names::ANSWERS.contains(&reason.as_str_name()), "{reason:?}");
        }
    }
}
