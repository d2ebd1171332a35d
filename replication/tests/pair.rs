//! Three replicas on loopback, through real sockets, TLS and disks.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use support::{PATIENCE, Pair, SLOTS, put};
use tandem_replication::{
    CertificateSigner, Change, DeathCertificate, Profile, ReplicaCounters, ReplicaId, Role, Slot,
    Table,
};

const PROPOSALS: u64 = 1_000;

/// The table after `put(0..count, bytes)`.
fn expected(count: u64, bytes: usize) -> Table {
    let changes = (0..count).flat_map(|number| put(number, bytes));
    changes
        .filter_map(|change| match change {
            Change::Put { key, value } => Some((key, value)),
            Change::Delete { .. } => None,
        })
        .collect()
}

#[test]
fn what_one_leader_has_acknowledged_the_next_one_has() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        pair.start(slot);
    }
    let mut latencies: Vec<_> = (0..PROPOSALS)
        .map(|number| pair.commit(&put(number, 1024)))
        .collect();
    print_latencies("propose to applied, one at a time", &mut latencies);

    let leader = pair.leader();
    let status = pair.replication(leader).status();
    assert_eq!(status.role, "leader");
    assert!(status.store.sync.count > 0 && status.commit_latency.count > 0);
    eprintln!("sync {:?}", status.store.sync);
    let acknowledged = expected(PROPOSALS, 1024);
    assert!(pair.replication(leader).table().unwrap() == acknowledged);

    pair.stop(leader);
    let stopped = Instant::now();
    let successor = pair.leader();
    eprintln!("takeover after a clean stop: {:?}", stopped.elapsed());
    assert_ne!(successor, leader);
    assert!(pair.replication(successor).table().unwrap() == acknowledged);
    pair.observer(successor)
        .with(|seen| assert!(seen.table == acknowledged));

    // The former leader comes back from its own disk and follows.
    pair.start(leader);
    pair.commit(&put(PROPOSALS, 1024));
    let complete = expected(PROPOSALS + 1, 1024);
    pair.observer(leader)
        .wait("the follower has everything", |seen| seen.table == complete);
}

#[test]
fn a_burst_of_proposals_commits_in_order() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        pair.start(slot);
    }
    let leader = pair.leader();
    let observer = pair.observer(leader);
    let replication = pair.replication(leader);
    let begun = Instant::now();
    let proposed: Vec<_> = (0..PROPOSALS)
        .map(|number| {
            (
                replication.propose(put(number, 1024)).unwrap(),
                Instant::now(),
            )
        })
        .collect();
    observer.wait("all are settled", |seen| {
        seen.applied.len() + seen.dropped.len() == proposed.len()
    });
    let total = begun.elapsed();
    observer.with(|seen| {
        let indices: Vec<_> = seen.applied.values().map(|(index, _)| *index).collect();
        assert!(
            indices.is_sorted(),
            "tickets are applied in the order they were given out"
        );
        let mut latencies: Vec<_> = proposed
            .iter()
            .filter_map(|(ticket, begun)| Some(seen.applied.get(ticket)?.1 - *begun))
            .collect();
        if !latencies.is_empty() {
            print_latencies("propose to applied, burst", &mut latencies);
        }
        eprintln!("{} of {PROPOSALS} in {total:?}", seen.applied.len());
    });
}

#[test]
fn a_follower_that_was_away_too_long_catches_up_by_a_snapshot() {
    let mut pair = Pair::new(|settings| {
        settings.limits.log_entries = 64;
    });
    for slot in SLOTS {
        pair.start(slot);
    }
    let away = if pair.leader() == Slot::A {
        Slot::B
    } else {
        Slot::A
    };
    pair.stop(away);
    for number in 0..PROPOSALS {
        pair.commit(&put(number, 4096));
    }
    let status = pair.replication(pair.leader()).status();
    assert!(
        status.counters.compactions > 0,
        "the log no longer reaches back: {status:?}"
    );

    pair.start(away);
    let begun = Instant::now();
    let all = expected(PROPOSALS, 4096);
    pair.observer(away)
        .wait("all rows", |seen| seen.table == all);
    eprintln!("caught up in {:?}", begun.elapsed());
    pair.observer(away)
        .with(|seen| assert!(seen.restored >= 2, "by a snapshot"));
    let sent: u64 = pair
        .statuses()
        .iter()
        .map(|status| status.link.snapshots_sent)
        .sum();
    assert!(sent >= 1);

    // And it goes on from there, over a restart too.
    pair.commit(&put(PROPOSALS, 4096));
    let all = expected(PROPOSALS + 1, 4096);
    pair.observer(away)
        .wait("the next entry", |seen| seen.table == all);
    pair.stop(away);
    pair.start(away);
    pair.observer(away)
        .wait("everything after a restart", |seen| seen.table == all);
}

