//! Who may speak, and how the link heals. Real sockets and TLS on loopback.
#![allow(clippy::unwrap_used)]

mod security;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tandem_replication_core::eraftpb::Message;
use tandem_replication_core::{Envelope, MessageClass, PeerMessage, ReplicaId, Slot};
use tokio::runtime::Runtime;

mod certificates;

use super::{Link, LinkSettings};
use crate::mailbox::{Mail, Mailbox, Report};
use crate::pki::{Credentials, KeyPaths, create_pair};

/// Generous: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    link: Link,
    mailbox: Arc<Mailbox>,
}

struct Fixture {
    runtime: Runtime,
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        for pair in ["ours", "theirs"] {
            create_pair(&directory.path().join(pair), pair).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Fixture { runtime, directory }
    }

    /// `own` is who the node believes to be, `certificate` whose keys it holds.
    fn node(
        &self,
        own: Slot,
        (pair, certificate): (&str, Slot),
        listen: SocketAddr,
        peer: (Slot, SocketAddr),
    ) -> Node {
        let keys = self
            .directory
            .path()
            .join(pair)
            .join(certificate.to_string());
        let settings = LinkSettings {
            own,
            listen,
            peers: BTreeMap::from([peer]),
        };
        let mailbox = Arc::new(Mailbox::default());
        let credentials = load(&keys, certificate);
        let link = Link::start(&settings, credentials, &mailbox, self.runtime.handle()).unwrap();
        Node { link, mailbox }
    }

    fn stop(&self, node: &Node) {
        node.link.stop(self.runtime.handle());
    }
}

fn load(keys: &Path, slot: Slot) -> Credentials {
    Credentials::load(&KeyPaths::in_directory(keys), slot).unwrap()
}

/// An address no other test is given, not even while nobody is bound to it.
fn free_address() -> SocketAddr {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let [high, low] = GIVEN.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // Tests of other processes are told apart by the port.
    let port = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    SocketAddr::from(([127, 64, high, low], port))
}

fn message(from: Slot, to: Slot, bytes: usize) -> Envelope {
    let message = Message {
        from: ReplicaId::first(from).get(),
        to: ReplicaId::first(to).get(),
        context: vec![7; bytes].into(),
        ..Message::default()
    };
    Envelope {
        generation: 3,
        message: PeerMessage::Raft(message),
    }
}

fn context_bytes(envelope: &Envelope) -> usize {
    match &envelope.message {
        PeerMessage::Raft(message) => message.context.len(),
        PeerMessage::Hello(_) => 0,
    }
}

impl Node {
    /// Takes mail until some of it is what was waited for.
    fn wait<T>(&self, what: &str, mut pick: impl FnMut(Mail) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let remaining = PATIENCE.checked_sub(begun.elapsed());
            let remaining = remaining.unwrap_or_else(|| panic!("never came: {what}"));
            if let Some(picked) = pick(self.mailbox.take(remaining)) {
                return picked;
            }
        }
    }

    fn wait_up(&self) {
        self.wait("peer up", |mail| {
            mail.reports
                .iter()
                .any(|report| matches!(report, Report::PeerUp(_)))
                .then_some(())
        });
    }

    fn receive(&self) -> Envelope {
        self.wait("a message", |mut mail| mail.messages.pop_front())
            .envelope
    }

    /// Sends until it arrives: single messages may be lost. Others are of no interest.
    fn send_until_received(&self, message: &Envelope, to: &Node, class: MessageClass) {
        let begun = Instant::now();
        let PeerMessage::Raft(raft) = &message.message else {
            panic!("not a Raft message");
        };
        let peer = ReplicaId::try_from(raft.to).unwrap();
        loop {
            self.link.send(peer, message.clone(), class);
            let mail = to.mailbox.take(Duration::from_millis(10));
            if mail
                .messages
                .iter()
                .any(|received| received.envelope == *message)
            {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "never arrived: {:?}",
                self.link.counters()
            );
        }
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        thread::yield_now();
    }
}

#[test]
fn every_class_of_message_arrives_whole() {
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    let a = fixture.node(Slot::A, ("ours", Slot::A), at_a, (Slot::B, at_b));
    let b = fixture.node(Slot::B, ("ours", Slot::B), at_b, (Slot::A, at_a));
    a.wait_up();
    let to = ReplicaId::first(Slot::B);
    for (class, bytes) in [
        (MessageClass::Datagram, 100),
        // Too large for a datagram: takes the stream instead.
        (MessageClass::Datagram, 5_000),
        (MessageClass::Stream, 0),
        (MessageClass::Stream, 1 << 20),
        (MessageClass::Snapshot, 20 << 20),
    ] {
        let sent = message(Slot::A, Slot::B, bytes);
        assert!(a.link.send(to, sent.clone(), class), "{class:?}");
        assert_eq!(b.receive(), sent, "{class:?} of {bytes}");
    }
    let ok = a.wait("the snapshot's report", |mail| {
        mail.reports.iter().find_map(|report| match report {
            Report::SnapshotSent { ok, .. } => Some(*ok),
            _ => None,
        })
    });
    assert!(ok);
    // Order on the stream.
    for bytes in 1..200 {
        assert!(
            a.link
                .send(to, message(Slot::A, Slot::B, bytes), MessageClass::Stream)
        );
    }
    let mut expected = 1;
    b.wait("all of them", |mail| {
        for received in mail.messages {
            assert_eq!(context_bytes(&received.envelope), expected);
            expected += 1;
        }
        (expected == 200).then_some(())
    });
    // Beyond the frame limit: dropped and counted, and the stream goes on.
    assert!(
        a.link
            .send(to, message(Slot::A, Slot::B, 9 << 20), MessageClass::Stream)
    );
    a.send_until_received(&message(Slot::A, Slot::B, 3), &b, MessageClass::Stream);
    assert_eq!(a.link.counters().dropped_oversize, 1);
    fixture.stop(&a);
    fixture.stop(&b);
}

