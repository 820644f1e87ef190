//! What each operation of a session does.

use std::sync::Arc;

use futures::FutureExt;
use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{BeginRequest, DeleteRangeResponse, RollbackResponse, ScanNext, SessionOp};
use tokio::time::Instant;

use super::Session;
use super::output::Output;
use super::table::{Done, Part, ScanSlot};
use crate::commit::CommitStep;
use crate::figures::Operation;
use crate::processor::Processor;
use crate::retry::deadline_in_ms;
use crate::scan::{Scan, ScanSpec};
use crate::txn::Txn;
use crate::unary::{commit_response, delete_range_spec, outcome_token};

/// Whether an operation waits for all earlier ones of its transaction, and later ones for it.
fn is_exclusive(op: &SessionOp) -> bool {
    matches!(op.op, Some(Op::Commit(_) | Op::DeleteRange(_)))
}

/// What an operation that was started leaves to be waited for.
type Work = futures::future::BoxFuture<'static, KvResult<Reply>>;

impl Session {
    /// Starts an operation, or queues it behind those of its transaction that it must wait for.
    pub(super) fn dispatch(&mut self, op: SessionOp) {
        let SessionOp {
            id, txn, timeout_ms, ..
        } = op;
        match op.op {
            None => self.answer(
                id,
                Err(KvError::invalid(
                    "an operation of the session names nothing to do",
                )),
            ),
            Some(Op::Begin(begin)) => {
                self.end_if_held_up(&begin.txn_id);
                self.begin(id, txn, begin);
            }
            Some(Op::Execute(execute)) => {
                self.end_if_held_up(&execute.txn_id);
                let processor = self.processor.clone();
                let deadline = deadline_in_ms(timeout_ms);
                self.run_free(id, Operation::Execute, async move {
                    processor.execute(execute, deadline).await.map(Reply::Executed)
                });
            }
            Some(Op::Outcome(outcome)) => {
                let processor = self.processor.clone();
                let deadline = deadline_in_ms(timeout_ms);
                self.run_free(id, Operation::Outcome, async move {
                    processor
                        .outcome(outcome_token(&outcome)?, deadline)
                        .await
                        .map(Reply::Outcome)
                });
            }
            Some(Op::ScanNext(next)) => self.scan_next(id, timeout_ms, &next),
            Some(_) if self.table.may_start(txn, is_exclusive(&op)) => self.start(op),
            Some(_) => self.table.queue(txn, op),
        }
    }

    /// A client makes its ids from the time that it was told when the session began. If that is off by minutes (this
    /// node's clock was set), every further id would be refused: it is to open a new session.
    fn end_if_held_up(&mut self, txn_id: &[u8]) {
        if self.processor.is_held_up(txn_id) {
            tracing::warn!("an id made minutes ago by itself: its session is ended");
            self.input_ended = true;
        }
    }

    /// Starts what waited in a transaction's queue, as far as it may.
    pub(super) fn start_waiting(&mut self, txn: u64) {
        while let Some(op) = self.table.next_waiting(txn, is_exclusive) {
            self.start(op);
        }
        self.table.forget_if_ended(txn);
    }

    /// Puts a reply on its way that needs nothing to be waited for.
    fn answer(&mut self, id: u64, result: KvResult<Reply>) {
        let output = self.output.clone();
        self.running.push(
            async move {
                Done {
                    txn: 0,
                    generation: u64::MAX,
                    part: Part::Nothing,
                    answered: output.answer(id, result).await,
                }
            }
            .boxed(),
        );
    }

    /// Runs an operation that belongs to no transaction of the session.
    fn run_free(
        &mut self,
        id: u64,
        operation: Operation,
        work: impl Future<Output = KvResult<Reply>> + Send + 'static,
    ) {
        let permit = match self.processor.admit() {
            Ok(permit) => permit,
            Err(error) => return self.answer(id, Err(error)),
        };
        let (output, processor) = (self.output.clone(), self.processor.clone());
        self.running.push(
            async move {
                let began = Instant::now();
                let result = work.await;
                processor.figures.time(Some(operation), began.elapsed());
                drop(permit);
                Done {
                    txn: 0,
                    generation: u64::MAX,
                    part: Part::Nothing,
                    answered: output.answer(id, result).await,
                }
            }
            .boxed(),
        );
    }

