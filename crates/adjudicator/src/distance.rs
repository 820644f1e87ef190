//! Whether the lease and the prepare timeout leave room for the distances that are measured (section 8): 4 round trips each.
//!
//! Too short a lease costs availability, never safety, so it is a warning: every pause of a link would depose owners.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use meridian_types::StreamId;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::context::Context;
use crate::journals;

/// Round trips that a lease, and a prepare, must have time for.
const ROUND_TRIPS: u32 = 4;
/// How often each journal node is asked, and the pause in between. The quickest answer counts.
const SAMPLES: usize = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Measures how far the journal nodes are once after the start, and warns when the settings do not fit.
pub(crate) async fn check(ctx: Arc<Context>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        farthest = farthest(&ctx) => warn(&ctx, farthest),
    }
}

/// The farthest journal node that answers, and its round trip: when another one is lost, a quorum needs it.
async fn farthest(ctx: &Context) -> Option<(usize, Duration)> {
    let mut quickest: Vec<Option<Duration>> = vec![None; ctx.journals.len()];
    for _ in 0..SAMPLES {
        sleep(PAUSE).await;
        let calls = (0..ctx.journals.len()).map(|journal| async move {
            let began = Instant::now();
            let answer = journals::state(ctx, journal, StreamId::META).await;
            answer.map(|_| began.elapsed())
        });
        for (known, measured) in quickest.iter_mut().zip(join_all(calls).await) {
            *known = known.iter().copied().chain(measured).min();
        }
    }
    let known = quickest.into_iter().enumerate();
    known
        .filter_map(|(journal, round_trip)| Some((journal, round_trip?)))
        .max_by_key(|(_, round_trip)| *round_trip)
}

fn warn(ctx: &Context, farthest: Option<(usize, Duration)>) {
    let Some((journal, round_trip)) = farthest else {
        return;
    };
    let journal = ctx.journals.get(journal).cloned().unwrap_or_default();
    for what in too_short(&ctx.config, round_trip) {
        tracing::warn!(node = %ctx.env.node, %journal, "{what}");
    }
}

/// What is too short for this round trip, and what to do about it.
fn too_short(config: &Config, round_trip: Duration) -> Vec<String> {
    let needed = round_trip * ROUND_TRIPS;
    let settings = [
        ("lease", "cluster.settings.lease_ms", config.lease_length_ms),
        (
            "prepare timeout",
            "settings.adjudicator.prepare_timeout_ms",
            config.prepare_timeout_ms,
        ),
    ];
    let short = settings
        .into_iter()
        .filter(|(_, _, ms)| Duration::from_millis(*ms) < needed);
    let described = short.map(|(what, setting, ms)| {
        format!(
            "the {what} ({ms} ms) is shorter than {ROUND_TRIPS} round trips to the farthest journal node ({round_trip:.1?} each): \
             a short delay would end it; set {setting} to {} or more",
            needed.as_millis() + 1
        )
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_round_trips_fit_or_it_is_said_what_to_set() {
        let config = Config {
            prepare_timeout_ms: 400,
            ..Config::default()
        };
        let said = |round_trip| too_short(&config, Duration::from_millis(round_trip));
        assert_eq!(said(100), Vec::<String>::new());
        let short = said(101);
        assert!(
            matches!(&short[..], [one] if one.contains("prepare timeout (400 ms)") && one.contains("to 405"))
        );
        let both = said(251);
        assert_eq!(both.len(), 2);
        assert!(
            both[0].contains("lease (1000 ms)") && both[0].contains("251.0ms") && both[0].contains("to 1005")
        );
    }
}
