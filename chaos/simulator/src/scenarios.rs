//! What is played. Random schedules alone miss what needs three things in a row, so each row of the tables of failures
//! that a design was made for has a scenario of its own.

mod address;
mod certificates;
mod double_failures;
mod durability;
mod leases;
mod membership;
mod operators;
mod random;
mod snapshots;
mod transfers;
mod witness;

use std::time::Duration;

use crate::clock::ms;
use crate::invariants::{AddressConverges, Liveness};
use crate::world::{Conditions, World};
use crate::{A, B, NODES};

/// A play for one world.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// As on the command line.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub about: &'static str,
    pub(crate) conditions: fn(u64) -> Conditions,
    pub(crate) play: fn(&mut World),
}

/// The random schedule first, then the directed ones.
pub const SCENARIOS: &[Scenario] = &[
    random::RANDOM,
    leases::RESTART_FORGETS_PROMISE,
    leases::CRASH,
    leases::ISOLATED_ACTIVE,
    leases::PAUSED_OWNER_WAKES,
    leases::STALLED_STANDBY_DISK,
    leases::ANSWER_ON_ONE_DISK,
    transfers::PLANNED,
    transfers::BEHIND_THE_ENGINE,
    transfers::FAILED,
    transfers::CUT_AFTER,
    witness::STANDBY_DOWN_ACTIVE_DOWN_STANDBY_BOOTS,
    witness::DATA_LINK_DIES_BEFORE_ACTIVE,
    witness::LONGER_BUT_OLDER_LOG,
    double_failures::STANDBY_THEN_WITNESS,
    double_failures::WITNESS_THEN_STANDBY,
    double_failures::ACTIVE_THEN_STANDBY_THEN_BACK,
    snapshots::REORDERED_APPENDS,
    snapshots::FOLLOWER_FAR_BEHIND,
    snapshots::STALLED_DISK_UNDER_A_SNAPSHOT,
    snapshots::SNAPSHOT_DURING_TAKEOVER,
    membership::STANDBY_LOSES_ITS_DISK,
    membership::WITNESS_LOSES_ITS_DISK,
    membership::ACTIVE_LOSES_ITS_DISK,
    membership::CHANGE_UNDER_LOAD,
    membership::WIPED_REPLICA_DOES_NOT_VOTE,
    certificates::CERTIFIED_DEATH,
    certificates::REPLAYED_CERTIFICATE,
    durability::POWER_CUTS_IN_MEMORY_MODE,
    durability::UNCLEAN_MEMORY_RESTART,
    operators::LAST_MAN_STANDING,
    operators::LAST_MAN_STANDING_REVERSED,
    operators::FORCE_STALE_TAKEOVER,
    address::LATE_EFFECT_OF_A_FORMER_OWNER,
    address::API_AWAY_DURING_TAKEOVER,
];

/// The scenario of a name.
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

fn standard(_seed: u64) -> Conditions {
    Conditions::default()
}

/// Somebody serves; `a` does in the end, and everybody has caught up.
fn settle(world: &mut World) {
    let elected = world.run_until(ms(600), |world| world.serving().is_some());
    world.expect(elected.is_some(), |_| "nobody was elected".to_owned());
    if world.serving() == Some(B) {
        world.hand_over(B);
        let took = world.run_until(ms(200), |world| world.is_serving(A));
        world.expect(took.is_some(), |_| "b did not hand over".to_owned());
    }
    for _ in 0..10 {
        let _ = world.propose(A, 100);
        world.run_for(ms(5));
    }
    world.run_for(ms(400));
}

/// Some changes in a row, through whoever leads.
fn changes(world: &mut World, node: usize, count: usize, every: Duration) {
    for _ in 0..count {
        // Refused by a node that is gone or follows.
        let _ = world.propose(node, 100);
        world.run_for(every);
    }
}

/// A node must serve within the bound.
fn expect_serving(world: &mut World, node: usize, within: Duration) -> Option<Duration> {
    let took = world.run_until(within, |world| world.is_serving(node));
    world.expect(took.is_some(), |world| {
        let leader = world.leader();
        format!("node {node} does not serve after {within:?}; the leader is {leader:?}")
    });
    took
}

/// Everybody must become a voter that holds everything.
fn expect_whole(world: &mut World) {
    let whole = world.run_until(Liveness::WHOLE, |world| world.is_whole());
    if whole.is_none() {
        let statuses = NODES.map(|node| world.status(node));
        world.violate(
            Liveness::NAME,
            format!("the pair does not become whole: {statuses:?}"),
        );
    }
    world.run_for(ms(100));
}

/// Everything becomes whole; the pair must serve, take proposals, agree, have its address right, and let every call
/// end as its phones meant it to.
fn recover(world: &mut World) {
    world.repair();
    let served = world.run_until(Liveness::BOUND, |world| world.serving().is_some());
    if served.is_none() {
        let statuses = [A, B].map(|node| world.status(node));
        return world.violate(Liveness::NAME, format!("nobody serves: {statuses:?}"));
    }
    expect_whole(world);
    let before = world.counts.confirmed;
    for node in [A, B] {
        let _ = world.propose(node, 20);
    }
    let committed = world.run_until(Liveness::BOUND, |world| world.counts.confirmed > before);
    if committed.is_none() {
        return world.violate(Liveness::NAME, "nothing commits".to_owned());
    }
    let converged = world.run_until(AddressConverges::BOUND, World::address_is_right);
    if converged.is_none() {
        return world.violate(AddressConverges::NAME, "it does not".to_owned());
    }
    world.stop_calls();
    // The longest: a call that nobody reached rings its time, and then its last transactions give up after 64*T1.
    let over = world.run_until(ms(30_000), |world| world.calls_over());
    if over.is_none() {
        return world.violate(Liveness::NAME, "calls do not end".to_owned());
    }
    // The last call's record is on its way into the log.
    world.run_for(ms(50));
    let settled = world.run_until(ms(1000), |world| world.settled());
    if settled.is_none() {
        return world.violate("no conflicting commit", "the tables differ".to_owned());
    }
    world.finish();
}
