//! Founding a pair, and coming back without a disk: real sockets, real stores.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::time::Instant;

use support::{PATIENCE, Pair, SLOTS, put};
use tandem_replication::{
    ForceError, ForceFailed, Slot, StartError, Status, StoreError, move_aside, start,
};

fn wait_for(pair: &Pair, what: &str, condition: impl Fn(&Pair) -> bool) {
    let begun = Instant::now();
    while !condition(pair) {
        assert!(
            begun.elapsed() < PATIENCE,
            "never came: {what}: {:#?}",
            pair.statuses()
        );
        std::thread::yield_now();
    }
}

fn voters(status: &Status) -> Vec<&str> {
    let voters = status
        .members
        .iter()
        .filter(|member| member.part == "voter");
    voters.map(|member| member.id.as_str()).collect()
}

/// Exactly these vote, by everybody's own account, and nobody else belongs.
fn wait_for_members(pair: &Pair, wanted: [&str; 3]) {
    wait_for(pair, "the membership", |pair| {
        let statuses = pair.statuses();
        let agreed = |status: &Status| voters(status) == wanted && status.members.len() == 3;
        statuses.len() == 3 && statuses.iter().all(agreed)
    });
}

fn standby(pair: &Pair) -> Slot {
    match pair.leader() {
        Slot::A => Slot::B,
        Slot::B | Slot::Witness => Slot::A,
    }
}

#[test]
fn a_pair_is_founded_once_everybody_is_there() {
    let mut pair = Pair::new(|_| {});
    pair.start(Slot::A);
    pair.start(Slot::B);
    wait_for(&pair, "both say whom they wait for", |pair| {
        pair.statuses().iter().all(|status| {
            let waiting = status.waiting.as_deref();
            waiting == Some("waiting for witness to found the pair")
        })
    });
    let status = pair.replication(Slot::A).status();
    assert_eq!(
        (status.id.as_str(), status.role, status.term),
        ("a.?", "follower", 0)
    );
    assert!(pair.replication(Slot::A).table().unwrap().is_empty());
    pair.start(Slot::Witness);
    pair.commit(&put(1, 100));
    wait_for_members(&pair, ["a.1", "b.1", "witness.1"]);
    assert!(
        pair.statuses()
            .iter()
            .all(|status| status.waiting.is_none())
    );
}

#[test]
fn a_lost_disk_comes_back_as_a_new_incarnation_with_everything() {
    let mut pair = Pair::new(|settings| settings.limits.log_entries = 64);
    SLOTS.into_iter().for_each(|slot| pair.start(slot));
    wait_for_members(&pair, ["a.1", "b.1", "witness.1"]);
    (0..200).for_each(|number| {
        pair.commit(&put(number, 500));
    });
    let mut wanted = ["a.1", "b.1", "witness.1"];
    // The standby, the witness, and the active itself.
    for (number, slot) in [standby(&pair), Slot::Witness, pair.leader()]
        .into_iter()
        .enumerate()
    {
        pair.stop(slot);
        fs::remove_dir_all(pair.state_dir(slot)).unwrap();
        pair.start(slot);
        wanted[SLOTS.iter().position(|other| *other == slot).unwrap()] = match slot {
            Slot::A => "a.2",
            Slot::B => "b.2",
            Slot::Witness => "witness.2",
        };
        let begun = Instant::now();
        wait_for_members(&pair, wanted);
        eprintln!("{slot} is a voter again after {:?}", begun.elapsed());
        pair.commit(&put(200 + number as u64, 500));
        let all = pair.replication(pair.leader()).table().unwrap();
        assert_eq!(all.len(), 201 + number);
        pair.observer(slot)
            .wait("everything", |seen| seen.table == all);
    }
}

