//! Pauses between tries, and deadlines.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_types::limits;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use crate::config::Config;

/// The node's randomness for pauses, and their bounds. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Retry {
    rng: Arc<Mutex<StdRng>>,
    min: Duration,
    max: Duration,
}

impl Retry {
    pub(crate) fn new(config: &Config, rng: StdRng) -> Self {
        let min = Duration::from_millis(config.retry_min_ms.max(1));
        Self {
            rng: Arc::new(Mutex::new(rng)),
            min,
            max: Duration::from_millis(config.retry_max_ms).max(min),
        }
    }

    /// A series of pauses that begins with the shortest.
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff {
            retry: self.clone(),
            next: self.min,
        }
    }

    /// Between a half and the whole of `duration`.
    pub(crate) fn jitter(&self, duration: Duration) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        duration.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// The node's generator, for ids.
    pub(crate) fn with_rng<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Pauses that grow.
pub(crate) struct Backoff {
    retry: Retry,
    next: Duration,
}

impl Backoff {
    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.retry.jitter(self.next);
        self.next = (self.next * 2).min(self.retry.max);
        pause
    }

    /// Sleeps for the next pause, or `at_least`; `false`, at once, when the deadline would pass meanwhile.
    pub(crate) async fn pause(&mut self, at_least: Duration, deadline: Instant) -> bool {
        let pause = self.next().max(at_least);
        if Instant::now() + pause >= deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

/// The deadline of an operation that its client waits `timeout_ms` for (0: the default).
pub(crate) fn deadline_in_ms(timeout_ms: u64) -> Instant {
    let timeout = match timeout_ms {
        0 => limits::DEFAULT_DEADLINE,
        ms => Duration::from_millis(ms).min(limits::MAX_DEADLINE),
    };
    Instant::now() + timeout
}

/// The deadline that a unary call names in `grpc-timeout`, a little early, so that the answer (above all the
/// token of an unknown outcome) still arrives.
pub(crate) fn named_deadline(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = parse_timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?.min(limits::MAX_DEADLINE);
    let margin = (timeout / 10).min(Duration::from_millis(50));
    Some(Instant::now() + (timeout - margin))
}

/// The deadline of a unary call: the one it names, or the default.
pub(crate) fn call_deadline(metadata: &MetadataMap) -> Instant {
    named_deadline(metadata).unwrap_or_else(|| deadline_in_ms(0))
}

/// At most eight digits and a unit, as gRPC over HTTP/2 has it.
fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(amount * 3_600)),
        'M' => Some(Duration::from_secs(amount * 60)),
        'S' => Some(Duration::from_secs(amount)),
        'm' => Some(Duration::from_millis(amount)),
        'u' => Some(Duration::from_micros(amount)),
        'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// What is left until the deadline, in whole milliseconds and at least one, as messages carry it.
pub(crate) fn remaining_ms(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    u64::try_from(left).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("15S"), Some(Duration::from_secs(15)));
        assert_eq!(parse_timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(parse_timeout("2H"), Some(Duration::from_secs(7_200)));
        for bad in ["", "S", "1", "1s", "+1S", "-1S", "999999999S", "1é", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }
}
