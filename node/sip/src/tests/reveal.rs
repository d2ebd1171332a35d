//! Contract 2, commit before reveal, with commits that take their time. Each message that leaves at once is checked
//! by the harness: it must be a stateless answer, or in the log. With the check of `uncommitted` in
//! `Sip::finish` removed, `slow_commits_reveal_nothing` fails.

use std::time::Duration;

use super::calls::{BOB, START, alice, bob, finish, pair};
use crate::cdr::CdrStatus;
use crate::command::{Command, When};
use crate::core::Sip;
use crate::phone::Action;
use crate::testing::{Pool, World, config, target};

fn slow(delay: Duration) -> World {
    let mut world = pair(alice().when_up(20_000, Action::HangUp), bob());
    world.commit_delay = delay;
    world
}

/// The log takes longer than T1, so peers repeat while the first copy is still held, and so do our own timers.
#[test]
fn slow_commits_reveal_nothing() {
    for millis in [30, 400, 700, 1300, 2500] {
        let mut world = slow(Duration::from_millis(millis));
        let cdr = finish(&mut world);
        assert_eq!(cdr.status(), CdrStatus::Completed, "{millis}");
        let suppressed = world.sip.counters().retransmissions_suppressed;
        assert_eq!(suppressed > 0, millis > 500, "{millis} ms: {suppressed}");
    }
}

/// Nothing commits at all: nothing leaves, and the caller goes on repeating its INVITE until it tries elsewhere.
#[test]
fn without_commits_nothing_leaves() {
    let mut world = slow(Duration::from_secs(100_000));
    world.run_for(Duration::from_secs(100));
    assert!(world.sent.is_empty());
    assert!(world.sip.counters().retransmissions_suppressed > 3);
}

/// Every held message comes behind the Replicate it depends on, in the same batch.
#[test]
fn a_held_message_follows_its_replicate() {
    let mut world = pair(alice().when_up(1000, Action::HangUp), bob());
    let mut held = 0;
    world.phones[0].handle_timeout(world.now);
    let invite = world.phones[0].outbox.pop_front().unwrap().1;
    let source = world.phones[0].address;
    world.sip.handle_datagram(
        crate::testing::INSIDE,
        source,
        invite,
        world.now,
        &mut world.pool,
    );
    let mut replicated = None;
    while let Some(command) = world.sip.next_command() {
        match command {
            Command::Replicate { sequence, .. } => replicated = Some(sequence),
            Command::Send {
                when: When::Committed,
                ..
            } => {
                assert!(replicated.is_some());
                held += 1;
            }
            Command::Send { .. } | Command::Media { .. } | Command::Cdr(_) => {}
        }
    }
    // 100 Trying to the caller, and the INVITE to the target.
    assert_eq!(held, 2);
}

#[test]
fn a_standby_says_nothing() {
    let mut world = slow(Duration::ZERO);
    world.sip.deactivate(&mut Pool::default());
    assert_eq!(world.sip.poll_timeout(), None);
    world.run_for(Duration::from_secs(10));
    assert!(world.sent.is_empty());
    assert!(world.sip.counters().dropped_inactive > 0);
    assert_eq!(world.sip.counters().calls_started, 0);
}

/// The committed table is read over the one that may be ahead of it, and the media plane hears of what is different.
#[test]
fn losing_ownership_takes_back_what_was_not_committed() {
    let mut world = pair(alice(), bob());
    world.run_for(Duration::from_secs(2));
    let key = *world.log.keys().next().unwrap();
    let record = world.sip.record(key).unwrap().clone();
    let fresh = || Pool {
        size: 100,
        ..Pool::default()
    };
    let mut pool = fresh();
    world.sip.deactivate(&mut pool);
    assert_eq!(pool.taken.len(), 2, "the pool follows the table");
    world.sip.apply(key, Some(record.clone()), &mut pool);
    assert_eq!(world.sip.next_command(), None, "committed as it is");
    world.sip.apply(key, None, &mut pool);
    assert_eq!(
        world.sip.next_command(),
        Some(Command::Media {
            key,
            streams: vec![]
        })
    );
    assert!(pool.taken.is_empty());
    // A standby has every session ready before it serves.
    world.sip.apply(key, Some(record), &mut pool);
    assert!(
        matches!(world.sip.next_command(), Some(Command::Media { streams, .. }) if streams.len() == 1)
    );
    assert_eq!(pool.taken.len(), 2);
}

/// What the media plane was not told yet when ownership was lost, it is told: the committed table shows no difference.
#[test]
fn a_media_plan_that_was_on_its_way_survives_a_lost_lease() {
    let mut settings = config(vec![target(BOB, 1)]);
    settings.limits.calls = 1;
    let mut recorded = pair(alice(), bob());
    finish(&mut recorded);
    let (realm, source, invite) = recorded.received[0].clone();
    let mut sip = Sip::new(settings, 1);
    let mut pool = Pool {
        size: 20,
        ..Pool::default()
    };
    sip.activate(1);
    sip.handle_datagram(realm, source, invite, START, &mut pool);
    let (key, record) = sip
        .records()
        .next()
        .map(|(key, record)| (key, record.clone()))
        .unwrap();
    sip.deactivate(&mut Pool {
        size: 20,
        ..Pool::default()
    });
    sip.apply(key, Some(record), &mut pool);
    let told = std::iter::from_fn(|| sip.next_command());
    let told: Vec<_> = told.collect();
    assert!(
        matches!(told.as_slice(), [Command::Media { streams, .. }] if streams.len() == 1),
        "{told:?}"
    );
}
