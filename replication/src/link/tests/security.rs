//! Who is refused, what a peer may not send, and what nobody on the way can read. In each test the pair goes on.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use tandem_replication_core::{ENVELOPE_VERSION, MessageClass, PeerMessage, ReplicaId, Slot};
use tokio::runtime::Runtime;

use super::super::frame::{SNAPSHOT_LIMIT, STREAM_FRAME_LIMIT, StreamKind};
use super::super::tls::{ALPN, QuicConfig};
use super::super::{Link, LinkSettings};
use super::{Node, PATIENCE, free_address, message, wait_until};
use crate::mailbox::Mailbox;
use crate::pki::{Credentials, server_name};

/// Years in which the certificates of these tests are valid.
const VALID: Range<i32> = 2020..2120;

/// A certification authority.
struct Authority {
    certificate: CertificateDer<'static>,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority {
            certificate,
            params,
            key,
        }
    }

    fn node(&self, slot: Slot) -> Credentials {
        self.issue(request(&[&server_name(slot)], VALID))
    }

    /// Keys of a node that trusts this authority and shows a certificate of it.
    fn issue(&self, (params, key): (CertificateParams, KeyPair)) -> Credentials {
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        self.trusting(certificate, &key)
    }

    /// Keys of a node that trusts this authority and shows a certificate that it made itself.
    fn self_signed(&self, slot: Slot) -> Credentials {
        let (params, key) = request(&[&server_name(slot)], VALID);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        self.trusting(certificate, &key)
    }

    fn trusting(&self, certificate: CertificateDer<'static>, key: &KeyPair) -> Credentials {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Credentials {
            roots,
            chain: vec![certificate],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

fn request(names: &[&str], years: Range<i32>) -> (CertificateParams, KeyPair) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(years.start, 1, 1);
    params.not_after = date_time_ymd(years.end, 1, 1);
    (params, KeyPair::generate().unwrap())
}

struct Nodes {
    runtime: Runtime,
    authority: Authority,
}

impl Nodes {
    fn new() -> Nodes {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let authority = Authority::new();
        Nodes { runtime, authority }
    }

    fn start<const PEERS: usize>(
        &self,
        own: Slot,
        credentials: Credentials,
        listen: SocketAddr,
        peers: [(Slot, SocketAddr); PEERS],
    ) -> Node {
        let settings = LinkSettings {
            own,
            listen,
            peers: BTreeMap::from(peers),
        };
        let mailbox = Arc::new(Mailbox::default());
        let link = Link::start(&settings, credentials, &mailbox, self.runtime.handle()).unwrap();
        Node { link, mailbox }
    }

    /// `a`, and `b` connected to it; at `witness` nobody yet. `b` does not know the witness.
    fn pair(&self, witness: SocketAddr) -> (Node, Node, SocketAddr) {
        let (at_a, at_b) = (free_address(), free_address());
        let peers = [(Slot::B, at_b), (Slot::Witness, witness)];
        let a = self.start(Slot::A, self.authority.node(Slot::A), at_a, peers);
        let b = self.start(
            Slot::B,
            self.authority.node(Slot::B),
            at_b,
            [(Slot::A, at_a)],
        );
        goes_on(&a, &b);
        (a, b, at_a)
    }

    fn stop<const NODES: usize>(&self, nodes: [&Node; NODES]) {
        for node in nodes {
            node.link.stop(self.runtime.handle());
        }
    }
}

/// Messages of every class reach the other data node in both directions.
fn goes_on(a: &Node, b: &Node) {
    for class in [MessageClass::Datagram, MessageClass::Stream] {
        a.send_until_received(&message(Slot::A, Slot::B, 10), b, class);
        b.send_until_received(&message(Slot::B, Slot::A, 10), a, class);
    }
}

