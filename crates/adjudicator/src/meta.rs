//! Changing the range map, as an RPC.

use meridian_rpc::error::KvError;
use meridian_rpc::internal::change_request::Change as Wanted;
use meridian_rpc::internal::meta_server::Meta;
use meridian_rpc::internal::{ChangeRequest, ChangeResponse};
use meridian_types::{ChangeRefused, Key, Lsn, NodeName, RangeId, RangeMap, StreamId, Timestamp, limits};
use tonic::{Request, Response, Status};

use crate::request::Control;
use crate::service::AdjudicatorService;

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
