//! One session of the fake: operations in order, each answered as the proto says.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use meridian_rpc::KvError;
use meridian_rpc::convert::{range_from_bytes, txn_id};
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::precondition::Test;
use meridian_rpc::v1::predicate::Op as Compare;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{self, SessionOp, SessionReply};
use meridian_types::{CommitToken, Key, StreamId, Timestamp, TxnId};

use super::store::{Store, Txn};
use super::{Fault, State};

/// What is to be done after an operation.
pub(super) enum After {
    /// Send these.
    Reply(Vec<SessionReply>),
    /// Send these, then break the connection.
    Break(Vec<SessionReply>),
}

#[derive(Default)]
pub(super) struct Session {
    txns: BTreeMap<u64, Txn>,
    scans: BTreeMap<u64, Pages>,
}

struct Pages {
    rows: VecDeque<v1::Row>,
    count: u64,
    count_only: bool,
}

impl Session {
    pub(super) fn handle(&mut self, state: &mut State, op: SessionOp) -> After {
        let SessionOp { id, txn, op, .. } = op;
        match op {
            Some(Op::Commit(_)) => {
                state.counters.commits += 1;
                match self.take(state, txn) {
                    Ok(open) => commit(state, id, open),
                    Err(error) => After::Reply(vec![failed(id, &error)]),
                }
            }
            Some(Op::Execute(request)) => {
                state.counters.commits += 1;
                execute(state, id, request)
            }
            Some(Op::ScanNext(next)) => self.scan_next(state, next),
            Some(op) => match self.simple(state, id, txn, op) {
                Ok(None) => After::Reply(vec![]),
                Ok(Some(answer)) => After::Reply(vec![reply(id, answer)]),
                Err(error) => After::Reply(vec![failed(id, &error)]),
            },
            None => After::Reply(vec![failed(
                id,
                &KvError::invalid("an operation without content"),
            )]),
        }
    }

    /// A page carries the scan's id, not that of the request for it.
    fn scan_next(&mut self, state: &mut State, next: v1::ScanNext) -> After {
        if next.cancel {
            self.scans.remove(&next.scan);
            return After::Reply(vec![]);
        }
        After::Reply(vec![match self.page(state, next.scan) {
            Ok(page) => reply(next.scan, page),
            Err(error) => failed(next.scan, &error),
        }])
    }

    /// Operations with at most one reply, under their own id.
    fn simple(&mut self, state: &mut State, id: u64, number: u64, op: Op) -> KvResult<Option<Reply>> {
        match op {
            Op::Begin(begin) => self.begin(state, number, &begin).map(Some),
            Op::Outcome(question) => outcome(state, &question).map(Some),
            Op::Rollback(_) => {
                self.txns.remove(&number);
                Ok(Some(Reply::RolledBack(v1::RollbackResponse {})))
            }
            Op::Scan(request) => {
                let pages = scan(state, self.open(state.generation, number)?, request)?;
                self.scans.insert(id, pages);
                self.page(state, id).map(Some)
            }
            write @ (Op::Put(_) | Op::Delete(_) | Op::Savepoint(_) | Op::RollbackTo(_)) => {
                self.write(state, number, write);
                Ok(None)
            }
            read => read_op(state, self.open(state.generation, number)?, read).map(Some),
        }
    }

    fn begin(&mut self, state: &mut State, number: u64, begin: &v1::BeginRequest) -> KvResult<Reply> {
        state.counters.begun += 1;
        let id = txn_id(&begin.txn_id)?;
        if begin.at != 0 && !begin.read_only {
            return Err(KvError::invalid("only read-only transactions read in the past"));
        }
        let txn = Txn {
            id,
            generation: state.generation,
            start: (begin.at != 0).then_some(begin.at),
            min_start: begin.min_start,
            read_only: begin.read_only,
            serializable: begin.isolation() == v1::Isolation::Serializable,
            writes: BTreeMap::new(),
            checked: Vec::new(),
            savepoints: Vec::new(),
            failed: None,
        };
        self.txns.insert(number, txn);
        Ok(Reply::Began(v1::BeginResponse {
            transaction: Bytes::new(),
            token: Some(token(id, 0).into()),
        }))
    }

    fn take(&mut self, state: &State, number: u64) -> KvResult<Txn> {
        self.txns
            .remove(&number)
            .filter(|txn| txn.generation == state.generation)
            .ok_or_else(|| not_found(number))
    }

    /// The open transaction, unless one of its writes failed.
    fn open(&mut self, generation: u64, number: u64) -> KvResult<&mut Txn> {
        let txn = self
            .txns
            .get_mut(&number)
            .filter(|txn| txn.generation == generation)
            .ok_or_else(|| not_found(number))?;
        txn.failed.take().map_or(Ok(txn), Err)
    }

