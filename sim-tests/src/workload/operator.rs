//! The operator: has ranges moved, split and merged, and regions drained, through routers, while clients run and faults strike.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_client::proto::RangeMove;
use meridian_client::{Client, KvError, RangeChange};
use meridian_types::RangeMap;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{Control, Phase};
use crate::cluster::Shared;
use crate::plan::{Changes, Ranges, Region};
use crate::seams::derive;

/// Its name, which is its host's.
pub const OPERATOR: &str = "operator";
/// Until the next try.
const UNDRAIN_PAUSE: Duration = Duration::from_millis(200);

/// Changes the ranges as long as faults go on.
pub async fn run(client: &Client, control: &Control, shared: &Shared, changes: &Changes) {
    let mut rng = StdRng::seed_from_u64(derive(shared.plan.seed, OPERATOR));
    let mut drained = BTreeSet::new();
    control.reached(Phase::Chaos).await;
    loop {
        tokio::time::sleep(changes.every.mul_f64(rng.random_range(0.0..2.0))).await;
        if control.phase.get() > Phase::Chaos {
            return undrain_all(client, drained).await;
        }
        // What it knows may be old: then it asks for something that cannot be.
        let map = shared.newest_map();
        let has_regions = shared.plan.regions.distances.is_some();
        let Some((kind, change)) = choose(&mut rng, &map, changes, has_regions) else {
            continue;
        };
        tracing::info!(
            kind,
            ?change,
            version = map.version,
            "the ranges are to be changed"
        );
        if let RangeChange::Drain(region) = &change {
            drained.insert(region.clone());
        }
        let what = match client.change_ranges(change).await {
            Ok(version) => {
                tracing::info!(kind, version, "the ranges are changed");
                kind
            }
            Err(error) if matches!(error.kv(), Some(KvError::Invalid { .. })) => "RangeRefused",
            Err(error) => {
                tracing::info!(kind, %error, "perhaps the ranges are changed");
                "RangeInDoubt"
            }
        };
        shared.count_change(what);
    }
}

/// Clients that know one region only get nothing done as long as it is drained: when all faults are healed, so is this.
///
/// All that were ever asked for, whatever the map says: a drain of which nothing is known may stand in the log and be committed by the
/// next owner, after everybody has looked.
async fn undrain_all(client: &Client, drained: BTreeSet<String>) {
    for region in drained {
        while let Err(error) = client.change_ranges(RangeChange::Undrain(region.clone())).await {
            tracing::info!(%error, "perhaps a region is undrained");
            tokio::time::sleep(UNDRAIN_PAUSE).await;
        }
    }
}

fn drain_or_undrain(rng: &mut StdRng, map: &RangeMap) -> Option<(&'static str, RangeChange)> {
    if let Some(region) = map.drained.keys().next() {
        return Some(("RegionUndrain", RangeChange::Undrain(region.clone())));
    }
    let region = Region::ACTIVE.choose(rng)?.name().to_owned();
    Some(("RegionDrain", RangeChange::Drain(region)))
}

/// What is to be changed, and how it is counted. `None`: it cannot be now.
fn choose(
    rng: &mut StdRng,
    map: &RangeMap,
    changes: &Changes,
    has_regions: bool,
) -> Option<(&'static str, RangeChange)> {
    let kinds = [0_usize, 1, 2];
    let kind = kinds.choose_weighted(rng, |kind| changes.weights[*kind]).ok()?;
    match kind {
        0 if has_regions && rng.random_ratio(1, 3) => drain_or_undrain(rng, map),
        0 => {
            let range = map.entries.choose(rng)?;
            let node = range.candidates.choose(rng)?.0.clone();
            Some((
                "RangeMove",
                RangeChange::Move(RangeMove {
                    range: range.id.0,
                    node,
                }),
            ))
        }
        1 => {
            let reshaping = &map.reshaping;
            let coming = reshaping
                .pending
                .iter()
                .flat_map(|reshape| &reshape.targets)
                .count();
            let has_room = map.entries.len() + reshaping.pending.len() < Ranges::MOST
                && map.streams().len() + coming + 2 <= changes.most_streams;
            let key = changes.keys.choose(rng).filter(|_| has_room)?;
            Some(("RangeSplit", RangeChange::Split(key.clone().into())))
        }
        _ => {
            let borders: Vec<_> = map.entries.iter().skip(1).collect();
            let range = borders.choose(rng)?;
            Some(("RangeMerge", RangeChange::Merge(range.keys.start.0.clone())))
        }
    }
}
