//! Changing the range map, as an RPC.

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::error::KvError;
use meridian_rpc::internal::change_request::Change as Wanted;
use meridian_rpc::internal::meta_server::Meta;
use meridian_rpc::internal::{ChangeRequest, ChangeResponse, StateResponse, StreamState};
use meridian_rpc::meta::{adjudicators_from_wire, sealed_from_wire};
use meridian_types::{Adjudicators, ChangeRefused, End, Key, NodeName, RangeId, RangeMap, StreamId, limits};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::journals::{self, GRACE};
use crate::registry::Registry;
use crate::request::Control;
use crate::service::AdjudicatorService;

const PAUSE: Duration = Duration::from_millis(200);
/// As long as all is well.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A change of the range map.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Move(RangeId, NodeName),
    Split(Key),
    Merge(Key),
    Sealed(StreamId, End),
    Drain(String, Adjudicators),
    Undrain(String),
    Adopt(Adjudicators),
}

/// A change, and of which map.
#[derive(Clone, Debug)]
pub(crate) struct ChangeOf {
    pub(crate) change: Change,
    /// Whoever asks knows of this version: an older map is not the cluster's.
    pub(crate) known_version: u64,
}

impl Change {
    /// The next map. One of the same version: it says so already.
    pub(crate) fn apply(&self, map: &RangeMap) -> Result<RangeMap, ChangeRefused> {
        match self {
            Self::Move(range, to) => map.moved(*range, to),
            Self::Split(key) => map.split(key),
            Self::Merge(key) => map.merge(key),
            Self::Sealed(stream, end) => map.sealed(*stream, end.clone()),
            Self::Drain(region, adjudicators) => map.with_drained(region, adjudicators),
            Self::Undrain(region) => map.with_undrained(region),
            Self::Adopt(adjudicators) => map.with_adjudicators(adjudicators),
        }
    }

    fn from_wire(request: ChangeRequest) -> Result<Self, KvError> {
        let key = |bytes: bytes::Bytes| match bytes.len() {
            0 => Err(KvError::invalid("a range cannot begin with the empty key")),
            got if got > limits::MAX_KEY_BYTES => Err(KvError::invalid(format!(
                "a key has {got} bytes, the limit is {}",
                limits::MAX_KEY_BYTES
            ))),
            _ => Ok(Key(bytes)),
        };
        match request.change {
            Some(Wanted::Move(change)) => Ok(Self::Move(RangeId(change.range), NodeName(change.node))),
            Some(Wanted::Split(change)) => Ok(Self::Split(key(change.key)?)),
            Some(Wanted::Merge(change)) => Ok(Self::Merge(key(change.key)?)),
            Some(Wanted::Sealed(sealed)) => {
                let (stream, end) = sealed_from_wire(&sealed)?;
                Ok(Self::Sealed(stream, end))
            }
            Some(Wanted::Drain(drain)) => {
                let adjudicators = adjudicators_from_wire(drain.adjudicators.unwrap_or_default());
                Ok(Self::Drain(drain.region, adjudicators))
            }
            Some(Wanted::Undrain(region)) => Ok(Self::Undrain(region)),
            Some(Wanted::Adopt(adjudicators)) => Ok(Self::Adopt(adjudicators_from_wire(adjudicators))),
            None => Err(KvError::invalid("no change of the range map is named")),
        }
    }
}

/// Once all journal nodes were restarted none of them knows how much of its logs is committed before an owner tells; the meta stream may
/// have none, and nobody asks for it. Nodes that start then would go by the configured map for ever. So it is looked at again and again, for
/// journal nodes may be restarted at any time. A stream that was never used stays so.
pub(crate) async fn open_if_unknown(ctx: Arc<Context>, registry: Arc<Registry>) {
    let shutdown = ctx.shutdown.clone();
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = open(&ctx, &registry) => {}
    }
}

async fn open(ctx: &Context, registry: &Registry) {
    loop {
        let pause = match is_unknown(ctx).await {
            Some(false) => LOOK_AGAIN,
            Some(true) if has_owner(registry).await => LOOK_AGAIN,
            _ => PAUSE,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether a journal node does not know how much of its log is committed. `None`: too few answer.
async fn is_unknown(ctx: &Context) -> Option<bool> {
    let answers = journals::states(ctx, StreamId::META, GRACE)
        .await
        .into_iter()
        .flatten();
    let answers: Vec<StateResponse> = answers.filter(|answer| !answer.rejoining).collect();
    let is_unknown = |state: &StreamState| state.last.is_some_and(|last| last.lsn > state.committed_lsn);
    let mut states = answers.iter().flat_map(|answer| &answer.streams);
    (answers.len() >= ctx.quorum()).then(|| states.any(is_unknown))
}

/// Whoever owns it is told of when this is asked, or this node takes over.
async fn has_owner(registry: &Registry) -> bool {
    let Some(handle) = registry.stream(StreamId::META) else {
        return false;
    };
    let (reply, answer) = oneshot::channel();
    let asked = handle.control.try_send(Control::Locate(reply)).is_ok();
    asked && answer.await.is_ok_and(|located| !located.owner.is_empty())
}

/// The service, beside the adjudicator's own.
pub(crate) struct MetaService(pub(crate) AdjudicatorService);

#[tonic::async_trait]
impl Meta for MetaService {
    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeResponse>, Status> {
        let request = request.into_inner();
        let known_version = request.known_version;
        let change = ChangeOf {
            change: Change::from_wire(request)?,
            known_version,
        };
        let handle = self.0.stream(StreamId::META.0)?;
        let answer = self
            .0
            .ask(&handle, |reply| Control::Change(change, reply))
            .await?;
        // Without an answer it is not known whether the map was changed: version 0.
        Ok(Response::new(answer.unwrap_or_default()))
    }
}
