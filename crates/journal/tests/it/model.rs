//! Random owners against one node whose disk fills up now and then, compared with a plain list.

use std::sync::Arc;

use meridian_journal::Config;
use meridian_journal::files::Fault;
use meridian_rpc::internal::append_reply::Result as Reply;
use meridian_rpc::internal::{AppendRequest, Entry};
use proptest::prelude::*;

use crate::support::*;

#[derive(Clone, Debug)]
struct Step {
    is_full: bool,
    /// The other replicas hold everything already, so that what this one holds is committed.
    is_committing: bool,
    messages: Vec<Message>,
    payload_bytes: usize,
    is_restart: bool,
}

/// One of several messages that are sent without waiting for replies.
#[derive(Clone, Debug)]
struct Message {
    /// It comes from the owner of the next epoch.
    is_takeover: bool,
    /// How many of the log's last entries that owner does not have.
    replaced: usize,
    added: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let message = (prop::bool::weighted(0.3), 0_usize..4, 0_usize..4);
    let message = message.prop_map(|(is_takeover, replaced, added)| Message {
        is_takeover,
        replaced,
        added,
    });
    let flags = (
        prop::bool::weighted(0.4),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.2),
    );
    let messages = prop::collection::vec(message, 1..5);
    (flags, messages, 0_usize..3_000).prop_map(
        |((is_full, is_committing, is_restart), messages, payload_bytes)| Step {
            is_full,
            is_committing,
            messages,
            payload_bytes,
            is_restart,
        },
    )
}

fn last(log: &[Entry]) -> (u64, u64) {
    log.last().map_or((0, 0), |entry| (entry.epoch, entry.lsn))
}

/// The owner's next append on the log that it believes in, which becomes the log afterwards. Nothing up to `committed` is replaced.
fn next_append(
    believed: &mut Vec<Entry>,
    epoch: u64,
    committed: u64,
    message: &Message,
    step: &Step,
) -> AppendRequest {
    if message.added > 0 && message.is_takeover {
        // An owner chooses the log that it continues once, when it begins.
        let is_open = |entry: &&Entry| entry.epoch < epoch && entry.lsn > committed;
        let older = believed
            .iter()
            .rev()
            .take(message.replaced)
            .take_while(is_open)
            .count();
        believed.truncate(believed.len() - older);
    }
    let prev = last(believed);
    let payload = vec![1; step.payload_bytes];
    let entries: Vec<Entry> = (1..=message.added as u64)
        .map(|offset| commit(epoch, prev.1 + offset, &payload))
        .collect();
    believed.extend(entries.clone());
    append(
        epoch,
        prev,
        entries,
        if step.is_committing { 1_000_000 } else { 0 },
    )
}

/// What a correct node holds after it accepted the append.
fn apply(log: &mut Vec<Entry>, append: &AppendRequest) {
    let prev = append.prev.unwrap();
    assert_eq!(
        last(&log[..prev.lsn as usize]),
        (prev.epoch, prev.lsn),
        "accepted without the entry before it"
    );
    if !append.entries.is_empty() {
        log.truncate(prev.lsn as usize);
        log.extend(append.entries.clone());
    }
}

async fn run(steps: Vec<Step>, group_bytes: usize, tail_bytes: usize) {
    let config = Config {
        group_bytes,
        tail_bytes,
        ..small_config()
    };
    let mut files = registered("j1", 1);
    let mut world = World::default();
    let mut node = world
        .try_start(config.clone(), "j1", Arc::new(files.clone()))
        .await
        .unwrap();
    let (mut link, mut epoch) = (Link::open(world.client("j1"), "a1").await, 1);
    let mut log: Vec<Entry> = Vec::new();
    let (mut committed, mut known_committed) = (0, 0);
    for step in steps {
        let room = if step.is_full {
            files.used_bytes()
        } else {
            u64::MAX
        };
        files.set_fault(Fault {
            capacity_bytes: Some(room),
            ..Fault::default()
        });
        let mut believed = log.clone();
        let mut appends: Vec<AppendRequest> = Vec::new();
        for message in &step.messages {
            epoch += u64::from(message.is_takeover);
            // What an earlier message of this step may commit is not replaced either.
            let keep = if step.is_committing && !appends.is_empty() {
                u64::MAX
            } else {
                committed
            };
            appends.push(next_append(&mut believed, epoch, keep, message, &step));
        }
        for append in &appends {
            link.send(vec![append.clone()], vec![]).await;
        }
        for append in &appends {
            match link.reply().await {
                Reply::Matched(matched) => {
                    apply(&mut log, append);
                    // An entry of the append's own epoch commits what is before it. The node may not notice
                    // when it hears of a higher epoch first.
                    if step.is_committing && matched.epoch == append.epoch && append.epoch == epoch {
                        committed = committed.max(matched.lsn);
                        known_committed = committed;
                    }
                }
                Reply::Invalid(why) => assert!(step.is_full && why.contains("disk full"), "{why}"),
                Reply::Mismatch(_) => assert!(step.is_full, "only a refused append can be missing"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(world.read_all("j1").await, log);
        let known = world.state("j1").await.committed_lsn;
        // Also a refused append tells what the others have, and so what is committed of the entries that are here.
        let highest = if step.is_committing {
            log.len() as u64
        } else {
            committed
        };
        assert!(
            known_committed <= known && known <= highest,
            "{known_committed} <= {known} <= {highest}"
        );
        (committed, known_committed) = (committed.max(known), known);
        if step.is_restart {
            files = files.after_power_loss(|| false);
            world = World::default();
            known_committed = 0;
            drop(node);
            node = world
                .try_start(config.clone(), "j1", Arc::new(files.clone()))
                .await
                .unwrap();
            link = Link::open(world.client("j1"), "a1").await;
            assert_eq!(world.read_all("j1").await, log);
        }
    }
    let expected = log.iter().map(|entry| entry.timestamp).max().unwrap_or_default();
    assert_eq!(world.state("j1").await.last_commit, expected);
    drop(node);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn a_node_holds_exactly_what_it_accepted_whenever_its_disk_is_full(
        steps in prop::collection::vec(step(), 1..12),
        is_grouped in any::<bool>(),
        is_in_memory in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps, if is_grouped { 8 << 20 } else { 1 }, if is_in_memory { 8 << 20 } else { 0 }));
    }
}
