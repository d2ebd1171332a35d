//! Two phones over the loopback with a wire between them that loses, repeats and swaps packets:
//! what the phones report must be what the wire did.
// A skipped test says so on standard output.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tandem_chaos::phone::voice::{CallIndex, Party, Voices};
use tandem_chaos::phone::{CallReport, CallState, Network, Phone, PhoneSettings};

const LIMIT: Duration = Duration::from_secs(20);

/// The test process's own network.
struct Loopback;

impl Network for Loopback {
    fn bind(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        UdpSocket::bind(address)
    }
}

fn settings(party: Party, subnet: u8, voices: &Voices) -> PhoneSettings {
    let (here, there) = match party {
        Party::Caller => (1, 2),
        Party::Callee => (2, 1),
    };
    PhoneSettings {
        party,
        sip: format!("127.77.{subnet}.{here}:5060").parse().unwrap(),
        proxy: format!("127.77.{subnet}.{there}:5060").parse().unwrap(),
        first_media_port: 30_000,
        seed: 5,
        voices: voices.clone(),
        answer_after: Duration::from_millis(100),
        held: BTreeSet::new(),
    }
}

fn calls(count: u32) -> Vec<CallIndex> {
    (0..count).map(CallIndex).collect()
}

fn established(report: &CallReport) -> bool {
    report.state == CallState::Established
}

#[tokio::test]
async fn twenty_calls_talk_both_ways_and_end() {
    let voices = Voices::new(1);
    let caller = Phone::start(settings(Party::Caller, 1, &voices), Arc::new(Loopback)).unwrap();
    let callee = Phone::start(settings(Party::Callee, 1, &voices), Arc::new(Loopback)).unwrap();
    let calls = calls(20);
    for index in &calls {
        caller.dial(*index).await.unwrap();
    }
    assert_eq!(caller.await_calls(&calls, LIMIT, established).await, []);
    assert_eq!(callee.await_calls(&calls, LIMIT, established).await, []);
    flow(&caller, &callee, &calls).await;
    caller.media().open_window();
    callee.media().open_window();
    flow(&caller, &callee, &calls).await;
    for phone in [&caller, &callee] {
        phone.media().close_window();
        phone.media().end_count();
    }
    // What was said before the count ended arrives while the streams go on.
    flow(&caller, &callee, &calls).await;
    for index in &calls {
        for (ear, mouth) in [(&caller, &callee), (&callee, &caller)] {
            let hearing = ear.media().hearing(*index, mouth.media());
            let tally = hearing.tally;
            assert!(tally.packets > 10, "{index}: {tally:?}");
            assert_eq!(
                (tally.lost, tally.duplicated, tally.reordered),
                (0, 0, 0),
                "{index}: {tally:?}"
            );
            assert_eq!(
                (
                    tally.content_mismatches,
                    tally.timestamp_errors,
                    tally.foreign
                ),
                (0, 0, 0)
            );
            assert!(
                hearing.longest_gap_ms.is_some_and(|gap| gap >= 5),
                "{index}: {hearing:?}"
            );
        }
        let phone = if index.0 % 2 == 0 { &caller } else { &callee };
        phone.hang_up(*index).await.unwrap();
    }
    let ended = |report: &CallReport| report.state == CallState::Ended;
    assert_eq!(caller.await_calls(&calls, LIMIT, ended).await, []);
    assert_eq!(callee.await_calls(&calls, LIMIT, ended).await, []);
    let answered = caller
        .calls()
        .values()
        .chain(callee.calls().values())
        .filter(|call| call.bye_status == Some(200))
        .count();
    assert_eq!(answered, calls.len());
}

#[tokio::test]
async fn held_calls_ring_until_answered() {
    let voices = Voices::new(2);
    let held = BTreeSet::from([CallIndex(1), CallIndex(3)]);
    let caller = Phone::start(settings(Party::Caller, 2, &voices), Arc::new(Loopback)).unwrap();
    let callee_settings = PhoneSettings {
        held: held.clone(),
        ..settings(Party::Callee, 2, &voices)
    };
    let callee = Phone::start(callee_settings, Arc::new(Loopback)).unwrap();
    for index in calls(4) {
        caller.dial(index).await.unwrap();
    }
    assert_eq!(
        caller
            .await_calls(&[CallIndex(0), CallIndex(2)], LIMIT, established)
            .await,
        []
    );
    let held: Vec<CallIndex> = held.into_iter().collect();
    assert_eq!(
        caller
            .await_calls(&held, LIMIT, |call| call.state == CallState::Ringing)
            .await,
        []
    );
    assert_eq!(
        caller
            .await_calls(&held, Duration::from_millis(200), established)
            .await,
        held
    );
    for index in &held {
        callee.answer(*index).await.unwrap();
    }
    assert_eq!(caller.await_calls(&held, LIMIT, established).await, []);
    flow(&caller, &callee, &held).await;
}

