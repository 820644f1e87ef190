//! The range map on the wire, and how every node learns of its changes.
//!
//! ```text
//! owner of the meta stream ── MAP entries ──> journal nodes ── Feed ──> MapFollower ──> watch::Sender<Arc<RangeMap>>
//! ```
//! Every journal node is followed, not only the nearest: the meta stream is almost silent, and so no node that is cut off from its
//! owner keeps this one behind. Only committed entries are fed, so the newest version seen is right whoever told it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::{
    Adjudicators, End, Key, KeyRange, Lsn, NodeName, Origin, RangeId, RangeMap, RangeMapEntry, Reshape,
    Reshaping, RetiredStream, StreamId, Timestamp, TxnId, limits,
};
use prost::Message;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::env::Env;
use crate::error::{KvError, KvResult};
use crate::internal::entry::Kind;
use crate::internal::feed_event::Event;
use crate::internal::journal_client::JournalClient;
use crate::internal::{
    AdjudicatorNode, Adjudicators as ProtoAdjudicators, FeedRequest, FeedStart, MapDrained, MapOrigin,
    MapPosition, MapRange, MapRecord, MapReshape, MapRetired, MapSealed,
};
use crate::network::Network;

const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Keeps `map` at the newest version of the range map that any journal node tells, until `stop` is cancelled.
pub fn follow(
    env: &Env,
    journals: &[NodeName],
    map: &watch::Sender<Arc<RangeMap>>,
    stop: &CancellationToken,
) {
    for journal in journals {
        let follower = Follower {
            subscriber: env.node.clone(),
            network: env.network.clone(),
            journal: journal.clone(),
            map: map.clone(),
            after: Lsn(0),
        };
        let (rng, stop) = (env.rng(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = follower.run(rng) => {}
            }
        });
    }
}

struct Follower {
    subscriber: NodeName,
    network: Network,
    journal: NodeName,
    map: watch::Sender<Arc<RangeMap>>,
    /// The last entry of the meta stream that this node told.
    after: Lsn,
}

