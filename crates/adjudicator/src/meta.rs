//! Changing the range map, as an RPC.

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::error::KvError;
use meridian_rpc::internal::change_request::Change as Wanted;
use meridian_rpc::internal::meta_server::Meta;
use meridian_rpc::internal::{ChangeRequest, ChangeResponse, StateResponse, StreamState};
use meridian_types::{ChangeRefused, Key, Lsn, NodeName, RangeId, RangeMap, StreamId, Timestamp, limits};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::journals::{self, GRACE};
use crate::registry::Registry;
use crate::request::Control;
use crate::service::AdjudicatorService;

const PAUSE: Duration = Duration::from_millis(200);

/// A change of the range map.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Move(RangeId, NodeName),
    Split(Key),
    Merge(Key),
    Sealed(StreamId, Timestamp, Lsn),
}

impl Change {
    /// The next map. One of the same version: it says so already.
    pub(crate) fn apply(&self, map: &RangeMap) -> Result<RangeMap, ChangeRefused> {
        match self {
            Self::Move(range, to) => map.moved(*range, to),
            Self::Split(key) => map.split(key),
            Self::Merge(key) => map.merge(key),
            Self::Sealed(stream, floor, last) => map.sealed(*stream, *floor, *last),
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
            Some(Wanted::Sealed(sealed)) => Ok(Self::Sealed(
                StreamId(sealed.stream),
                Timestamp(sealed.floor),
                Lsn(sealed.last),
            )),
            None => Err(KvError::invalid("no change of the range map is named")),
        }
    }
}

/// After a restart of the whole cluster no journal node knows how much of its logs is committed before an owner tells, and nobody asks for
/// the owner of the meta stream: without this the nodes would go by the configured map. A stream that was never used stays so.
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
        let answers = journals::states(ctx, StreamId::META, GRACE)
            .await
            .into_iter()
            .flatten();
        let answers: Vec<StateResponse> = answers.filter(|answer| !answer.rejoining).collect();
        if answers.len() >= ctx.quorum() {
            let mut states = answers.iter().flat_map(|answer| &answer.streams);
            let is_unknown =
                |state: &StreamState| state.last.is_some_and(|last| last.lsn > state.committed_lsn);
            if !states.any(is_unknown) {
                return;
            }
            if let Some(handle) = registry.stream(StreamId::META) {
                // Whoever owns it is told of by now, or this node takes over.
                let (reply, answer) = oneshot::channel();
                let asked = handle.control.try_send(Control::Locate(reply)).is_ok();
                if asked && answer.await.is_ok_and(|located| !located.owner.is_empty()) {
                    return;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The service, beside the adjudicator's own.
pub(crate) struct MetaService(pub(crate) AdjudicatorService);

#[tonic::async_trait]
impl Meta for MetaService {
    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeResponse>, Status> {
        let change = Change::from_wire(request.into_inner())?;
        let handle = self.0.stream(StreamId::META.0)?;
        let answer = self
            .0
            .ask(&handle, |reply| Control::Change(change, reply))
            .await?;
        // Without an answer it is not known whether the map was changed: version 0.
        Ok(Response::new(answer.unwrap_or_default()))
    }
}
