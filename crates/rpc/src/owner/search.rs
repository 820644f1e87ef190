//! Looking for a stream's owner among those that may own it.
//!
//! ```text
//! all candidates ──"do you own it?"──> one says yes: that is the answer
//!                                      the first in their order that is there ──"see to it"──> the owner, perhaps itself
//! ```
//! The first question costs nothing, so all are asked at once; only the second may make somebody take the stream over, so one is
//! asked after the other. A candidate that is cut off, or paused, is passed over as soon as another one is there.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::OptionFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use meridian_types::{Epoch, NodeName, StreamId};
use tokio::time::{Instant, sleep_until, timeout};

use super::Owner;
use crate::internal::LocateRequest;
use crate::internal::adjudicator_client::AdjudicatorClient;
use crate::network::Network;

/// How long one candidate may take to answer; it may have to take over first.
const LOCATE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an earlier candidate may take to say that it is there before a later one is asked in its place: longer than a round
/// trip between regions.
const PATIENCE: Duration = Duration::from_millis(200);

/// The owner that one of the candidates names, the preferred one first; else why there is none, in words.
pub(super) async fn find(
    network: &Network,
    stream: StreamId,
    candidates: &[NodeName],
) -> Result<Owner, String> {
    let ask = |index: usize, passive: bool| async move {
        let node = candidates.get(index).cloned().unwrap_or_default();
        (index, locate(network, stream, &node, passive).await)
    };
    let mut last = "no adjudicator is configured for it".to_owned();
    let mut silent: BTreeSet<usize> = (0..candidates.len()).collect();
    let mut there: BTreeSet<usize> = BTreeSet::new();
    let mut passive: FuturesUnordered<_> = (0..candidates.len()).map(|index| ask(index, true)).collect();
    let patience = Instant::now() + PATIENCE;
    let mut active = OptionFuture::default();
    let mut is_asked = false;
    loop {
        let is_patient = Instant::now() < patience;
        if !is_asked && let Some(next) = next(&there, &silent, is_patient) {
            there.remove(&next);
            (active, is_asked) = (Some(ask(next, false).boxed()).into(), true);
        }
        if !is_asked && silent.is_empty() {
            return Err(last);
        }
        let answer = tokio::select! {
            biased;
            Some(answer) = &mut active, if is_asked => {
                is_asked = false;
                answer.1
            }
            Some((index, answer)) = passive.next() => {
                silent.remove(&index);
                if matches!(answer, Ok(None)) {
                    there.insert(index);
                }
                answer
            }
            () = sleep_until(patience), if is_patient => continue,
        };
        match answer {
            Ok(Some(owner)) => return Ok(owner),
            Ok(None) => last = "none of its candidates knows one yet".to_owned(),
            Err(why) => last = why,
        }
    }
}

/// Who is asked to see to it: the first that is there, unless an earlier one may still say so.
fn next(there: &BTreeSet<usize>, silent: &BTreeSet<usize>, is_patient: bool) -> Option<usize> {
    let first = *there.first()?;
    let waits = is_patient && silent.first().is_some_and(|earlier| *earlier < first);
    (!waits).then_some(first)
}

async fn locate(
    network: &Network,
    stream: StreamId,
    node: &NodeName,
    passive: bool,
) -> Result<Option<Owner>, String> {
    let mut client = AdjudicatorClient::new(network.transport(node));
    let call = client.locate(LocateRequest {
        stream: stream.0,
        passive,
    });
    match timeout(LOCATE_TIMEOUT, call).await {
        Ok(Ok(answer)) => {
            let answer = answer.into_inner();
            let owner = Owner {
                node: NodeName(answer.owner),
                epoch: Epoch(answer.epoch),
            };
            Ok(Some(owner).filter(|owner| !owner.node.0.is_empty()))
        }
        Ok(Err(status)) => Err(format!("{node}: {}", status.message())),
        Err(_) => Err(format!("{node} did not answer in {LOCATE_TIMEOUT:?}")),
    }
}
