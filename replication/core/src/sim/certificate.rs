//! Deaths certified by a guard: released at once, and nothing else is.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::directed::{assert_sound, percentile, settled};
use super::{A, B, Conditions, Event, WITNESS, World, ms};
use crate::{Counters, Death, ReplicaId, Role, Slot};

/// When a guard sends its datagram, in milliseconds after the death.
const REPEATS_MS: [u64; 5] = [0, 2, 5, 10, 20];

impl World {
    /// A process crashes, and its guard certifies that.
    pub(super) fn die(&mut self, node: usize) -> Death {
        let death = self.death(node);
        self.crash(node);
        for other in others(node) {
            for repeat in REPEATS_MS {
                self.certify(node, other, death, ms(repeat));
            }
        }
        death
    }

    /// What the guard of a process would certify now.
    fn death(&self, node: usize) -> Death {
        let role = self.replica(node).map(|replica| replica.status().role);
        let epoch = match role {
            Some(Role::Leader { term }) => term,
            Some(Role::Follower { .. } | Role::Candidate { .. }) | None => 0,
        };
        Death {
            replica: World::id(node),
            epoch,
        }
    }

    fn certify(&mut self, from: usize, to: usize, death: Death, after: Duration) {
        let lost = self.conditions.cut.contains(&(from, to));
        let delay = after + self.micros(self.conditions.delay_us);
        if !lost {
            self.after(delay, Event::Certificate { node: to, death });
        }
    }

    fn counters(&self, node: usize) -> Counters {
        self.replica(node).unwrap().status().counters
    }
}

fn others(node: usize) -> impl Iterator<Item = usize> {
    [WITNESS, A, B].into_iter().filter(move |it| *it != node)
}

/// The election, two fdatasyncs, the lease: no timeout. Seen failing without `is_posthumous`, and with the dead leader
/// still taken for a standby that the witness's appends wait for (50th percentile 41 ms).
#[test]
fn a_certified_death_is_taken_over_in_milliseconds() {
    let mut times: Vec<_> = (0..200)
        .map(|seed| {
            let mut world = settled(seed, Conditions::default());
            let (active, standby) = if seed % 2 == 0 { (A, B) } else { (B, A) };
            if active == B {
                world.transfer(A, B).unwrap();
                world.run_for(ms(100));
            }
            world.run_for(Duration::from_micros(seed * 101));
            // On their way when it dies.
            for _ in 0..3 {
                world.propose(active, 100).unwrap();
            }
            world.run_for(Duration::from_micros(seed * 7));
            world.die(active);
            let took = world.run_until(ms(1000), |world| world.is_serving(standby));
            world.run_for(ms(50));
            assert_sound(&world);
            for survivor in others(active) {
                let counters = world.counters(survivor);
                assert_eq!(
                    counters.deaths_accepted, 1,
                    "seed {seed}, {survivor}: {counters:?}"
                );
                assert_eq!(
                    counters.deaths_replayed + counters.deaths_older_epoch,
                    REPEATS_MS.len() as u64 - 1,
                    "seed {seed}, {survivor}: {counters:?}"
                );
            }
            took.unwrap()
        })
        .collect();
    times.sort();
    let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
    eprintln!("takeover after a certified death, standard profile: p50 {p50:?}, p99 {p99:?}");
    assert!(p50 <= ms(10), "{p50:?}");
    assert!(p99 <= ms(25), "{p99:?}");
}

/// The standby asks a witness that does not know yet; it asks again at the next tick. Seen failing with the retry of
/// an ordinary candidate.
#[test]
fn a_witness_that_hears_of_the_death_later_costs_one_tick() {
    let mut times: Vec<_> = (0..200)
        .map(|seed| {
            let mut world = settled(seed, Conditions::default());
            world.run_for(Duration::from_micros(seed * 101));
            let death = world.death(A);
            world.crash(A);
            world.certify(A, B, death, Duration::ZERO);
            world.certify(A, WITNESS, death, ms(2));
            let took = world.run_until(ms(1000), |world| world.is_serving(B));
            assert_sound(&world);
            took.unwrap()
        })
        .collect();
    times.sort();
    let p99 = percentile(&times, 99);
    eprintln!("takeover when the witness hears of the death 2 ms later: p99 {p99:?}");
    assert!(p99 <= ms(20), "{p99:?}");
}