#[test]
fn leadership_is_handed_on_without_losing_anything() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        pair.start(slot);
    }
    pair.commit(&put(0, 8));
    let leader = pair.leader();
    let other = if leader == Slot::A { Slot::B } else { Slot::A };
    let begun = Instant::now();
    pair.replication(leader).transfer(other).unwrap();
    pair.observer(other)
        .wait("the other leads", |seen| seen.leading);
    eprintln!("handed on in {:?}", begun.elapsed());
    pair.observer(leader)
        .wait("the first does not", |seen| !seen.leading);
    assert!(pair.replication(other).table().unwrap() == expected(1, 8));
}

fn print_latencies(what: &str, latencies: &mut [Duration]) {
    latencies.sort_unstable();
    let at = |percent: usize| {
        latencies
            .get((latencies.len() - 1) * percent / 100)
            .unwrap()
    };
    eprintln!(
        "{what}: p50 {:?} p90 {:?} p99 {:?} max {:?}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

/// Over real links: the survivors take the certificate of exactly the term in which the dead one led, once.
#[test]
fn a_certified_death_is_taken_over_at_once_and_an_old_certificate_means_nothing() {
    let mut pair = Pair::new(|settings| settings.profile = Profile::Relaxed);
    for slot in SLOTS {
        pair.start(slot);
    }
    pair.commit(&put(0, 8));
    let dead = pair.leader();
    let survivors = SLOTS.into_iter().filter(|slot| *slot != dead);
    let survivors: Vec<_> = survivors.collect();
    for slot in &survivors {
        pair.observer(*slot).wait("the leader is followed", |seen| {
            matches!(seen.role, Some(Role::Follower { leader: Some(leader), .. }) if leader.slot() == dead)
        });
    }
    let epoch = pair.replication(dead).status().term;
    let signer = CertificateSigner::load(&pair.keys(dead), dead).unwrap();
    let certify = |epoch| {
        let death = DeathCertificate {
            replica: ReplicaId::first(dead),
            epoch,
            life: 1,
            grace: Duration::ZERO,
        };
        let datagram = signer.sign(&death).unwrap();
        let guard = UdpSocket::bind((pair.addresses.get(&dead).unwrap().ip(), 0)).unwrap();
        for slot in &survivors {
            let address = pair.addresses.get(slot).unwrap();
            guard.send_to(&datagram, address).unwrap();
        }
    };
    let counters = |pair: &Pair| {
        let of = |slot: &Slot| pair.replication(*slot).status().counters;
        survivors.iter().map(of).collect::<Vec<_>>()
    };
    let wait_for_counters = |pair: &Pair, what: &str, condition: fn(&ReplicaCounters) -> bool| {
        let begun = Instant::now();
        while !counters(pair).iter().all(condition) {
            assert!(begun.elapsed() < PATIENCE, "{what}: {:#?}", pair.statuses());
            std::thread::yield_now();
        }
    };

    // Of the term before: the leader stays.
    certify(epoch - 1);
    wait_for_counters(&pair, "an older epoch is refused", |counters| {
        counters.deaths_older_epoch == 1
    });
    assert_eq!(pair.replication(dead).status().term, epoch);

    // Of this one, and no timeout of anybody helps: the leader lives and is heard. The test lies in its name.
    let begun = Instant::now();
    certify(epoch);
    let successor = if dead == Slot::A { Slot::B } else { Slot::A };
    pair.observer(successor)
        .wait("the survivor leads", |seen| seen.leading);
    eprintln!("takeover after a certified death: {:?}", begun.elapsed());
    wait_for_counters(&pair, "released", |counters| counters.deaths_accepted == 1);

    certify(epoch);
    wait_for_counters(&pair, "replayed", |counters| counters.deaths_replayed == 1);
    assert_eq!(pair.leader(), successor);
}