#[tokio::test]
async fn silence_is_measured_and_losses_are_counted() {
    let voices = Voices::new(3);
    let caller = Phone::start(settings(Party::Caller, 3, &voices), Arc::new(Loopback)).unwrap();
    let callee = Phone::start(settings(Party::Callee, 3, &voices), Arc::new(Loopback)).unwrap();
    let calls = calls(1);
    caller.dial(calls[0]).await.unwrap();
    assert_eq!(caller.await_calls(&calls, LIMIT, established).await, []);
    assert_eq!(callee.await_calls(&calls, LIMIT, established).await, []);
    flow(&caller, &callee, &calls).await;
    caller.media().open_window();
    callee.media().open_window();
    // The caller speaks into the void for 300 ms: its packets are sent and lost, the callee hears a
    // gap.
    let void = UdpSocket::bind("127.77.3.9:9").unwrap();
    caller.media().talk(calls[0], void.local_addr().unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    caller
        .media()
        .talk(calls[0], "127.77.3.2:30000".parse().unwrap());
    flow(&caller, &callee, &calls).await;
    for phone in [&caller, &callee] {
        phone.media().close_window();
        phone.media().end_count();
    }
    flow(&caller, &callee, &calls).await;
    let heard = callee.media().hearing(calls[0], caller.media());
    assert!((13..=17).contains(&heard.tally.lost), "{heard:?}");
    assert_eq!(heard.lost_in_window, heard.tally.lost);
    let gap = heard.longest_gap_ms.unwrap();
    assert!((280..=420).contains(&gap), "{heard:?}");
    assert_eq!(
        caller.media().hearing(calls[0], callee.media()).tally.lost,
        0
    );
}

/// What a spoiled wire did to one direction.
#[derive(Debug, Default, PartialEq, Eq)]
struct Spoiled {
    lost: u32,
    duplicated: u32,
    reordered: u32,
}

/// Carries `packets` packets to `destination`: of each ten it loses one, repeats one and swaps two.
fn spoil(socket: &UdpSocket, destination: SocketAddr, packets: u32) -> Spoiled {
    let mut spoiled = Spoiled::default();
    let mut buffer = [0; 2_048];
    let mut held = Vec::new();
    for number in 0..packets {
        let length = socket.recv(&mut buffer).unwrap();
        let packet = &buffer[..length];
        match number % 10 {
            3 => spoiled.lost += 1,
            5 => {
                socket.send_to(packet, destination).unwrap();
                socket.send_to(packet, destination).unwrap();
                spoiled.duplicated += 1;
            }
            7 => held = packet.to_vec(),
            8 => {
                socket.send_to(packet, destination).unwrap();
                socket.send_to(&held, destination).unwrap();
                spoiled.reordered += 1;
            }
            _ => {
                socket.send_to(packet, destination).unwrap();
            }
        }
    }
    spoiled
}

#[tokio::test(flavor = "multi_thread")]
async fn report_is_what_the_wire_did() {
    let voices = Voices::new(4);
    let caller = Phone::start(settings(Party::Caller, 4, &voices), Arc::new(Loopback)).unwrap();
    let callee = Phone::start(settings(Party::Callee, 4, &voices), Arc::new(Loopback)).unwrap();
    let calls = calls(1);
    caller.dial(calls[0]).await.unwrap();
    assert_eq!(caller.await_calls(&calls, LIMIT, established).await, []);
    flow(&caller, &callee, &calls).await;
    let before = callee.media().hearing(calls[0], caller.media());
    assert_eq!((before.tally.duplicated, before.tally.reordered), (0, 0));
    let wire = UdpSocket::bind("127.77.4.9:4000").unwrap();
    caller.media().talk(calls[0], wire.local_addr().unwrap());
    let destination = "127.77.4.2:30000".parse().unwrap();
    let spoiled = tokio::task::spawn_blocking(move || spoil(&wire, destination, 100))
        .await
        .unwrap();
    caller.media().talk(calls[0], destination);
    flow(&caller, &callee, &calls).await;
    caller.media().end_count();
    flow(&caller, &callee, &calls).await;
    let tally = callee.media().hearing(calls[0], caller.media()).tally;
    let heard = Spoiled {
        duplicated: tally.duplicated,
        reordered: tally.reordered,
        ..spoiled
    };
    assert_eq!(heard, spoiled);
    // Up to two more can be on their way to the wire when the caller turns away from it.
    assert!(
        (spoiled.lost..=spoiled.lost + 2).contains(&tally.lost),
        "{tally:?}"
    );
    assert_eq!(
        (
            tally.content_mismatches,
            tally.timestamp_errors,
            tally.foreign
        ),
        (0, 0, 0)
    );
}

/// A SIPp process; its scenario files lie in `directory`. None, said aloud, where SIPp is not
/// installed.
fn sipp(role: &str, address: &str, directory: &Path, more: &[&str]) -> Option<Child> {
    let scenario = match role {
        "caller" => include_str!("sipp/caller.xml"),
        _ => include_str!("sipp/callee.xml"),
    };
    std::fs::write(
        directory.join("scenario.xml"),
        scenario.replace("RING_MS", "500"),
    )
    .unwrap();
    std::fs::write(directory.join("speech.ulaw"), vec![0x5a; 16_000]).unwrap();
    let started = Command::new("sipp")
        .current_dir(directory)
        .env("TERM", "dumb")
        .args([
            "-sf",
            "scenario.xml",
            "-i",
            address,
            "-mi",
            address,
            "-p",
            "5060",
            "-nostdin",
        ])
        .args(["-timeout", "20", "-timeout_error"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Ok(child) => Some(child),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("skipped: needs the program sipp");
            None
        }
        Err(error) => panic!("sipp: {error}"),
    }
}

async fn success(mut sipp: Child) -> bool {
    tokio::task::spawn_blocking(move || sipp.wait().unwrap().success())
        .await
        .unwrap()
}

#[tokio::test]
async fn sipp_calls_our_callee() {
    let directory = tempfile::tempdir().unwrap();
    let voices = Voices::new(5);
    let callee = Phone::start(settings(Party::Callee, 5, &voices), Arc::new(Loopback)).unwrap();
    let mut numbers = String::from("SEQUENTIAL\n");
    for index in calls(10) {
        numbers.push_str(&format!("{};700\n", index.number(Party::Callee)));
    }
    std::fs::write(directory.path().join("calls.csv"), numbers).unwrap();
    let more = [
        "-inf",
        "calls.csv",
        "-m",
        "10",
        "-r",
        "20",
        "127.77.5.2:5060",
    ];
    let Some(sipp) = sipp("caller", "127.77.5.1", directory.path(), &more) else {
        return;
    };
    assert!(success(sipp).await, "a call failed in SIPp's eyes");
    for (index, call) in callee.calls() {
        assert!(call.established && call.bye_received, "{index}: {call:?}");
        assert_eq!(call.complaint_count, 0, "{index}: {call:?}");
    }
    assert_eq!(callee.calls().len(), 10);
}

#[tokio::test]
async fn our_caller_calls_sipp() {
    let directory = tempfile::tempdir().unwrap();
    let voices = Voices::new(6);
    let caller = Phone::start(settings(Party::Caller, 6, &voices), Arc::new(Loopback)).unwrap();
    let Some(sipp) = sipp("callee", "127.77.6.2", directory.path(), &["-m", "10"]) else {
        return;
    };
    let calls = calls(10);
    for index in &calls {
        caller.dial(*index).await.unwrap();
    }
    assert_eq!(caller.await_calls(&calls, LIMIT, established).await, []);
    for index in &calls {
        caller.hang_up(*index).await.unwrap();
    }
    let answered = |call: &CallReport| call.bye_status == Some(200);
    assert_eq!(caller.await_calls(&calls, LIMIT, answered).await, []);
    assert!(success(sipp).await, "a call failed in SIPp's eyes");
    assert!(
        caller
            .calls()
            .values()
            .all(|call| call.complaint_count == 0)
    );
}

async fn flow(caller: &Phone, callee: &Phone, calls: &[CallIndex]) {
    for phone in [caller, callee] {
        let flowing = tokio::time::timeout(LIMIT, phone.media().await_flow(calls)).await;
        assert!(flowing.is_ok(), "silent: {:?}", phone.media().silent(calls));
    }
}