/// Everything that is not exactly the leader followed, in exactly the term it leads, changes nothing.
#[test]
fn only_the_exact_epoch_of_the_leader_followed_is_released() {
    let mut world = settled(1, Conditions::default());
    // A second term of `a`, so that there is an older one of the same replica.
    world.transfer(A, B).unwrap();
    world.run_for(ms(100));
    world.transfer(B, A).unwrap();
    world.run_for(ms(200));
    assert!(world.is_serving(A));
    let Death { replica, epoch } = world.death(A);
    let death = |replica, epoch| Death { replica, epoch };
    let next = ReplicaId::new(Slot::A, 2).unwrap();
    let wrong = [
        death(replica, epoch - 2),
        death(replica, epoch - 1),
        death(replica, 0),
        death(replica, epoch + 1),
        death(replica, u64::MAX),
        death(next, epoch),
        death(World::id(WITNESS), epoch),
        death(World::id(B), epoch),
    ];
    let before = world.replica(A).unwrap().status();
    for wrong in wrong {
        for node in [A, B, WITNESS] {
            world.after(Duration::ZERO, Event::Certificate { node, death: wrong });
        }
    }
    // The true one, to the leader itself: alive, so somebody lies.
    let own = Event::Certificate {
        node: A,
        death: death(replica, epoch),
    };
    world.after(Duration::ZERO, own);
    world.run_for(ms(500));
    let after = world.replica(A).unwrap().status();
    assert_eq!((before.role, before.term), (after.role, after.term));
    assert_eq!(before.counters.leases_lost, after.counters.leases_lost);
    for node in [A, B, WITNESS] {
        let counters = world.counters(node);
        let refused = [
            counters.deaths_older_epoch,
            counters.deaths_foreign,
            counters.deaths_not_our_leader,
            counters.deaths_replayed,
        ];
        assert_eq!(
            counters.deaths_accepted, 0,
            "{node}: {wrong:?}, {counters:?}"
        );
        let expected = match node {
            // Every one of its own slot is foreign.
            A => [0, 7, 2, 0],
            B => [3, 2, 3, 0],
            _ => [3, 2, 3, 0],
        };
        assert_eq!(refused, expected, "{node}");
    }
    assert_sound(&world);
}

/// A process that has just started does not know to whom its former life gave a promise.
#[test]
fn a_voter_that_has_just_started_releases_nothing() {
    let mut world = settled(2, Conditions::default());
    world.crash(WITNESS);
    world.start(WITNESS);
    world.run_for(ms(50));
    let death = world.death(A);
    let node = WITNESS;
    world.after(Duration::ZERO, Event::Certificate { node, death });
    world.run_for(ms(1));
    let counters = world.counters(WITNESS);
    assert_eq!((counters.deaths_accepted, counters.deaths_starting), (0, 1));
    world.run_for(ms(200));
    world.after(Duration::ZERO, Event::Certificate { node, death });
    world.run_for(ms(1));
    assert_eq!(world.counters(WITNESS).deaths_accepted, 1);
}

/// The standby hears of it, the witness does not: it waits for its own timeout, and nothing is lost but time.
#[test]
fn a_certificate_that_reaches_one_voter_only_costs_no_more_than_none() {
    let mut times: Vec<_> = (0..100)
        .map(|seed| {
            let mut world = settled(seed, Conditions::default());
            let death = world.death(A);
            world.crash(A);
            let reached = if seed % 2 == 0 { B } else { WITNESS };
            world.certify(A, reached, death, Duration::ZERO);
            let took = world.run_until(ms(1000), |world| world.is_serving(B));
            assert_sound(&world);
            took.unwrap()
        })
        .collect();
    times.sort();
    let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
    eprintln!("takeover when one voter hears of the death: p50 {p50:?}, p99 {p99:?}");
    assert!(p99 <= ms(150), "{p99:?}");
}
