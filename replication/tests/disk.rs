//! What a pair does about its disks: durability modes, a machine that restarted, room that runs out.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use support::{Pair, SLOTS, put};
use tandem_replication::{BootId, Durability, Slot, StartError, StoreError, start};

fn in_memory(pair: &Pair, slot: Slot, boot: &str) -> tandem_replication::Settings {
    let mut settings = pair.settings(slot);
    settings.durability = Durability::Memory;
    settings.boot = Some(BootId::new(boot));
    settings
}

/// The syncs that are left are those of term, vote and membership.
#[test]
fn a_pair_in_memory_commits_without_syncs_and_keeps_all_across_an_orderly_restart() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        let settings = in_memory(&pair, slot, "first");
        pair.start_with(slot, settings);
    }
    pair.commit(&put(0, 64));
    let syncs = |pair: &Pair| -> Vec<_> {
        let statuses = pair.statuses().into_iter();
        statuses
            .map(|status| (status.term, status.store.syncs))
            .collect()
    };
    let before = syncs(&pair);
    for number in 1..=200 {
        pair.commit(&put(number, 64));
    }
    for ((term_before, before), (term, after)) in before.into_iter().zip(syncs(&pair)) {
        // Those of the first term may come late, and a busy machine may have cost a leader its term.
        let promises = 2 * (term - term_before + 1);
        assert!(
            after - before <= promises,
            "{} syncs for 200 entries",
            after - before
        );
    }
    for slot in SLOTS {
        pair.stop(slot);
    }
    for slot in SLOTS {
        let settings = in_memory(&pair, slot, "second");
        pair.start_with(slot, settings);
    }
    let leader = pair.leader();
    assert_eq!(pair.replication(leader).table().unwrap().len(), 201);
}

#[test]
fn a_replica_whose_machine_stopped_without_warning_does_not_start() {
    let mut pair = Pair::new(|_| {});
    for slot in SLOTS {
        let settings = in_memory(&pair, slot, "first");
        pair.start_with(slot, settings);
    }
    pair.commit(&put(0, 64));
    let standby = if pair.leader() == Slot::A {
        Slot::B
    } else {
        Slot::A
    };
    let mark = pair.state_dir(standby).join("unsynced");
    let running = fs::read(&mark).unwrap();
    pair.stop(standby);
    assert!(!mark.exists(), "an orderly stop");
    // As if it had not been one.
    fs::write(&mark, running).unwrap();
    let settings = in_memory(&pair, standby, "second");
    let refused = start(settings, pair.runtime.handle(), |_| {}).unwrap_err();
    assert!(
        matches!(&refused, StartError::Store(StoreError::Unclean { id, .. }) if id.slot() == standby),
        "{refused}"
    );
    pair.commit(&put(1, 64));
    // Where the page cache is still the same there is nothing to refuse.
    let settings = in_memory(&pair, standby, "first");
    pair.start_with(standby, settings);
    pair.commit(&put(2, 64));
}

#[test]
fn a_disk_below_its_low_water_mark_is_told() {
    let mut pair = Pair::new(|_| {});
    let mut settings = pair.settings(Slot::A);
    settings.disk_low_water = Some(u64::MAX);
    pair.start_with(Slot::A, settings);
    pair.start(Slot::B);
    pair.start(Slot::Witness);
    let observer = pair.observer(Slot::A);
    observer.wait("the disk is low", |seen| seen.disk_low.is_some());
    let store = pair.replication(Slot::A).status().store;
    assert!(store.disk_low && store.free_bytes > 0);
    pair.commit(&put(1, 64));
    pair.observer(Slot::B)
        .with(|seen| assert_eq!(seen.disk_low, None));
}