    fn write(&mut self, state: &State, number: u64, op: Op) {
        let current = state.generation;
        let Some(txn) = self.txns.get_mut(&number).filter(|txn| txn.generation == current) else {
            return;
        };
        let done = match op {
            Op::Put(put) => Store::write(txn, Key(put.key), Some(put.value)),
            Op::Delete(delete) => Store::write(txn, Key(delete.key), None),
            Op::Savepoint(savepoint) => {
                txn.savepoints.retain(|(name, _)| *name != savepoint.name);
                txn.savepoints.push((savepoint.name, txn.writes.clone()));
                Ok(())
            }
            Op::RollbackTo(savepoint) => roll_back_to(txn, &savepoint.name),
            _ => Ok(()),
        };
        if let Err(error) = done {
            txn.failed.get_or_insert(error);
        }
    }

    fn page(&mut self, state: &mut State, scan: u64) -> KvResult<Reply> {
        state.counters.pages += 1;
        let pages = self
            .scans
            .get_mut(&scan)
            .ok_or_else(|| KvError::invalid("no such scan"))?;
        let take = pages.rows.len().min(state.page_rows);
        pages.count += take as u64;
        let rows: Vec<_> = pages.rows.drain(..take).collect();
        let last = pages.rows.is_empty();
        let page = v1::ScanPage {
            rows: if pages.count_only { vec![] } else { rows },
            count: pages.count,
            last,
            snapshot: None,
        };
        if last {
            self.scans.remove(&scan);
        }
        Ok(Reply::Page(page))
    }
}

fn read_op(state: &mut State, txn: &mut Txn, op: Op) -> KvResult<Reply> {
    let store = &mut state.store;
    match op {
        Op::Get(get) => {
            let found = store.get(txn, &Key(get.key), get.for_update)?;
            Ok(Reply::Value(value(found)))
        }
        Op::BatchGet(get) => {
            let values: KvResult<Vec<_>> = get
                .keys
                .into_iter()
                .map(|key| store.get(txn, &Key(key), get.for_update).map(value))
                .collect();
            Ok(Reply::Values(v1::BatchGetResponse {
                values: values?,
                snapshot: None,
            }))
        }
        Op::DeleteRange(delete) => {
            let range = range_from_bytes(delete.start, delete.end);
            let rows = store.rows(txn, &range, false)?;
            let deleted = rows.len() as u64;
            for (key, _, _) in rows {
                Store::write(txn, key, None)?;
            }
            Ok(Reply::Deleted(v1::DeleteRangeResponse { deleted }))
        }
        _ => Err(KvError::invalid("an operation that the fake does not know")),
    }
}

fn scan(state: &mut State, txn: &mut Txn, request: v1::ScanRequest) -> KvResult<Pages> {
    let range = range_from_bytes(request.start, request.end);
    let mut rows = state.store.rows(txn, &range, request.for_update)?;
    rows.retain(|(_, value, _)| request.predicates.iter().all(|test| holds(test, value)));
    if request.reverse {
        rows.reverse();
    }
    if request.limit > 0 {
        rows.truncate(usize::try_from(request.limit).unwrap_or(usize::MAX));
    }
    let row = |(key, value, timestamp): (Key, Bytes, u64)| v1::Row {
        key: key.0,
        value: if request.keys_only { Bytes::new() } else { value },
        timestamp,
    };
    Ok(Pages {
        rows: rows.into_iter().map(row).collect(),
        count: 0,
        count_only: request.count_only,
    })
}

fn holds(test: &v1::Predicate, value: &[u8]) -> bool {
    let operand = test.operand.as_ref();
    match test.op() {
        Compare::Unspecified => true,
        Compare::Prefix => value.starts_with(operand),
        Compare::Contains => {
            operand.is_empty() || value.windows(operand.len()).any(|window| window == operand)
        }
        Compare::Equal => value == operand,
        Compare::NotEqual => value != operand,
        Compare::Less => value < operand,
        Compare::LessOrEqual => value <= operand,
        Compare::Greater => value > operand,
        Compare::GreaterOrEqual => value >= operand,
    }
}

fn roll_back_to(txn: &mut Txn, name: &str) -> KvResult<()> {
    let place = txn.savepoints.iter().position(|(known, _)| known == name);
    let place = place.ok_or_else(|| KvError::invalid(format!("no savepoint named {name:?}")))?;
    txn.savepoints.truncate(place + 1);
    if let Some((_, writes)) = txn.savepoints.last() {
        txn.writes = writes.clone();
    }
    Ok(())
}