/// Whoever cannot show a valid certificate of the pair's own CA for the slot it stands in is refused when it dials and
/// when it is dialled.
#[test]
fn certificates_that_prove_nothing_are_refused_in_both_directions() {
    let nodes = Nodes::new();
    let ours = &nodes.authority;
    let witness = server_name(Slot::Witness);
    let (mut both, both_key) = request(&[&witness], VALID);
    both.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let strangers = [
        ("another CA", Authority::new().node(Slot::Witness)),
        (
            "another CA, but trusting ours",
            Credentials {
                roots: ours.node(Slot::Witness).roots,
                ..Authority::new().node(Slot::Witness)
            },
        ),
        ("self-signed", ours.self_signed(Slot::Witness)),
        ("expired", ours.issue(request(&[&witness], 2019..2024))),
        (
            "not yet valid",
            ours.issue(request(&[&witness], 2120..2130)),
        ),
        (
            "another name",
            ours.issue(request(&["witness.example"], VALID)),
        ),
        ("another purpose", ours.issue((both, both_key))),
    ];
    for (what, credentials) in strangers {
        let at_witness = free_address();
        let (a, b, at_a) = nodes.pair(at_witness);
        let before = a.link.counters();
        let stranger = nodes.start(Slot::Witness, credentials, at_witness, [(Slot::A, at_a)]);
        wait_until(what, || {
            let now = a.link.counters();
            now.refused > before.refused && now.dial_failures > before.dial_failures
        });
        // It may send as much as it likes.
        let lie = message(Slot::Witness, Slot::A, 10);
        stranger
            .link
            .send(ReplicaId::first(Slot::A), lie, MessageClass::Stream);
        goes_on(&a, &b);
        let counters = a.link.counters();
        // The other data node's connection, and no other.
        assert_eq!((counters.accepted, counters.connected), (1, 1), "{what}");
        assert_eq!(
            (counters.wrong_sender, counters.malformed),
            (0, 0),
            "{what}"
        );
        assert!(!a.link.is_connected(Slot::Witness), "{what}");
        nodes.stop([&a, &b, &stranger]);
    }
}

/// A certificate that names two slots proves neither.
#[test]
fn a_certificate_for_two_slots_speaks_for_none() {
    let nodes = Nodes::new();
    let at_witness = free_address();
    let (a, b, at_a) = nodes.pair(at_witness);
    let names = [server_name(Slot::Witness), server_name(Slot::B)];
    let credentials = nodes
        .authority
        .issue(request(&[&names[0], &names[1]], VALID));
    let two = nodes.start(Slot::Witness, credentials, at_witness, [(Slot::A, at_a)]);
    wait_until("refused", || a.link.counters().refused > 0);
    assert_eq!(a.link.counters().accepted, 1);
    goes_on(&a, &b);
    nodes.stop([&a, &b, &two]);
}

/// Keys of one slot do not make their holder another: what it says in the other's name is dropped.
#[test]
fn the_keys_of_one_slot_do_not_speak_for_another() {
    let nodes = Nodes::new();
    let (at_a, at_b) = (free_address(), free_address());
    let keys = |slot| nodes.authority.node(slot);
    let b = nodes.start(
        Slot::B,
        keys(Slot::B),
        at_b,
        [(Slot::A, at_a), (Slot::Witness, free_address())],
    );
    let a = nodes.start(Slot::A, keys(Slot::A), at_a, [(Slot::B, at_b)]);
    goes_on(&a, &b);
    // Dials b as the witness, with the keys of a.
    let thief = nodes.start(
        Slot::Witness,
        keys(Slot::A),
        free_address(),
        [(Slot::B, at_b)],
    );
    thief.wait_up();
    let lie = message(Slot::Witness, Slot::B, 10);
    wait_until("the lie is counted", || {
        thief.link.send(
            ReplicaId::first(Slot::B),
            lie.clone(),
            MessageClass::Datagram,
        );
        b.link.counters().wrong_sender > 0
    });
    let mail = b.mailbox.take(std::time::Duration::ZERO);
    assert!(
        mail.messages
            .iter()
            .all(|received| received.envelope != lie)
    );
    nodes.stop([&thief]);
    goes_on(&a, &b);
    nodes.stop([&a, &b]);
}

/// A client without the machinery around it.
struct Raw {
    endpoint: Endpoint,
}

impl Raw {
    /// To be called within a runtime.
    fn new(config: ClientConfig) -> Raw {
        let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        endpoint.set_default_client_config(config);
        Raw { endpoint }
    }

    async fn connect(
        &self,
        address: SocketAddr,
        slot: Slot,
    ) -> Result<Connection, ConnectionError> {
        self.endpoint
            .connect(address, &server_name(slot))
            .unwrap()
            .await
    }
}

/// How the other side ended the connection.
async fn closed(connection: &Connection, what: &str) -> ConnectionError {
    let closed = tokio::time::timeout(PATIENCE, connection.closed()).await;
    closed.unwrap_or_else(|_| panic!("never closed: {what}"))
}

/// A client of our CA that shows no certificate, or speaks another version.
fn bare(credentials: Credentials, alpn: &[u8], show: bool) -> ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(credentials.roots);
    let mut client = if show {
        builder
            .with_client_auth_cert(credentials.chain, credentials.key)
            .unwrap()
    } else {
        builder.with_no_client_auth()
    };
    client.alpn_protocols = vec![alpn.to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()))
}