#[test]
fn a_node_of_another_pair_is_refused() {
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    let a = fixture.node(Slot::A, ("ours", Slot::A), at_a, (Slot::B, at_b));
    let stranger = fixture.node(Slot::B, ("theirs", Slot::B), at_b, (Slot::A, at_a));
    wait_until("both refuse", || {
        [&a, &stranger].iter().all(|node| {
            let counters = node.link.counters();
            counters.refused > 0 && counters.dial_failures > 0
        })
    });
    assert_eq!(
        (
            a.link.counters().connected,
            stranger.link.counters().connected
        ),
        (0, 0)
    );
    assert_eq!(
        (
            a.link.counters().accepted,
            stranger.link.counters().accepted
        ),
        (0, 0)
    );
    let sent = stranger.link.send(
        ReplicaId::first(Slot::A),
        message(Slot::B, Slot::A, 0),
        MessageClass::Stream,
    );
    assert!(!sent && stranger.link.counters().dropped_unconnected == 1);
    fixture.stop(&a);
    fixture.stop(&stranger);
}

#[test]
fn a_node_in_another_slot_than_its_certificates_is_refused() {
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    // At b's address answers a node with the witness's certificate.
    let a = fixture.node(Slot::A, ("ours", Slot::A), at_a, (Slot::B, at_b));
    let impostor = fixture.node(Slot::B, ("ours", Slot::Witness), at_b, (Slot::A, at_a));
    wait_until("a does not connect to it", || {
        a.link.counters().dial_failures > 0
    });
    assert_eq!(a.link.counters().connected, 0);
    // It may connect, as what it is. What it says in b's name is dropped.
    impostor.wait_up();
    let lie = message(Slot::B, Slot::A, 10);
    let truth = message(Slot::Witness, Slot::A, 10);
    for class in [
        MessageClass::Datagram,
        MessageClass::Stream,
        MessageClass::Snapshot,
    ] {
        assert!(
            impostor
                .link
                .send(ReplicaId::first(Slot::A), lie.clone(), class)
        );
    }
    wait_until("all lies are counted", || {
        a.link.counters().wrong_sender == 3
    });
    impostor.send_until_received(&truth, &a, MessageClass::Stream);
    assert_eq!(a.link.counters().wrong_sender, 3);
    fixture.stop(&a);
    fixture.stop(&impostor);
}

/// A peer that was away long is dialled as soon as it shows itself, not when the pause between attempts is over: it
/// must hear what became of the pair before it elects anybody.
#[test]
fn a_peer_that_comes_back_is_dialled_at_once() {
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    let a = fixture.node(Slot::A, ("ours", Slot::A), at_a, (Slot::B, at_b));
    // By then the pause is a second.
    wait_until("the pauses are long", || {
        a.link.counters().dial_failures >= 5
    });
    let begun = Instant::now();
    let b = fixture.node(Slot::B, ("ours", Slot::B), at_b, (Slot::A, at_a));
    a.wait_up();
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(400), "{took:?}");
    fixture.stop(&a);
    fixture.stop(&b);
}

/// A peer whose build is newer: what it says is dropped and counted, whatever it is, and its connection stays.
#[test]
fn what_a_build_of_another_version_says_is_dropped_and_counted() {
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    let a = fixture.node(Slot::A, ("ours", Slot::A), at_a, (Slot::B, at_b));
    let keys = fixture.directory.path().join("ours").join("b");
    let client = super::QuicConfig::new(load(&keys, Slot::B)).unwrap().client;
    fixture.runtime.block_on(async {
        let mut endpoint = quinn::Endpoint::client(at_b).unwrap();
        endpoint.set_default_client_config(client);
        let name = crate::pki::server_name(Slot::A);
        let connection = endpoint.connect(at_a, &name).unwrap().await.unwrap();
        let mut newer = message(Slot::B, Slot::A, 10).encode().to_vec();
        newer[0] += 1;
        connection.send_datagram(newer.clone().into()).unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        stream
            .write_all(&[1, 0, 0, 0, newer.len() as u8])
            .await
            .unwrap();
        stream.write_all(&newer).await.unwrap();
        let mut snapshot = connection.open_uni().await.unwrap();
        snapshot.write_all(&[2]).await.unwrap();
        snapshot.write_all(&newer).await.unwrap();
        snapshot.finish().unwrap();
        // The same connection, once the build is ours again.
        let ours = message(Slot::B, Slot::A, 11).encode();
        stream
            .write_all(&[0, 0, 0, ours.len() as u8])
            .await
            .unwrap();
        stream.write_all(&ours).await.unwrap();
        wait_until("all three are counted", || {
            a.link.counters().other_version == 3
        });
        assert_eq!(a.receive(), message(Slot::B, Slot::A, 11));
        assert_eq!(a.link.counters().malformed, 0);
        assert!(connection.close_reason().is_none());
    });
    fixture.stop(&a);
}