fn outcome(state: &mut State, question: &v1::OutcomeRequest) -> KvResult<Reply> {
    use v1::outcome_response::Outcome;
    state.counters.outcomes += 1;
    if let Some(error) = state.outcome_errors.pop_front() {
        return Err(error);
    }
    let token = question.token.as_ref();
    let token = token.ok_or_else(|| KvError::invalid("no token"))?;
    let committed = state.store.outcome(txn_id(&token.txn_id)?);
    let outcome = committed.map_or(Outcome::Aborted, |_| Outcome::Committed);
    Ok(Reply::Outcome(v1::OutcomeResponse {
        outcome: outcome.into(),
        commit_timestamp: committed.unwrap_or_default(),
    }))
}

fn commit(state: &mut State, id: u64, mut txn: Txn) -> After {
    let name = txn.id;
    let start = state.store.start(&mut txn).unwrap_or_default();
    let told = reply(id, Reply::Committing(token(name, start).into()));
    let done = |state: &mut State, txn| {
        let result = state.store.commit(txn);
        match result {
            Ok(commit_timestamp) => reply(
                id,
                Reply::Committed(v1::CommitResponse {
                    commit_timestamp,
                    token: Some(token(name, start).into()),
                    trace: None,
                }),
            ),
            Err(error) => failed(id, &error),
        }
    };
    finish(state, id, told, |state| done(state, txn))
}

fn execute(state: &mut State, id: u64, request: v1::ExecuteRequest) -> After {
    let hello = SessionReply::default();
    finish(state, id, hello, |state| match run(state, request) {
        Ok(executed) => reply(id, Reply::Executed(executed)),
        Err(error) => failed(id, &error),
    })
}

/// Commits, or does what the next fault says. An empty `told` is left out.
fn finish(
    state: &mut State,
    id: u64,
    told: SessionReply,
    commit: impl FnOnce(&mut State) -> SessionReply,
) -> After {
    let told: Vec<_> = Some(told)
        .filter(|told| told.reply.is_some())
        .into_iter()
        .collect();
    match state.faults.pop_front() {
        None | Some(Fault::None) => {
            let done = commit(state);
            After::Reply(told.into_iter().chain([done]).collect())
        }
        Some(Fault::LoseRequest) => After::Break(vec![]),
        Some(Fault::LoseReply) => {
            commit(state);
            After::Break(told)
        }
        Some(Fault::LoseTokenAndReply) => {
            commit(state);
            After::Break(vec![])
        }
        Some(Fault::Silence) => {
            commit(state);
            After::Reply(told)
        }
        Some(Fault::Refuse(error)) => After::Reply(told.into_iter().chain([failed(id, &error)]).collect()),
    }
}

fn run(state: &mut State, request: v1::ExecuteRequest) -> KvResult<v1::ExecuteResponse> {
    let id = txn_id(&request.txn_id)?;
    let mut txn = Txn {
        id,
        generation: state.generation,
        start: None,
        min_start: request.min_start,
        read_only: false,
        serializable: request.isolation() == v1::Isolation::Serializable,
        writes: BTreeMap::new(),
        checked: Vec::new(),
        savepoints: Vec::new(),
        failed: None,
    };
    for (index, condition) in (0_u64..).zip(request.preconditions) {
        let key = Key(condition.key);
        let found = state.store.get(&mut txn, &key, true)?;
        let holds = match condition.test {
            Some(Test::Exists(exists)) => found.is_some() == exists,
            Some(Test::ValueEquals(value)) => found.is_some_and(|(found, _)| found == value),
            Some(Test::TimestampEquals(at)) => found.is_some_and(|(_, timestamp)| timestamp == at),
            None => return Err(KvError::invalid("a precondition without a test")),
        };
        if !holds {
            return Err(KvError::PreconditionFailed { key, index });
        }
    }
    let mut values = Vec::new();
    for key in request.reads {
        values.push(value(state.store.get(&mut txn, &Key(key), false)?));
    }
    for mutation in request.mutations {
        Store::write(&mut txn, Key(mutation.key), mutation.value)?;
    }
    let start = state.store.start(&mut txn)?;
    Ok(v1::ExecuteResponse {
        values,
        commit_timestamp: state.store.commit(txn)?,
        token: Some(token(id, start).into()),
        trace: None,
    })
}

fn token(txn: TxnId, start: u64) -> CommitToken {
    CommitToken {
        txn,
        start: Timestamp(start),
        home: (start != 0).then_some(StreamId(1)),
    }
}

fn value(found: Option<(Bytes, u64)>) -> v1::GetResponse {
    let (value, timestamp) = found.unzip();
    v1::GetResponse {
        value,
        timestamp: timestamp.unwrap_or_default(),
        snapshot: None,
    }
}

fn reply(id: u64, reply: Reply) -> SessionReply {
    SessionReply {
        id,
        reply: Some(reply),
    }
}

fn failed(id: u64, error: &KvError) -> SessionReply {
    reply(id, Reply::Error(error.to_proto()))
}

fn not_found(number: u64) -> KvError {
    KvError::TransactionNotFound {
        txn: number.to_string(),
    }
}
