//! How replication ends: on purpose, or because the disk does.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Pair, SLOTS, put};
use tandem_replication::{ProposeError, RequestError, Slot};

#[test]
fn stopping_settles_every_ticket_and_refuses_what_comes_later() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        pair.start(slot);
    }
    let leader = pair.leader();
    let node = pair.nodes.remove(&leader).unwrap();
    let tickets: Vec<_> = (0..500)
        .map(|number| node.replication.propose(put(number, 512)).unwrap())
        .collect();
    node.replication.shutdown();
    node.observer.with(|seen| {
        for ticket in &tickets {
            let applied = seen.applied.contains_key(ticket);
            let dropped = seen.dropped.contains(ticket);
            assert!(
                applied != dropped,
                "{ticket:?}: applied {applied}, dropped {dropped}"
            );
        }
        assert!(!seen.leading, "the lease is given back");
        assert_eq!(seen.store_failed, None);
    });
    assert!(node.replication.propose(put(0, 8)).is_err());
    assert_eq!(node.replication.table(), Err(RequestError::Stopped));
    assert!(
        node.replication.status().applied > 0,
        "status still answers"
    );
    node.replication.shutdown();
}

#[test]
fn a_follower_refuses_proposals_and_names_the_leader() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        pair.start(slot);
    }
    let leader = pair.leader();
    let follower = if leader == Slot::A { Slot::B } else { Slot::A };
    let observer = pair.observer(follower);
    observer.wait("the follower knows the leader", |seen| {
        matches!(
            seen.role,
            Some(tandem_replication::Role::Follower { leader: Some(known), .. }) if known.slot() == leader
        )
    });
    let refused = pair
        .nodes
        .get(&follower)
        .unwrap()
        .replication
        .propose(put(0, 8))
        .unwrap_err();
    let ProposeError::NotLeader {
        leader: Some(named),
    } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!(named.slot(), leader);
}

/// An fsync that failed has written nobody knows what. The replica stops and says so; the pair goes on.
#[test]
fn a_failed_disk_ends_the_replica_and_not_the_pair() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        pair.start(slot);
    }
    let leader = pair.leader();
    // What the store looks at before each sync is gone.
    std::fs::remove_dir_all(pair.state_dir(leader).join("log/blobs")).unwrap();
    let replication = pair.nodes.get(&leader).unwrap().replication.clone();
    let ticket = replication.propose(put(1, 64)).unwrap();
    let observer = pair.observer(leader);
    observer.wait("the failure is reported", |seen| {
        seen.store_failed.is_some()
    });
    observer.with(|seen| {
        let reason = seen.store_failed.as_deref().unwrap();
        assert!(reason.contains("blobs"), "{reason}");
        assert!(!seen.leading, "the lease is given back first");
        assert!(seen.dropped.contains(&ticket) != seen.applied.contains_key(&ticket));
    });
    assert!(replication.status().store_failed);
    assert_eq!(replication.propose(put(2, 64)), Err(ProposeError::Stopped));
    pair.stop(leader);
    let successor = pair.leader();
    assert_ne!(successor, leader);
    pair.commit(&put(3, 64));
}
