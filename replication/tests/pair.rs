//! Three replicas on loopback, through real sockets, TLS and disks.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{Pair, SLOTS, put};
use tandem_replication::Slot;

const PROPOSALS: u64 = 1_000;

#[test]
fn what_one_leader_has_acknowledged_the_next_one_has() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        pair.start(slot);
    }
    let leader = pair.leader();

    let observer = pair.observer(leader);
    let replication = &pair.nodes.get(&leader).unwrap().replication;
    let mut latencies = Vec::new();
    for number in 0..PROPOSALS {
        let begun = Instant::now();
        let ticket = replication.propose(put(number, 1024)).unwrap();
        observer.wait("the proposal is applied", |seen| {
            assert!(!seen.dropped.contains(&ticket));
            seen.applied.contains_key(&ticket)
        });
        let applied = observer.with(|seen| seen.applied.get(&ticket).unwrap().1);
        latencies.push(applied - begun);
    }
    print_latencies("propose to applied, one at a time", &mut latencies);
    let status = replication.status();
    assert_eq!(status.role, "leader");
    assert!(status.store.sync.count > 0 && status.commit_latency.count >= PROPOSALS);
    eprintln!("sync {:?}", status.store.sync);

    let acknowledged = observer.with(|seen| seen.table.clone());
    assert_eq!(acknowledged.len() as u64, PROPOSALS);
    pair.stop(leader);
    let stopped = Instant::now();
    let successor = pair.leader();
    eprintln!("takeover after a clean stop: {:?}", stopped.elapsed());
    assert_ne!(successor, leader);
    assert_eq!(
        pair.observer(successor).with(|seen| seen.table.clone()),
        acknowledged
    );
    let table = pair
        .nodes
        .get(&successor)
        .unwrap()
        .replication
        .table()
        .unwrap();
    assert_eq!(table, acknowledged);

    // The former leader comes back from its own disk and follows.
    pair.start(leader);
    let ticket = pair
        .nodes
        .get(&successor)
        .unwrap()
        .replication
        .propose(put(PROPOSALS, 8))
        .unwrap();
    pair.observer(successor)
        .wait("applied", |seen| seen.applied.contains_key(&ticket));
    pair.observer(leader)
        .wait("the follower has everything", |seen| {
            seen.table.len() as u64 == PROPOSALS + 1
        });
}

#[test]
fn a_burst_of_proposals_commits_in_order() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        pair.start(slot);
    }
    let leader = pair.leader();
    let observer = pair.observer(leader);
    let replication = &pair.nodes.get(&leader).unwrap().replication;
    let begun = Instant::now();
    let proposed: Vec<_> = (0..PROPOSALS)
        .map(|number| {
            (
                replication.propose(put(number, 1024)).unwrap(),
                Instant::now(),
            )
        })
        .collect();
    let (last, _) = proposed.last().copied().unwrap();
    observer.wait("the last is applied", |seen| {
        seen.applied.contains_key(&last)
    });
    let total = begun.elapsed();
    let (indices, mut latencies): (Vec<_>, Vec<_>) = observer.with(|seen| {
        proposed
            .iter()
            .map(|(ticket, begun)| {
                let (index, applied) = seen.applied.get(ticket).copied().unwrap();
                (index, applied - *begun)
            })
            .unzip()
    });
    assert!(
        indices.is_sorted(),
        "tickets are applied in the order they were given out"
    );
    print_latencies("propose to applied, burst", &mut latencies);
    eprintln!("{PROPOSALS} in {total:?}");
}

#[test]
fn a_follower_that_was_away_too_long_catches_up_by_a_snapshot() {
    let mut pair = Pair::new(|settings| {
        settings.limits.log_entries = 64;
    });
    for slot in SLOTS {
        pair.start(slot);
    }
    let leader = pair.leader();
    let away = if leader == Slot::A { Slot::B } else { Slot::A };
    pair.stop(away);

    let replication = &pair.nodes.get(&leader).unwrap().replication;
    for number in 0..PROPOSALS {
        let ticket = replication.propose(put(number, 4096)).unwrap();
        pair.observer(leader)
            .wait("applied", |seen| seen.applied.contains_key(&ticket));
    }
    let status = replication.status();
    assert!(
        status.counters.compactions > 0,
        "the log no longer reaches back: {status:?}"
    );

    pair.start(away);
    let begun = Instant::now();
    pair.observer(away)
        .wait("all rows", |seen| seen.table.len() as u64 == PROPOSALS);
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
    let replication = &pair.nodes.get(&leader).unwrap().replication;
    let ticket = replication.propose(put(PROPOSALS, 8)).unwrap();
    pair.observer(leader)
        .wait("applied", |seen| seen.applied.contains_key(&ticket));
    let complete = |seen: &support::Seen| seen.table.len() as u64 == PROPOSALS + 1;
    pair.observer(away).wait("the next entry", complete);
    pair.stop(away);
    pair.start(away);
    pair.observer(away)
        .wait("everything after a restart", complete);
}

#[test]
fn leadership_is_handed_on_without_losing_anything() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        pair.start(slot);
    }
    let leader = pair.leader();
    let other = if leader == Slot::A { Slot::B } else { Slot::A };
    let replication = &pair.nodes.get(&leader).unwrap().replication;
    let ticket = replication.propose(put(1, 8)).unwrap();
    pair.observer(leader)
        .wait("applied", |seen| seen.applied.contains_key(&ticket));
    let begun = Instant::now();
    replication.transfer(other).unwrap();
    pair.observer(other)
        .wait("the other leads", |seen| seen.leading);
    eprintln!("handed on in {:?}", begun.elapsed());
    pair.observer(leader)
        .wait("the first does not", |seen| !seen.leading);
    assert_eq!(pair.observer(other).with(|seen| seen.table.len()), 1);
    assert!(replication.propose(put(2, 8)).is_err());
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