#[test]
fn without_a_certificate_or_with_another_version_there_is_no_connection() {
    let nodes = Nodes::new();
    let (a, b, at_a) = nodes.pair(free_address());
    let keys = || nodes.authority.node(Slot::Witness);
    for (number, config) in [bare(keys(), ALPN, false), bare(keys(), b"tandem/0", true)]
        .into_iter()
        .enumerate()
    {
        let error = nodes.runtime.block_on(async {
            // A client believes in its connection until the server's refusal arrives.
            match Raw::new(config).connect(at_a, Slot::A).await {
                Ok(connection) => closed(&connection, "a refusal").await,
                Err(error) => error,
            }
        });
        assert!(
            matches!(error, ConnectionError::ConnectionClosed(_)),
            "{error}"
        );
        let refused = u64::try_from(number).unwrap() + 1;
        wait_until("counted", || a.link.counters().refused == refused);
    }
    // What was tried is possible with a certificate and the right version.
    nodes.runtime.block_on(async {
        let connection = Raw::new(bare(keys(), ALPN, true))
            .connect(at_a, Slot::A)
            .await
            .unwrap();
        wait_until("accepted", || a.link.counters().accepted == 2);
        connection.close(0u32.into(), b"");
    });
    goes_on(&a, &b);
    nodes.stop([&a, &b]);
}

fn framed(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&length.to_be_bytes(), content].concat()
}

/// As a Raft message in an envelope.
fn headed(content: &[u8]) -> Vec<u8> {
    [&[ENVELOPE_VERSION, 1, 0], content].concat()
}

/// What ends a connection: the kind of a stream and what is on it.
fn breaches() -> Vec<(&'static str, u8, Vec<u8>)> {
    let messages = StreamKind::Messages.byte();
    vec![
        (
            "a frame beyond the limit",
            messages,
            (STREAM_FRAME_LIMIT + 1).to_be_bytes().to_vec(),
        ),
        (
            "a frame of the largest length",
            messages,
            u32::MAX.to_be_bytes().to_vec(),
        ),
        ("no message", messages, framed(&headed(b"\xff\xff\xff"))),
        ("nested groups", messages, framed(&headed(&[0x0b; 1000]))),
        (
            "four million entries",
            messages,
            framed(&headed(&[0x3a, 0x00].repeat(4 << 20)[..(8 << 20) - 3])),
        ),
        ("a stream of no kind", 9, vec![0; 8]),
        (
            "no message in a snapshot",
            StreamKind::Snapshot.byte(),
            headed(&[0xff; 8]),
        ),
        (
            "a snapshot beyond the limit",
            StreamKind::Snapshot.byte(),
            vec![0; SNAPSHOT_LIMIT + 1],
        ),
    ]
}

/// A frame beyond the limit, and whatever else is not of the format, ends the connection and is counted. The peer may
/// come back.
#[test]
fn a_breach_of_the_format_ends_the_connection_and_is_counted() {
    let nodes = Nodes::new();
    let (a, b, at_a) = nodes.pair(free_address());
    let client = QuicConfig::new(nodes.authority.node(Slot::Witness))
        .unwrap()
        .client;
    let messages = StreamKind::Messages.byte();
    let breaches = breaches();
    let count = breaches.len() as u64;
    nodes.runtime.block_on(async {
        let witness = Raw::new(client);
        for (what, kind, bytes) in breaches {
            let connection = witness.connect(at_a, Slot::A).await.unwrap();
            let mut stream = connection.open_uni().await.unwrap();
            // The connection may be closed before all of it is gone.
            let _ = stream
                .write_all(&[&[kind], bytes.as_slice()].concat())
                .await;
            let _ = stream.finish();
            let closed = closed(&connection, what).await;
            let code = match &closed {
                ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
                other => panic!("{what}: {other}"),
            };
            assert_eq!(code, 3, "{what}");
        }
        assert_eq!(a.link.counters().malformed, count);

        // A datagram is dropped, and its connection goes on.
        let connection = witness.connect(at_a, Slot::A).await.unwrap();
        connection
            .send_datagram(headed(b"\xff\xff\xff").into())
            .unwrap();
        let sent = message(Slot::Witness, Slot::A, 20);
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&[messages]).await.unwrap();
        stream.write_all(&framed(&sent.encode())).await.unwrap();
        wait_until("the datagram is counted", || {
            a.link.counters().malformed == count + 1
        });
        a.wait("the message behind it", |mail| {
            mail.messages
                .iter()
                .any(|received| received.envelope == sent)
                .then_some(())
        });
        assert!(connection.close_reason().is_none());
    });
    goes_on(&a, &b);
    nodes.stop([&a, &b]);
}

