//! Fencing a majority (section 7).

use meridian_protocol::fencing::FenceAnswer;
use meridian_protocol::takeover::{FenceOutcome, FenceRound, Fenced, recovered_floor};
use meridian_rpc::internal::FenceResponse;
use meridian_types::{DiskId, Epoch, Lsn, Position, StreamId, Timestamp};

use crate::context::Context;
use crate::journals::{self, GRACE};

/// Confirmations after which a round is given up. One is enough unless disks are being lost right now.
const MAX_CONFIRMS: usize = 3;

/// A fence that a majority answered.
pub(crate) struct Fence {
    pub(crate) epoch: Epoch,
    pub(crate) fenced: Fenced,
    /// The end of each replica's log, where it answered.
    pub(crate) lasts: Vec<Option<Position>>,
    /// R18, from the log that is adopted.
    pub(crate) floor: Timestamp,
}

/// Fences with `epoch`. `rejoining` is what was known before.
pub(super) async fn win(
    ctx: &Context,
    stream: StreamId,
    epoch: Epoch,
    rejoining: Option<(usize, DiskId)>,
) -> Result<Fence, String> {
    let replicas = ctx.journals.len();
    let mut round = FenceRound::new(epoch, replicas, ctx.quorum(), rejoining);
    let calls = (0..replicas).map(|replica| journals::fence(ctx, replica, stream, epoch));
    // A disk is rebuilt only by whom all others have answered, however far away they are.
    let grace = match rejoining {
        Some(_) => ctx.config.call_timeout(),
        None => GRACE,
    };
    // A node that is being rebuilt promises nothing: beside it a majority has to answer.
    let votes = |answer: &FenceResponse| !answer.rejoining;
    let answers = journals::gather(calls.collect(), votes, ctx.quorum(), grace).await;
    for (replica, answer) in answers.iter().enumerate() {
        if let Some(answer) = answer {
            note(&mut round, replica, answer);
        }
    }
    for _ in 0..MAX_CONFIRMS {
        match round.outcome() {
            FenceOutcome::Pending => return Err("no majority of the journal nodes answers".to_owned()),
            FenceOutcome::Lost { promised } => return Err(format!("epoch {promised} is promised already")),
            FenceOutcome::Confirm(open) => confirm(ctx, stream, &mut round, open).await,
            FenceOutcome::Won(fenced) => return won(epoch, fenced, &answers),
        }
    }
    Err("the journal nodes did not confirm their promises".to_owned())
}

fn note(round: &mut FenceRound, replica: usize, answer: &FenceResponse) {
    let disk = DiskId::from_slice(&answer.disk_id);
    match disk {
        Some(disk) if answer.refused_by_epoch == 0 && !answer.rejoining => {
            let answer = FenceAnswer {
                last: position(answer),
                committed: Lsn(answer.committed_lsn),
            };
            round.on_answer(replica, disk, answer);
        }
        _ => round.on_refused(replica, Epoch(answer.refused_by_epoch)),
    }
}

/// Asks the replicas that answered whether they still keep the promise, on the same disk.
async fn confirm(ctx: &Context, stream: StreamId, round: &mut FenceRound, open: Vec<usize>) {
    let calls = open.iter().map(|replica| journals::state(ctx, *replica, stream));
    let answers = journals::gather(calls.collect(), |_| true, open.len(), GRACE).await;
    for (replica, answer) in open.iter().zip(answers) {
        let Some(answer) = answer else { continue };
        let promised = answer
            .streams
            .iter()
            .find(|state| state.stream == stream.0)
            .map_or(Epoch(0), |state| Epoch(state.promised));
        let disk = DiskId::from_slice(&answer.disk_id).filter(|_| !answer.rejoining);
        round.on_confirmed(*replica, promised, disk);
    }
}

fn won(epoch: Epoch, fenced: Fenced, answers: &[Option<FenceResponse>]) -> Result<Fence, String> {
    let adopted = answers.get(fenced.adopt).and_then(Option::as_ref);
    let Some(adopted) = adopted else {
        return Err("the replica to adopt from did not answer".to_owned());
    };
    let released = (adopted.released_floor > 0).then_some(Timestamp(adopted.released_floor));
    let accepted = |answer: &Option<FenceResponse>| {
        let answer = answer.as_ref()?;
        (answer.refused_by_epoch == 0 && !answer.rejoining).then(|| position(answer))
    };
    Ok(Fence {
        epoch,
        fenced,
        lasts: answers.iter().map(accepted).collect(),
        floor: recovered_floor(
            Timestamp(adopted.lease_end),
            Timestamp(adopted.last_commit),
            released,
        ),
    })
}

fn position(answer: &FenceResponse) -> Position {
    answer.last.map(Position::from).unwrap_or_default()
}