#[test]
fn a_node_with_our_own_certificate_is_refused() {
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    let a = fixture.node(Slot::A, ("ours", Slot::A), at_a, (Slot::B, at_b));
    let twin = fixture.node(Slot::B, ("ours", Slot::A), at_b, (Slot::A, at_a));
    wait_until("refused", || a.link.counters().refused > 0);
    assert_eq!(a.link.counters().accepted, 0);
    fixture.stop(&a);
    fixture.stop(&twin);
}

#[test]
fn a_short_outage_costs_no_connection_and_a_long_one_heals() {
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    let wire = Wire::to(at_b);
    let a = fixture.node(Slot::A, ("ours", Slot::A), at_a, (Slot::B, wire.address));
    let b = fixture.node(Slot::B, ("ours", Slot::B), at_b, (Slot::A, at_a));
    a.wait_up();
    let probe = |number| message(Slot::A, Slot::B, number);
    a.send_until_received(&probe(1), &b, MessageClass::Datagram);

    wire.cut();
    // The length of the outage is what is tested.
    thread::sleep(Duration::from_millis(700));
    wire.mend();
    a.send_until_received(&probe(2), &b, MessageClass::Datagram);
    assert_eq!(a.link.counters().disconnected, 0);

    wire.cut();
    a.wait("the loss is noticed", |mail| {
        mail.reports
            .iter()
            .any(|report| matches!(report, Report::PeerDown(Slot::B)))
            .then_some(())
    });
    wire.mend();
    a.send_until_received(&probe(3), &b, MessageClass::Stream);
    assert_eq!(
        (a.link.counters().disconnected, a.link.counters().connected),
        (1, 2)
    );
    fixture.stop(&a);
    fixture.stop(&b);
}

/// The stateless reset keys outlive the process, so nobody waits for an idle timeout.
#[test]
fn a_crashed_and_restarted_peer_is_dialled_anew_at_once() {
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    let wire = Wire::to(at_b);
    let a = fixture.node(Slot::A, ("ours", Slot::A), at_a, (Slot::B, wire.address));
    let b = fixture.node(Slot::B, ("ours", Slot::B), at_b, (Slot::A, at_a));
    a.wait_up();
    let probe = message(Slot::A, Slot::B, 10);
    a.send_until_received(&probe, &b, MessageClass::Datagram);

    // As in a crash, nothing is heard of the end.
    wire.cut();
    let cut = Instant::now();
    fixture.stop(&b);
    let b = fixture.node(Slot::B, ("ours", Slot::B), at_b, (Slot::A, at_a));
    wire.mend();
    let mended = Instant::now();
    a.send_until_received(&probe, &b, MessageClass::Datagram);
    let healed = mended.elapsed();
    // The idle timeout would have run out this long after the wire was mended.
    let idle = Duration::from_millis(u64::from(super::tls::IDLE_TIMEOUT_MS));
    let patience = idle.saturating_sub(mended - cut);
    assert!(healed < patience / 2, "{healed:?} of {patience:?}");
    assert_eq!(a.link.counters().connected, 2);
    fixture.stop(&a);
    fixture.stop(&b);
}

/// A wire that can be cut: forwards one client's datagrams to a node and its answers back.
struct Wire {
    address: SocketAddr,
    intact: Arc<AtomicBool>,
}

impl Wire {
    fn to(node: SocketAddr) -> Wire {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        let intact = Arc::new(AtomicBool::new(true));
        let (answers, answered) = (back.try_clone().unwrap(), front.try_clone().unwrap());
        let client = Arc::new(std::sync::Mutex::new(None));
        let (forward, known) = (Arc::clone(&intact), Arc::clone(&client));
        // Both threads end with the test process.
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, source)) = front.recv_from(&mut buffer) {
                *client.lock().unwrap() = Some(source);
                if forward.load(Ordering::Relaxed) {
                    let _ = back.send_to(&buffer[..length], node);
                }
            }
        });
        let backward = Arc::clone(&intact);
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                // An unreachable node shows as an error; the wire stays.
                let Ok((length, _)) = answers.recv_from(&mut buffer) else {
                    continue;
                };
                let client: Option<SocketAddr> = *known.lock().unwrap();
                if let (true, Some(client)) = (backward.load(Ordering::Relaxed), client) {
                    let _ = answered.send_to(&buffer[..length], client);
                }
            }
        });
        Wire { address, intact }
    }

    fn cut(&self) {
        self.intact.store(false, Ordering::Relaxed);
    }

    fn mend(&self) {
        self.intact.store(true, Ordering::Relaxed);
    }
}