    fn begin(&mut self, id: u64, number: u64, request: BeginRequest) {
        let most = self.processor.config.session_transactions;
        if self.table.len() >= most {
            self.table.forget_ended();
        }
        let refused = if number == 0 {
            Some(KvError::invalid("a session's transactions are numbered from 1"))
        } else if self.table.get(number).is_some() {
            Some(KvError::invalid(format!(
                "transaction number {number} is in use in this session"
            )))
        } else if self.table.len() >= most {
            let what = format!("{most} transactions are open in this session, its limit");
            Some(KvError::overloaded(what, std::time::Duration::from_millis(100)))
        } else {
            None
        };
        if let Some(error) = refused {
            return self.answer(id, Err(error));
        }
        let begun = self.processor.begin(&request);
        let reply = begun.as_ref().map(|txn| Reply::Began(self.processor.begun(txn)));
        let reply = reply.map_err(Clone::clone);
        // One that did not begin is kept too: operations that are under way to it get the same answer.
        self.table.insert(number, begun);
        self.answer(id, reply);
    }

    /// Starts an operation of a transaction, in its turn.
    fn start(&mut self, op: SessionOp) {
        let exclusive = is_exclusive(&op);
        let SessionOp {
            id,
            txn: number,
            timeout_ms,
            op,
        } = op;
        let Some(op) = op else { return };
        let operation = Operation::of(&op);
        let txn = match self.table.get(number).map(|slot| slot.txn.clone()) {
            Some(Ok(txn)) => txn,
            Some(Err(error)) => return self.refuse(id, &op, error),
            None => {
                let txn = format!("number {number}");
                return self.refuse(id, &op, KvError::TransactionNotFound { txn });
            }
        };
        let deadline = deadline_in_ms(timeout_ms);
        let work = match op {
            Op::Put(put) => return pipelined(&txn, txn.write(put.key, Some(put.value))),
            Op::Delete(delete) => return pipelined(&txn, txn.write(delete.key, None)),
            Op::Savepoint(savepoint) => return pipelined(&txn, txn.savepoint(savepoint.name)),
            Op::RollbackTo(savepoint) => return pipelined(&txn, txn.rollback_to(&savepoint.name)),
            Op::Rollback(_) => {
                let rolled_back = txn.rollback();
                self.table.forget_if_ended(number);
                return self.answer(id, rolled_back.map(|()| Reply::RolledBack(RollbackResponse {})));
            }
            Op::Scan(scan) => {
                let opened = self.open_scan(id, number, &txn, scan);
                return match opened {
                    Ok(scan) => self.read_page(id, number, scan, deadline),
                    Err(error) => self.answer(id, Err(error)),
                };
            }
            Op::Commit(_) => self.commit(id, txn, deadline),
            read => self.read(id, read, txn, deadline),
        };
        match work {
            Ok(work) => self.run_in_txn(id, number, exclusive, operation, work),
            Err(error) => self.answer(id, Err(error)),
        }
    }

    /// Answers an operation that cannot be done, if it is one that is answered.
    fn refuse(&mut self, id: u64, op: &Op, error: KvError) {
        match op {
            Op::Put(_) | Op::Delete(_) | Op::Savepoint(_) | Op::RollbackTo(_) => {}
            _ => self.answer(id, Err(error)),
        }
    }

    /// Runs an operation of a transaction.
    fn run_in_txn(
        &mut self,
        id: u64,
        number: u64,
        exclusive: bool,
        operation: Option<Operation>,
        work: Work,
    ) {
        let generation = self.table.on_start(number, exclusive);
        let (output, processor) = (self.output.clone(), self.processor.clone());
        self.running.push(
            async move {
                let began = Instant::now();
                let result = work.await;
                processor.figures.time(operation, began.elapsed());
                Done {
                    txn: number,
                    generation,
                    part: if exclusive { Part::Exclusive } else { Part::Nothing },
                    answered: output.answer(id, result).await,
                }
            }
            .boxed(),
        );
    }

    fn read(&self, id: u64, op: Op, txn: Arc<Txn>, deadline: Instant) -> KvResult<Work> {
        let permit = self.processor.admit()?;
        let processor = self.processor.clone();
        Ok(match op {
            Op::Get(get) => {
                let issued = txn.issue_get(vec![get.key], get.for_update)?.numbered(id);
                async move {
                    let got = issued.run_one(&processor, deadline).await?;
                    drop(permit);
                    Ok(Reply::Value(got))
                }
                .boxed()
            }
            Op::BatchGet(get) => {
                let issued = txn.issue_get(get.keys, get.for_update)?.numbered(id);
                async move {
                    let got = issued.run_batch(&processor, deadline).await?;
                    drop(permit);
                    Ok(Reply::Values(got))
                }
                .boxed()
            }
            Op::DeleteRange(range) => {
                let spec = delete_range_spec(range)?;
                async move {
                    let deleted = processor.delete_range(&txn, spec, deadline).await?;
                    drop(permit);
                    Ok(Reply::Deleted(DeleteRangeResponse { deleted }))
                }
                .boxed()
            }
            _ => return Err(KvError::internal("not an operation of a transaction")),
        })
    }

