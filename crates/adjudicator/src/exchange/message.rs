//! What adjudicators tell each other, as it is used here and as it travels.

use meridian_rpc::error::{KvError, KvResult};
use meridian_rpc::internal::{
    AttemptEnd, Decided, ExchangeMessage, GaveUp, Refused, Vote, Yes, attempt_end, exchange_message, vote,
};
use meridian_types::{Attempt, NodeName, Position, StreamId, Timestamp};

/// A message of another adjudicator about one attempt.
#[derive(Clone, Debug)]
pub(crate) struct PeerMessage {
    pub(crate) attempt: Attempt,
    pub(crate) start: Timestamp,
    pub(crate) content: PeerContent,
}

/// See [`PeerMessage`].
#[derive(Clone, Debug)]
pub(crate) enum PeerContent {
    /// To the home: the vote of the owner of `from`.
    Vote {
        from: StreamId,
        node: NodeName,
        vote: PeerVote,
        /// What the voter took, of an attempt that is traced, in microseconds.
        took_us: u64,
    },
    /// To a participant: it commits at `commit` if the record at `at` is committed.
    Decided { commit: Timestamp, at: Position },
    /// To a participant: it will never commit.
    Aborted,
}

/// A vote as it travels.
#[derive(Clone, Debug)]
pub(crate) enum PeerVote {
    Yes { lower: Timestamp, promise: Timestamp },
    No(Refused),
}

impl PeerMessage {
    /// As it travels, to the owner of `to`.
    pub(crate) fn into_wire(self, to: StreamId) -> ExchangeMessage {
        use exchange_message::Message;
        let message = match self.content {
            PeerContent::Vote {
                from,
                node,
                vote,
                took_us,
            } => Message::Vote(Vote {
                took_us,
                from_stream: from.0,
                from_node: node.0,
                vote: Some(match vote {
                    PeerVote::Yes { lower, promise } => vote::Vote::Yes(Yes {
                        lower: lower.0,
                        promise: promise.0,
                    }),
                    PeerVote::No(refused) => vote::Vote::No(refused),
                }),
            }),
            PeerContent::Decided { commit, at } => Message::End(AttemptEnd {
                end: Some(attempt_end::End::Committed(Decided {
                    commit: commit.0,
                    lsn: at.lsn.0,
                    epoch: at.epoch.0,
                })),
            }),
            PeerContent::Aborted => Message::End(AttemptEnd {
                end: Some(attempt_end::End::Aborted(GaveUp {})),
            }),
        };
        ExchangeMessage {
            to_stream: to.0,
            attempt: Some(self.attempt.into()),
            start: self.start.0,
            message: Some(message),
        }
    }
}

impl TryFrom<ExchangeMessage> for PeerMessage {
    type Error = KvError;

    fn try_from(message: ExchangeMessage) -> KvResult<Self> {
        use exchange_message::Message;
        let missing = || KvError::invalid("a part of the message is missing");
        let attempt = Attempt::try_from(message.attempt.as_ref().ok_or_else(missing)?)?;
        let content = match message.message.ok_or_else(missing)? {
            Message::Vote(vote) => PeerContent::Vote {
                from: StreamId(vote.from_stream),
                node: NodeName(vote.from_node),
                took_us: vote.took_us,
                vote: match vote.vote.ok_or_else(missing)? {
                    vote::Vote::Yes(yes) => PeerVote::Yes {
                        lower: Timestamp(yes.lower),
                        promise: Timestamp(yes.promise),
                    },
                    vote::Vote::No(refused) => PeerVote::No(refused),
                },
            },
            Message::End(end) => match end.end.ok_or_else(missing)? {
                attempt_end::End::Committed(decided) => PeerContent::Decided {
                    commit: Timestamp(decided.commit),
                    at: Position::new(decided.epoch, decided.lsn),
                },
                attempt_end::End::Aborted(GaveUp {}) => PeerContent::Aborted,
            },
        };
        Ok(Self {
            attempt,
            start: Timestamp(message.start),
            content,
        })
    }
}