/// A wire that remembers all it has carried.
struct Tap {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    fn to(node: SocketAddr) -> Tap {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let client = Arc::new(Mutex::new(None));
        let (answers, answered) = (back.try_clone().unwrap(), front.try_clone().unwrap());
        let (forward, known) = (Arc::clone(&seen), Arc::clone(&client));
        // Both threads end with the test process.
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((length, source)) = front.recv_from(&mut buffer) {
                *client.lock().unwrap() = Some(source);
                forward.lock().unwrap().push(buffer[..length].to_vec());
                let _ = back.send_to(&buffer[..length], node);
            }
        });
        let backward = Arc::clone(&seen);
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            loop {
                let Ok((length, _)) = answers.recv_from(&mut buffer) else {
                    continue;
                };
                backward.lock().unwrap().push(buffer[..length].to_vec());
                let client: Option<SocketAddr> = *known.lock().unwrap();
                if let Some(client) = client {
                    let _ = answered.send_to(&buffer[..length], client);
                }
            }
        });
        Tap { address, seen }
    }

    /// Whether a datagram has carried these bytes.
    fn carried(&self, bytes: &[u8]) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .any(|datagram| datagram.windows(bytes.len()).any(|window| window == bytes))
    }

    fn bytes(&self) -> usize {
        self.seen.lock().unwrap().iter().map(Vec::len).sum()
    }
}

#[test]
fn nothing_is_sent_in_clear() {
    // Short enough to lie within one packet wherever packets are cut, as it is repeated.
    const SECRET: &[u8] = b"inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
    let nodes = Nodes::new();
    let (at_a, at_b) = (free_address(), free_address());
    let tap = Tap::to(at_b);
    let a = nodes.start(
        Slot::A,
        nodes.authority.node(Slot::A),
        at_a,
        [(Slot::B, tap.address)],
    );
    let b = nodes.start(
        Slot::B,
        nodes.authority.node(Slot::B),
        at_b,
        [(Slot::A, at_a)],
    );
    a.wait_up();
    let carries = |repeats: usize| {
        let mut sent = message(Slot::A, Slot::B, 0);
        if let PeerMessage::Raft(message) = &mut sent.message {
            message.context = SECRET.repeat(repeats).into();
        }
        sent
    };
    a.send_until_received(&carries(4), &b, MessageClass::Datagram);
    for (class, repeats) in [(MessageClass::Stream, 500), (MessageClass::Snapshot, 5000)] {
        let sent = carries(repeats);
        assert!(a.link.send(ReplicaId::first(Slot::B), sent.clone(), class));
        b.wait("what goes over the wire", |mail| {
            mail.messages
                .iter()
                .any(|received| received.envelope == sent)
                .then_some(())
        });
    }
    assert!(
        tap.bytes() > SECRET.len() * 5504,
        "all of it went over the wire"
    );
    // Neither the value nor half of it, nor the name of who sends it.
    for readable in [
        SECRET,
        &SECRET[..16],
        &SECRET[24..],
        &server_name(Slot::A).into_bytes(),
    ] {
        assert!(!tap.carried(readable), "{}", readable.escape_ascii());
    }

    // The tap would have seen it.
    let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
    wait_until("the tap sees clear text", || {
        plain.send_to(SECRET, tap.address).unwrap();
        tap.carried(&SECRET[24..])
    });
    nodes.stop([&a, &b]);
}

/// The private number of an elliptic curve key: the rest of its encoding is public.
fn secret(credentials: &Credentials) -> Vec<u8> {
    // RFC 5915: version 1, then an octet string of 32 bytes.
    const BEFORE: &[u8] = &[0x02, 0x01, 0x01, 0x04, 0x20];
    let der = credentials.key.secret_der();
    let at = der
        .windows(BEFORE.len())
        .position(|window| window == BEFORE)
        .unwrap()
        + BEFORE.len();
    der[at..at + 32].to_vec()
}

/// Key material in any form that it might be printed in.
fn forms(key: &[u8]) -> Vec<String> {
    let decimal: Vec<String> = key.iter().map(u8::to_string).collect();
    let hex: Vec<String> = key.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        decimal.join(", "),
        hex.concat(),
        hex.concat().to_uppercase(),
        hex.join(":"),
        hex.join(", "),
    ]
}

#[test]
fn no_type_prints_the_private_key() {
    let credentials = Authority::new().node(Slot::A);
    let key = secret(&credentials);
    let mut printed = vec![format!("{credentials:?}"), format!("{credentials:#?}")];
    let config = QuicConfig::new(credentials).unwrap();
    printed.extend([format!("{config:?}"), format!("{config:#?}")]);
    let nodes = Nodes::new();
    let own = nodes.authority.node(Slot::A);
    let keys = [key, secret(&own)];
    let a = nodes.start(Slot::A, own, free_address(), []);
    printed.extend([format!("{:?}", a.link), format!("{:#?}", a.link)]);
    for text in &printed {
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for key in &keys {
            // Any eight bytes of it in a row.
            for part in key.windows(8).flat_map(forms) {
                assert!(!text.contains(&part), "{text}");
            }
        }
    }
    nodes.stop([&a]);
}
