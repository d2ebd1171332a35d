#![allow(clippy::unwrap_used)]

use std::time::Instant;

use tandem_replication::{Profile, Slot};
use tokio::time::timeout;

use super::*;

const FOLLOWS: Pulse = Pulse {
    replica: ReplicaId::first(Slot::A),
    epoch: 0,
};
const LEADS: Pulse = Pulse {
    epoch: 9,
    ..FOLLOWS
};

const LIMIT: Duration = SILENCE_MIN;

/// Both ends, without a process between them.
fn ends() -> (Heart, Beats) {
    let (ours, theirs) = StdUnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let beats = Beats {
        worker: UnixDatagram::from_std(ours).unwrap(),
        check: LIMIT / CHECKS,
        last: None,
        broken: false,
    };
    (Heart::new(theirs.into()).unwrap(), beats)
}

#[test]
fn a_beat_survives_and_garbage_is_none() {
    assert_eq!(decode(&encode(LEADS)), Some(LEADS));
    let bytes = encode(FOLLOWS);
    assert_eq!(decode(&bytes[..16]), None);
    assert_eq!(decode(&[bytes.as_slice(), &[0]].concat()), None);
    assert_eq!(decode(&[0; BEAT_BYTES]), None);
}

#[test]
fn the_silence_limit_follows_the_profile_and_has_a_floor() {
    let limit = |profile: Profile| {
        [true, false].map(|realtime| silence_limit(profile.timing(), realtime).as_millis())
    };
    assert_eq!(limit(Profile::Fast), [500, 2_000]);
    assert_eq!(limit(Profile::Standard), [500, 2_000]);
    assert_eq!(limit(Profile::Relaxed), [2_500, 2_500]);
}

/// News leave at once, the rest every interval; the last word is the last one sent.
#[tokio::test]
async fn the_last_words_are_the_latest_news() {
    let (heart, beats) = ends();
    let start = boottime();
    heart.beat_at(FOLLOWS, start);
    heart.beat_at(FOLLOWS, start + BEAT_INTERVAL / 2);
    heart.beat_at(LEADS, start + BEAT_INTERVAL / 2);
    assert_eq!(beats.last_words(), Some(LEADS));
    let (heart, beats) = ends();
    heart.beat_at(LEADS, start);
    heart.beat_at(FOLLOWS, start);
    assert_eq!(beats.last_words(), Some(FOLLOWS));
    let (_heart, beats) = ends();
    assert_eq!(beats.last_words(), None);
}

/// A guard that does not read for a while: nothing blocks, and the news come through afterwards.
#[tokio::test]
async fn a_full_queue_drops_and_is_tried_again() {
    let (heart, mut beats) = ends();
    let start = boottime();
    for number in 0..1_000u32 {
        heart.beat_at(FOLLOWS, start + BEAT_INTERVAL * number);
    }
    let later = start + BEAT_INTERVAL * 1_000;
    heart.beat_at(LEADS, later);
    let reading = timeout(BEAT_INTERVAL * 10, beats.silence()).await;
    assert!(reading.is_err());
    assert_eq!(beats.last, Some(FOLLOWS), "the queue was full");
    heart.beat_at(LEADS, later);
    assert_eq!(beats.last_words(), Some(LEADS));
}

#[tokio::test]
async fn a_worker_that_stops_beating_is_noticed_and_one_that_starts_is_not() {
    let (heart, mut beats) = ends();
    assert!(
        timeout(LIMIT * 2, beats.silence()).await.is_err(),
        "it has not begun"
    );
    heart.beat_at(FOLLOWS, boottime());
    let begun = Instant::now();
    beats.silence().await;
    let silent = begun.elapsed();
    assert!(silent >= LIMIT, "{silent:?}");
}

/// Without the engine the Raft thread's beats are withheld, and come back with it.
#[tokio::test]
async fn a_stuck_engine_silences_the_heart() {
    let (heart, beats) = ends();
    let start = boottime();
    let (publish, view) = watch::channel(EngineView::default());
    heart.watch_engine(view);
    // Starting counts as living.
    heart.beat_at(FOLLOWS, start + ENGINE_LIMIT / 2);
    publish.send_modify(|view| view.at = start + ENGINE_LIMIT / 2);
    heart.beat_at(
        LEADS,
        start + ENGINE_LIMIT * 3 / 2 - Duration::from_millis(1),
    );
    let silent = Pulse {
        epoch: 1,
        ..FOLLOWS
    };
    heart.beat_at(
        silent,
        start + ENGINE_LIMIT * 3 / 2 + Duration::from_secs(1),
    );
    assert_eq!(beats.last, None);
    assert_eq!(beats.last_words(), Some(LEADS));
    let (_, beats) = ends();
    drop(beats);
    publish.send_modify(|view| view.at = start + ENGINE_LIMIT * 2);
    heart.beat_at(silent, start + ENGINE_LIMIT * 2);
    assert!(!heart.state.lock().unwrap().withheld);
}