/// A corrupt store is not emptied silently: the operator moves it aside, and the node comes back.
#[test]
fn a_corrupt_store_is_refused_until_it_is_moved_aside() {
    let mut pair = Pair::new(|_| {});
    SLOTS.into_iter().for_each(|slot| pair.start(slot));
    wait_for_members(&pair, ["a.1", "b.1", "witness.1"]);
    (0..50).for_each(|number| {
        pair.commit(&put(number, 500));
    });
    let slot = standby(&pair);
    pair.stop(slot);
    let database = pair.state_dir(slot).join("log/db");
    fs::OpenOptions::new()
        .write(true)
        .open(&database)
        .unwrap()
        .set_len(10_000)
        .unwrap();
    let refused = start(pair.settings(slot), pair.runtime.handle(), |_| {}).unwrap_err();
    assert!(
        matches!(refused, StartError::Store(StoreError::Corrupt { .. })),
        "{refused}"
    );
    assert!(refused.to_string().contains("tandem rejoin"), "{refused}");

    let aside = move_aside(&pair.state_dir(slot)).unwrap().unwrap();
    assert!(
        aside.join("log/db").is_file(),
        "kept for whoever wants to look"
    );
    pair.start(slot);
    let wanted = if slot == Slot::A {
        ["a.2", "b.1", "witness.1"]
    } else {
        ["a.1", "b.2", "witness.1"]
    };
    wait_for_members(&pair, wanted);
    // And it knows who it is from now on.
    pair.stop(slot);
    pair.start(slot);
    wait_for_members(&pair, wanted);
    pair.commit(&put(50, 500));
}

/// The standby was away while the others went on, and they do not come back. An operator takes what it has.
#[test]
fn a_forced_takeover_serves_and_the_old_pair_must_rejoin() {
    let mut pair = Pair::new(|_| {});
    SLOTS.into_iter().for_each(|slot| pair.start(slot));
    (0..20).for_each(|number| {
        pair.commit(&put(number, 100));
    });
    let (active, stale) = (pair.leader(), standby(&pair));
    let refused = pair.replication(stale).force_takeover();
    assert!(
        matches!(refused, Err(ForceFailed::Refused(ForceError::Led(_)))),
        "{refused:?}"
    );
    let everything = pair.replication(active).table().unwrap();
    pair.observer(stale)
        .wait("everything", |seen| seen.table == everything);
    pair.stop(stale);
    (20..40).for_each(|number| {
        pair.commit(&put(number, 100));
    });
    let term = pair.replication(active).status().term;
    pair.stop(active);
    pair.stop(Slot::Witness);
    pair.start(stale);
    assert_eq!(pair.replication(stale).status().leader, None);
    let forced = pair.replication(stale).force_takeover().unwrap();
    assert_eq!(
        (forced.id.slot(), forced.id.incarnation(), forced.generation),
        (stale, 2, 1)
    );
    pair.observer(stale).wait("the replica ends", |seen| {
        seen.store_failed
            .as_deref()
            .is_some_and(|reason| reason.contains("forced"))
    });
    // As the guard does.
    pair.stop(stale);
    pair.start(stale);
    pair.commit(&put(99, 100));
    let status = pair.replication(stale).status();
    assert!(
        status.alone && status.generation == 1 && status.term > term,
        "{status:?}"
    );
    assert_eq!(pair.replication(stale).table().unwrap().len(), 21);

    // The others have a quorum of the old pair, and must not make use of it.
    pair.start(active);
    pair.start(Slot::Witness);
    wait_for(&pair, "the others stand down", |pair| {
        [active, Slot::Witness].into_iter().all(|slot| {
            let status = pair.replication(slot).status();
            status.superseded_by == Some(1) && status.role == "follower"
        })
    });
    pair.commit(&put(100, 100));
    for slot in [active, Slot::Witness] {
        pair.stop(slot);
        move_aside(&pair.state_dir(slot)).unwrap().unwrap();
        pair.start(slot);
    }
    wait_for_members(&pair, ["a.2", "b.2", "witness.2"]);
    let all = pair.replication(pair.leader()).table().unwrap();
    assert_eq!(all.len(), 22);
    pair.observer(active)
        .wait("everything", |seen| seen.table == all);
}