    /// The token goes onto the stream before the commit is sent (R1).
    fn commit(&self, id: u64, txn: Arc<Txn>, deadline: Instant) -> KvResult<Work> {
        let processor = self.processor.clone();
        let output = self.output.clone();
        Ok(async move { commit(&processor, &output, id, &txn, deadline).await }.boxed())
    }

    fn open_scan(
        &self,
        id: u64,
        number: u64,
        txn: &Arc<Txn>,
        request: meridian_rpc::v1::ScanRequest,
    ) -> KvResult<Box<Scan>> {
        if self.scans.len() >= self.processor.config.session_scans {
            let what = format!("{} scans are open in this session, its limit", self.scans.len());
            return Err(KvError::overloaded(what, std::time::Duration::from_millis(100)));
        }
        if self.scans.contains_key(&id) {
            return Err(KvError::invalid(format!(
                "scan {id} of transaction {number} is open already"
            )));
        }
        Ok(Box::new(
            txn.issue_scan(ScanSpec::new(request)?, self.processor.reserve())?,
        ))
    }

    /// Reads the next page of a scan.
    fn read_page(&mut self, id: u64, number: u64, mut scan: Box<Scan>, deadline: Instant) {
        let permit = match self.processor.admit() {
            Ok(permit) => permit,
            Err(error) => {
                self.scans.remove(&id);
                return self.answer(id, Err(error));
            }
        };
        let slot = self.scans.entry(id).or_insert_with(|| ScanSlot {
            txn: number,
            scan: None,
            wanted: std::collections::VecDeque::new(),
        });
        slot.scan = None;
        let generation = self.table.on_start(number, false);
        let processor = self.processor.clone();
        let output = self.output.clone();
        self.running.push(
            async move {
                let began = Instant::now();
                let page = scan.next_page(&processor, deadline).await;
                processor.figures.time(Some(Operation::ScanPage), began.elapsed());
                drop(permit);
                let rest = page.as_ref().is_ok_and(|page| !page.last).then_some(scan);
                Done {
                    txn: number,
                    generation,
                    part: Part::Page(id, rest),
                    answered: output.answer(id, page.map(Reply::Page)).await,
                }
            }
            .boxed(),
        );
    }

    /// The client asks for the next page, perhaps before the last one was read, or gives the scan up.
    fn scan_next(&mut self, id: u64, timeout_ms: u64, next: &ScanNext) {
        if next.cancel {
            self.scans.remove(&next.scan);
            return;
        }
        let most = self.processor.config.session_operations;
        let Some(slot) = self.scans.get_mut(&next.scan) else {
            // After an error or the last page there is nothing more to answer; asking was premature.
            tracing::trace!(id, scan = next.scan, "a page of a scan that has ended");
            return;
        };
        match slot.scan.take() {
            Some(scan) => {
                let number = slot.txn;
                self.read_page(next.scan, number, Box::new(scan), deadline_in_ms(timeout_ms));
            }
            None if slot.wanted.len() < most => slot.wanted.push_back(timeout_ms),
            None => {
                self.scans.remove(&next.scan);
                let error = KvError::overloaded("too many pages asked for ahead", std::time::Duration::ZERO);
                self.answer(next.scan, Err(error));
            }
        }
    }

    /// Keeps a scan for its next page, or reads that at once when it was asked for already.
    pub(super) fn finish_part(&mut self, number: u64, part: Part) {
        let Part::Page(id, rest) = part else { return };
        let Some(slot) = self.scans.get_mut(&id) else {
            return;
        };
        match (rest, slot.wanted.pop_front()) {
            (None, _) => {
                self.scans.remove(&id);
            }
            (Some(scan), None) => slot.scan = Some(*scan),
            (Some(scan), Some(timeout_ms)) => self.read_page(id, number, scan, deadline_in_ms(timeout_ms)),
        }
    }
}

/// A write is not answered: its error is kept for the transaction's next read or commit.
fn pipelined(txn: &Txn, written: KvResult<()>) {
    if let Err(error) = written {
        txn.poison(error);
    }
}

async fn commit(
    processor: &Arc<Processor>,
    output: &Output,
    id: u64,
    txn: &Arc<Txn>,
    deadline: Instant,
) -> KvResult<Reply> {
    if let CommitStep::Ready(prepared) = processor.prepare_commit(txn, deadline).await? {
        if !output.send(id, Reply::Committing(prepared.token().into())).await {
            // Nobody knows the token: dropping what was prepared rolls the transaction back.
            return Err(KvError::Aborted {
                why: "its client takes no replies".to_owned(),
            });
        }
        processor.launch(prepared, deadline);
    }
    let committed = processor.commit_result(txn, deadline).await?;
    Ok(Reply::Committed(commit_response(txn, committed)))
}
