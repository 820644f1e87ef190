//! The owner of the meta stream: it changes the range map, one version after the other.
//!
//! Safe by the journal alone: a change is told only when its entry is committed, and a successor begins with the newest map of the
//! log that it adopts. It needs no lease, and so costs nothing while nobody changes anything. So an owner that was replaced may not
//! know it yet: what it would refuse by its old map it must not say to whoever knows a newer one.

use meridian_protocol::events;
use meridian_rpc::internal::ChangeResponse;
use meridian_rpc::meta;
use tokio::sync::oneshot;

use super::owner::Owner;
use super::waiting::Answer;
use crate::meta::ChangeOf;
use crate::records;

/// A map that takes more is refused: every node has to be sent it in one message.
const MAX_MAP_BYTES: usize = 4 << 20;

impl Owner {
    /// Somebody wants the map changed.
    pub(super) fn on_change(&mut self, asked: &ChangeOf, reply: oneshot::Sender<ChangeResponse>) {
        let refused = |why: String| ChangeResponse {
            refused: why,
            ..ChangeResponse::default()
        };
        let Some(map) = &self.map else {
            return drop(reply.send(refused("this stream does not hold the range map".to_owned())));
        };
        if !self.has_room() || map.version < asked.known_version {
            return drop(reply.send(ChangeResponse::default()));
        }
        let change = &asked.change;
        let next = match change.apply(map) {
            Ok(next) => next,
            Err(why) => return drop(reply.send(refused(why.to_string()))),
        };
        let version = next.version;
        if version == map.version {
            // Said before; perhaps by an entry that is not committed yet.
            let last = self.replication.last().lsn;
            return self.answer_at(last, Answer::Changed(reply, version));
        }
        let payload = meta::encode(&next);
        if payload.len() > MAX_MAP_BYTES {
            return drop(reply.send(refused(format!(
                "the map would take more than {MAX_MAP_BYTES} bytes"
            ))));
        }
        tracing::info!(stream = %self.stream, version, ?change, "the range map changes");
        let lsn = self.adjudication.take_lsn();
        tracing::trace!(
            target: events::TARGET, event = "mapped", stream = self.stream.0, epoch = self.replication.epoch().0,
            lsn = lsn.0, map = &payload[..]
        );
        self.append(lsn, |at| records::map(at, payload));
        self.map = Some(next);
        self.answer_at(lsn, Answer::Changed(reply, version));
    }
}
