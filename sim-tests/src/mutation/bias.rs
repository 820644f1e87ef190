//! What a run needs for a broken rule to matter: the faults and settings against which the rule stands.

use std::time::Duration;

use meridian_types::mutation::Rule;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Mutation, World};
use crate::cluster::Role;
use crate::plan::{Changes, ClientHost, Clients, Faults, Kind, MessageFaults, Plan, Ranges, Shards};

/// A change of the plans of a mutation's runs.
#[derive(Clone, Copy)]
pub struct Bias {
    /// What it changes, for the table.
    pub says: &'static str,
    /// Changes it.
    pub apply: fn(&mut Plan),
}

impl Mutation {
    /// The mutation's bias, if it needs one.
    pub fn bias(self) -> Option<Bias> {
        let (says, apply): (_, fn(&mut Plan)) = match self {
            Self::World(World::SyncLies) | Self::Rule(Rule::SyncBeforeAck) => {
                ("power losses, nothing unsynced survives", power_losses)
            }
            Self::World(World::CommitWaitSkipped | World::UncertaintyWaitSkipped)
            | Self::Rule(Rule::CommitWait | Rule::UncertaintyWait | Rule::StartLatest) => {
                ("clocks far apart that jump, a lead, busy clients", clocks_apart)
            }
            Self::Rule(Rule::PreviousPosition) => (
                "owners cut off with one journal node each, while others take over again and again",
                left_behind,
            ),
            Self::Rule(Rule::TrimEarly) => ("trimming, in small segments", trimming),
            Self::Rule(Rule::HeldKeys) => ("storage nodes that share the keys", shared_keys),
            Self::Rule(Rule::WindowLow) => ("memory for few recent writes", little_memory),
            Self::Rule(Rule::TakeoverFloor | Rule::ClosureLease) => (
                "a tuned lead, far clocks, a short lease, adjudicators die",
                fast_takeovers,
            ),
            Self::Rule(Rule::ReleaseFloor) => (
                "a tuned lead, far clocks, adjudicators are restarted",
                fast_handovers,
            ),
            Self::Rule(Rule::HandOverWindow | Rule::HandOverPosition) => (
                "adjudicators are restarted and get their ranges back at once, long transactions",
                moves,
            ),
            Self::Rule(
                Rule::PromisedWrites
                | Rule::HeldReads
                | Rule::PrepareClosure
                | Rule::PrepareOutcome
                | Rule::HomeFloor
                | Rule::OutcomeDependency,
            ) => ("many ranges through what clients do", across),
            Self::Rule(Rule::HomePromise) => (
                "many ranges through what clients do, votes are late, a short lease",
                across_late,
            ),
            Self::Rule(Rule::OutcomeFloor) => (
                "many ranges through what clients do, clocks far apart that jump",
                across_clocks,
            ),
            Self::Rule(Rule::AttemptName) => (
                "many ranges through what clients do, a slow network, ends of attempts are late",
                across_slow,
            ),
            Self::Rule(
                Rule::MapVersion | Rule::SealedStream | Rule::OriginFloor | Rule::SourceDependency,
            ) => ("many ranges, split and merged again and again", restless),
            Self::Rule(Rule::InheritedBars) => (
                "many ranges, split and merged again and again, calls come late, connections break",
                restless_calls,
            ),
            Self::Rule(Rule::RaiseFloor) => (
                "many ranges through what clients do, adjudicators die",
                across_takeovers,
            ),
            Self::Rule(Rule::OutcomesRecovered | Rule::TakeoverWindow | Rule::AtomicApply) => {
                ("crashes", crashes)
            }
            Self::Rule(Rule::DurableBar) => (
                "clients that ask during their commits, owners lose the journal",
                doubts,
            ),
            Self::Rule(Rule::AttemptBar) => ("connections break, a slow network", late_requests),
            Self::Rule(
                Rule::CurrentEpoch | Rule::FencePromise | Rule::StaleAppend | Rule::LogChoice | Rule::Quorum,
            ) => (
                "one takeover after the other, each with part of the journal",
                takeovers,
            ),
            _ => return None,
        };
        Some(Bias { says, apply })
    }
}

/// Ranges go from owner to owner, with the state of each.
fn trimming(plan: &mut Plan) {
    plan.trim_min_age_ms = Some(1_000);
    plan.segment_bytes = 4 << 10;
}

fn moves(plan: &mut Plan) {
    plan.latency = (Duration::ZERO, Duration::from_millis(20));
    plan.think = Duration::from_millis(5);
    plan.keys = 3;
    plan.recent_bytes = 1 << 20;
    plan.hand_over_bytes = 1 << 20;
    plan.return_after_ms = 200;
    plan.faults = Faults {
        restart: Some(Duration::from_millis(700)),
        max_down: 1,
        stopped: &[Role::Adjudicator],
        ..Faults::default()
    };
}

/// Most transactions touch several ranges.
fn across(plan: &mut Plan) {
    plan.ranges = Ranges::crossing(&plan.clients, plan.keys);
    plan.think = Duration::from_millis(5);
}

/// Votes come when the promises of others are past.
fn across_late(plan: &mut Plan) {
    across(plan);
    plan.latency = (Duration::ZERO, Duration::from_millis(5));
    plan.lease_ms = 100;
    plan.faults = Faults {
        messages: Some(MessageFaults {
            lost: 0.0,
            late: 0.4,
            twice: 0.0,
        }),
        ..Faults::default()
    };
}

/// An outcome comes to a participant whose clock is behind, before its time.
fn across_clocks(plan: &mut Plan) {
    clocks_apart(plan);
    plan.lead_ms = Some(0);
    plan.clients = Clients::checking();
    across(plan);
    plan.faults = Faults {
        clock_jump: Some(Duration::from_millis(500)),
        ..Faults::default()
    };
}