impl Follower {
    async fn run(mut self, mut rng: StdRng) {
        let mut pause = FIRST_PAUSE;
        loop {
            let before = self.after;
            if let Err(status) = self.follow().await {
                tracing::debug!(journal = %self.journal, %status, "the range map is not told");
            }
            if self.after > before {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause.mul_f64(rng.random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn follow(&mut self) -> Result<(), Status> {
        let mut client = JournalClient::new(self.network.transport(&self.journal))
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
        let call = client.feed(FeedRequest {
            subscriber: format!("{}.map", self.subscriber),
            streams: vec![FeedStart {
                stream: StreamId::META.0,
                after_lsn: self.after.0,
            }],
        });
        let opened = tokio::time::timeout(OPEN_TIMEOUT, call).await;
        let mut feed = opened
            .map_err(|_| Status::deadline_exceeded("it did not answer in time"))??
            .into_inner();
        while let Some(batch) = feed.message().await? {
            for event in batch.events {
                let Some(Event::Entry(fed)) = event.event else {
                    continue;
                };
                let Some(entry) = fed.entry.filter(|_| fed.stream == StreamId::META.0) else {
                    continue;
                };
                if entry.kind() == Kind::Map {
                    self.learn(&decode(&entry.payload)?);
                }
                self.after = self.after.max(Lsn(entry.lsn));
            }
        }
        Ok(())
    }

    fn learn(&self, map: &RangeMap) {
        self.map.send_if_modified(|current| {
            let is_newer = map.version > current.version;
            if is_newer {
                tracing::info!(version = map.version, ranges = map.entries.len(), "range map");
                *current = Arc::new(map.clone());
            }
            is_newer
        });
    }
}

/// The map as the payload of a MAP entry.
pub fn encode(map: &RangeMap) -> Bytes {
    let Reshaping {
        retired,
        origins,
        pending,
    } = &map.reshaping;
    let retired = retired.iter().map(|(stream, retired)| MapRetired {
        stream: stream.0,
        range: retired.range.0,
        candidates: names(&retired.candidates),
        last: retired.last.0,
        start: retired.keys.start.0.clone(),
        end: end_to_wire(&retired.keys),
    });
    let origins = origins.iter().map(|(stream, origin)| MapOrigin {
        stream: stream.0,
        floor: origin.floor.0,
        after: origin
            .after
            .iter()
            .map(|(stream, lsn)| MapPosition {
                stream: stream.0,
                lsn: lsn.0,
            })
            .collect(),
        barred: origin.barred.iter().map(|txn| txn.to_bytes()).collect(),
    });
    let pending = pending.iter().map(|reshape| MapReshape {
        sources: reshape.sources.iter().map(|stream| stream.0).collect(),
        targets: reshape.targets.iter().map(range_to_wire).collect(),
        sealed: reshape
            .sealed
            .iter()
            .map(|(stream, end)| sealed_to_wire(*stream, end))
            .collect(),
    });
    let drained = map.drained.iter().map(|(region, nodes)| MapDrained {
        region: region.clone(),
        nodes: nodes.iter().map(|node| node.0.clone()).collect(),
    });
    let record = MapRecord {
        version: map.version,
        ranges: map.entries.iter().map(range_to_wire).collect(),
        retired: retired.collect(),
        origins: origins.collect(),
        pending: pending.collect(),
        drained: drained.collect(),
    };
    record.encode_to_vec().into()
}

/// The map of a MAP entry; an error when it has gaps or overlaps, or cannot be read.
pub fn decode(payload: &[u8]) -> KvResult<RangeMap> {
    let record = MapRecord::decode(payload)
        .map_err(|error| KvError::invalid(format!("a range map cannot be read: {error}")))?;
    let retired = record.retired.into_iter().map(|retired| {
        let stream = RetiredStream {
            range: RangeId(retired.range),
            keys: keys_from_wire(retired.start, retired.end),
            candidates: retired.candidates.into_iter().map(NodeName).collect(),
            last: Lsn(retired.last),
        };
        (StreamId(retired.stream), stream)
    });
    let origins = record.origins.into_iter().map(|origin| {
        let after = origin.after.iter();
        let begins = Origin {
            floor: Timestamp(origin.floor),
            after: after.map(|at| (StreamId(at.stream), Lsn(at.lsn))).collect(),
            barred: txns(&origin.barred)?,
        };
        Ok((StreamId(origin.stream), begins))
    });
    let origins: KvResult<_> = origins.collect();
    let pending = record.pending.into_iter().map(|reshape| {
        let sealed: KvResult<_> = reshape.sealed.iter().map(sealed_from_wire).collect();
        Ok(Reshape {
            sources: reshape.sources.into_iter().map(StreamId).collect(),
            targets: reshape.targets.into_iter().map(range_from_wire).collect(),
            sealed: sealed?,
        })
    });
    let pending: KvResult<_> = pending.collect();
    let map = RangeMap {
        version: record.version,
        entries: record.ranges.into_iter().map(range_from_wire).collect(),
        reshaping: Reshaping {
            retired: retired.collect(),
            origins: origins?,
            pending: pending?,
        },
        drained: record
            .drained
            .into_iter()
            .map(|drained| (drained.region, drained.nodes.into_iter().map(NodeName).collect()))
            .collect(),
    };
    if is_whole(&map) {
        Ok(map)
    } else {
        Err(KvError::invalid(format!(
            "version {} of the range map has gaps or overlaps",
            map.version
        )))
    }
}

/// How a stream ended, as its owner tells the owner of the meta stream.
pub fn sealed_to_wire(stream: StreamId, end: &End) -> MapSealed {
    MapSealed {
        stream: stream.0,
        floor: end.floor.0,
        last: end.last.0,
        barred: end.barred.iter().map(|txn| txn.to_bytes()).collect(),
    }
}

/// See [`sealed_to_wire`]; an error when a transaction's id has not 16 bytes.
pub fn sealed_from_wire(sealed: &MapSealed) -> KvResult<(StreamId, End)> {
    let end = End {
        floor: Timestamp(sealed.floor),
        last: Lsn(sealed.last),
        barred: txns(&sealed.barred)?,
    };
    Ok((StreamId(sealed.stream), end))
}

/// Adjudicators with their regions, as a change of the map carries them.
pub fn adjudicators_to_wire(adjudicators: &Adjudicators) -> ProtoAdjudicators {
    let node = |(node, region): &(NodeName, String)| AdjudicatorNode {
        node: node.0.clone(),
        region: region.clone(),
    };
    ProtoAdjudicators {
        nodes: adjudicators.iter().map(node).collect(),
    }
}

/// See [`adjudicators_to_wire`].
pub fn adjudicators_from_wire(adjudicators: ProtoAdjudicators) -> Adjudicators {
    let nodes = adjudicators.nodes.into_iter();
    nodes.map(|node| (NodeName(node.node), node.region)).collect()
}

fn txns(ids: &[Bytes]) -> KvResult<BTreeSet<TxnId>> {
    let txn = |id: &Bytes| {
        let txn = TxnId::from_slice(id);
        txn.ok_or_else(|| KvError::invalid(format!("a transaction's id has {} bytes, not 16", id.len())))
    };
    ids.iter().map(txn).collect()
}

/// Whether every key is in exactly one range.
fn is_whole(map: &RangeMap) -> bool {
    let mut next = Some(Key::default());
    for entry in &map.entries {
        if next.as_ref() != Some(&entry.keys.start) {
            return false;
        }
        next.clone_from(&entry.keys.end);
    }
    next.is_none()
}

fn names(nodes: &[NodeName]) -> Vec<String> {
    nodes.iter().map(|node| node.0.clone()).collect()
}

fn end_to_wire(keys: &KeyRange) -> Bytes {
    keys.end.as_ref().map(|end| end.0.clone()).unwrap_or_default()
}

fn keys_from_wire(start: Bytes, end: Bytes) -> KeyRange {
    KeyRange {
        start: Key(start),
        end: Some(end).filter(|end| !end.is_empty()).map(Key),
    }
}

fn range_to_wire(entry: &RangeMapEntry) -> MapRange {
    MapRange {
        range: entry.id.0,
        stream: entry.stream.0,
        start: entry.keys.start.0.clone(),
        end: end_to_wire(&entry.keys),
        candidates: names(&entry.candidates),
    }
}

fn range_from_wire(range: MapRange) -> RangeMapEntry {
    RangeMapEntry {
        id: RangeId(range.range),
        keys: keys_from_wire(range.start, range.end),
        stream: StreamId(range.stream),
        candidates: range.candidates.into_iter().map(NodeName).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_survives_and_one_with_a_gap_is_refused() {
        let map = RangeMap::divided([Key::from("m")], |_| vec!["a".into(), "b".into()]);
        let map = map.split(&"f".into()).unwrap();
        let end = |floor, last| End {
            floor: Timestamp(floor),
            last: Lsn(last),
            barred: BTreeSet::from([TxnId(uuid::Uuid::from_u128(u128::from(floor)))]),
        };
        let map = map.sealed(StreamId(1), end(7, 3)).unwrap();
        let mut map = map.merge(&"m".into()).unwrap();
        map = map.sealed(StreamId(2), end(8, 4)).unwrap();
        let adjudicators = vec![("a".into(), "north".to_owned()), ("b".into(), "south".to_owned())];
        assert_eq!(
            adjudicators_from_wire(adjudicators_to_wire(&adjudicators)),
            adjudicators
        );
        map = map.with_drained("north", &adjudicators).unwrap();
        assert_eq!(decode(&encode(&map)), Ok(map.clone()));
        map.entries.remove(1);
        assert!(decode(&encode(&map)).is_err());
        map.entries.pop();
        map.entries.clear();
        assert!(decode(&encode(&map)).is_err());
        assert!(decode(b"\xff\xff").is_err());
    }
}