/// The end of an attempt comes when the next one is under way.
fn across_slow(plan: &mut Plan) {
    plan.keys = 3;
    across(plan);
    plan.latency = (Duration::from_millis(10), Duration::from_millis(50));
    plan.lease_ms = 3_000;
    plan.faults = Faults {
        messages: Some(MessageFaults {
            lost: 0.05,
            late: 0.4,
            twice: 0.4,
        }),
        ..Faults::default()
    };
}

/// Ranges come and go.
fn restless(plan: &mut Plan) {
    across(plan);
    plan.changes = Some(Changes::restless(&plan.clients, plan.keys));
}

/// The same; and calls that broke, about which their clients have asked, are executed afterwards.
fn restless_calls(plan: &mut Plan) {
    plan.clients = Clients::calling();
    restless(plan);
    plan.latency = (Duration::ZERO, Duration::from_millis(5));
    plan.faults = Faults {
        cut: Some(Duration::from_millis(400)),
        messages: Some(MessageFaults {
            lost: 0.0,
            late: 0.4,
            twice: 0.0,
        }),
        ..Faults::default()
    };
}

fn across_takeovers(plan: &mut Plan) {
    across(plan);
    plan.faults = Faults {
        crash: Some(Duration::from_millis(800)),
        max_down: 1,
        stopped: &[Role::Adjudicator],
        ..Faults::default()
    };
}

fn power_losses(plan: &mut Plan) {
    plan.faults.power_loss = Some(Duration::from_secs(2));
    plan.faults.unsynced_survives = 0.0;
}

fn clocks_apart(plan: &mut Plan) {
    plan.clocks_beyond = false;
    plan.faults.clock_jump = Some(Duration::from_secs(1));
    plan.clock_bound = Duration::from_millis(50);
    plan.lead_ms = Some(40);
    plan.latency = (Duration::ZERO, Duration::from_millis(5));
    plan.think = Duration::from_millis(5);
    plan.keys = 3;
}

fn shared_keys(plan: &mut Plan) {
    let rng = &mut StdRng::seed_from_u64(plan.seed);
    plan.shards = Shards::divided(rng, &plan.shape, &plan.regions, &plan.clients, plan.keys);
}

fn little_memory(plan: &mut Plan) {
    plan.recent_bytes = 1 << 10;
}

/// An owner that has measured its clock's bound and the journal closes far ahead; its successor, which has not, begins
/// without a lead.
fn tuned_lead(plan: &mut Plan) {
    plan.latency = (Duration::ZERO, Duration::from_millis(2));
    plan.clock_bound = Duration::from_millis(50);
    plan.lead_ms = None;
    plan.think = Duration::from_millis(5);
    plan.faults = Faults {
        clock_jump: Some(Duration::from_secs(1)),
        max_down: 1,
        stopped: &[Role::Adjudicator],
        ..Faults::default()
    };
}

fn fast_takeovers(plan: &mut Plan) {
    tuned_lead(plan);
    plan.faults.crash = Some(Duration::from_millis(800));
    plan.lease_ms = 100;
}

fn fast_handovers(plan: &mut Plan) {
    tuned_lead(plan);
    plan.faults.restart = Some(Duration::from_secs(1));
}

fn crashes(plan: &mut Plan) {
    plan.faults.crash = Some(Duration::from_millis(700));
}

/// Many ask for outcomes while their commits are under way, and owners lose the journal but not their callers.
fn doubts(plan: &mut Plan) {
    plan.latency = (Duration::ZERO, Duration::from_millis(20));
    plan.think = Duration::from_millis(5);
    plan.lease_ms = 3_000;
    let askers = (11..=14).map(|number| (Kind::Mortals, format!("{}-{number}", Kind::Mortals)));
    plan.clients.hosts.push(ClientHost {
        workers: askers.collect(),
        ..ClientHost::plain()
    });
    plan.faults = Faults {
        crash: Some(Duration::from_secs(1)),
        partition: Some(Duration::from_millis(800)),
        max_down: 1,
        stopped: &[Role::Query, Role::Adjudicator],
        parted: &[Role::Adjudicator, Role::Journal],
        ..Faults::default()
    };
}

/// What is on its way when a connection breaks may arrive after the question about it on the next.
fn late_requests(plan: &mut Plan) {
    plan.latency = (Duration::ZERO, Duration::from_millis(60));
    plan.think = Duration::from_millis(5);
    plan.faults = Faults {
        cut: Some(Duration::from_millis(500)),
        ..Faults::default()
    };
}

/// One takeover after the other, each with part of the journal.
fn takeovers(plan: &mut Plan) {
    plan.latency = (Duration::from_millis(1), Duration::from_millis(20));
    plan.think = Duration::from_millis(5);
    // A former owner goes on for long with the node that it has left.
    plan.lease_ms = 3_000;
    plan.faults = Faults {
        crash: Some(Duration::from_millis(600)),
        partition: Some(Duration::from_millis(1_200)),
        max_down: 1,
        stopped: &[Role::Adjudicator],
        parted: &[Role::Adjudicator, Role::Journal],
        ..Faults::default()
    };
}

/// A former owner and one journal node write on for themselves, for long; elsewhere owners follow one upon the other, none of
/// them long enough to write as much as stands there.
fn left_behind(plan: &mut Plan) {
    takeovers(plan);
    plan.latency = (Duration::ZERO, Duration::from_millis(5));
    plan.lease_ms = 300;
    plan.faults.crash = None;
    plan.faults.partition = Some(Duration::from_secs(4));
    plan.faults.one_of_each = true;
}
