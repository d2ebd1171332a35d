//! Death certificates on the port that QUIC uses.

use tandem_replication_core::ReplicaId;

use super::*;
use crate::certificate::{CertificateSigner, DATAGRAM_LIMIT, DeathCertificate};

impl Fixture {
    fn certificate(&self, pair: &str, signer: Slot, of: Slot) -> Vec<u8> {
        let keys = self.directory.path().join(pair).join(signer.to_string());
        let signer = CertificateSigner::load(&KeyPaths::in_directory(&keys), signer).unwrap();
        signer.sign(&death(of)).unwrap()
    }
}

fn death(of: Slot) -> DeathCertificate {
    DeathCertificate {
        replica: ReplicaId::first(of),
        epoch: 3,
        life: 11,
        grace: Duration::ZERO,
    }
}

impl Node {
    fn wait_for_certificate(&self) -> DeathCertificate {
        self.wait("a certificate", |mut mail| mail.certificates.pop_front())
    }

    fn wait_for_counters(
        &self,
        what: &str,
        condition: impl Fn(super::super::LinkCounters) -> bool,
    ) {
        wait_until(what, || condition(self.link.counters()));
    }
}

/// Seen failing with each of the verifier's three checks left out.
#[test]
fn certificates_pass_beside_quic_and_forged_ones_are_counted() {
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    let a = fixture.node(Slot::A, ("ours", Slot::A), at_a, (Slot::B, at_b));
    let b = fixture.node(Slot::B, ("ours", Slot::B), at_b, (Slot::A, at_a));
    a.wait_up();
    let guard = UdpSocket::bind((at_a.ip(), 0)).unwrap();
    let genuine = fixture.certificate("ours", Slot::A, Slot::A);
    guard.send_to(&genuine, at_b).unwrap();
    assert_eq!(b.wait_for_certificate(), death(Slot::A));

    let mut changed = genuine.clone();
    changed[20] ^= 1;
    for forged in [
        fixture.certificate("theirs", Slot::A, Slot::A),
        fixture.certificate("ours", Slot::Witness, Slot::A),
        changed,
    ] {
        guard.send_to(&forged, at_b).unwrap();
    }
    // Of the receiver itself, of nobody, of another version, too long; and two that are not looked at: nothing at all,
    // and what looks like QUIC.
    let mut later = genuine.clone();
    later[4] += 1;
    for malformed in [
        fixture.certificate("ours", Slot::B, Slot::B),
        vec![0x14; 40],
        later,
        vec![0x14; DATAGRAM_LIMIT + 1],
        Vec::new(),
        [&[0x54], &genuine[1..]].concat(),
    ] {
        guard.send_to(&malformed, at_b).unwrap();
    }
    b.wait_for_counters("all are counted", |counters| {
        (
            counters.certificates_forged,
            counters.certificates_malformed,
        ) == (3, 4)
    });
    assert!(b.mailbox.take(Duration::ZERO).certificates.is_empty());

    // The same one again is genuine still; whether it means anything is the replica's to say. QUIC has gone on.
    guard.send_to(&genuine, at_b).unwrap();
    assert_eq!(b.wait_for_certificate(), death(Slot::A));
    let probe = message(Slot::A, Slot::B, 10);
    a.send_until_received(&probe, &b, MessageClass::Datagram);
    assert_eq!(a.link.counters().disconnected, 0);
    assert_eq!(b.link.counters().certificates_verified, 2);
    fixture.stop(&a);
    fixture.stop(&b);
}

/// Of a flood only so many are verified as the budget allows, and the peer's own certificate is heard through it.
/// Seen failing with one budget for everybody.
#[test]
fn a_flood_of_forged_certificates_is_bounded_and_keeps_no_genuine_one_out() {
    const FLOOD: u64 = 5_000;
    let fixture = Fixture::new();
    let (at_a, at_b) = (free_address(), free_address());
    let b = fixture.node(Slot::B, ("ours", Slot::B), at_b, (Slot::A, at_a));
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let guard = UdpSocket::bind((at_a.ip(), 0)).unwrap();
    let forged = fixture.certificate("theirs", Slot::A, Slot::A);
    let begun = Instant::now();
    let mut sent = 0;
    while sent < FLOOD {
        for _ in 0..50 {
            stranger.send_to(&forged, at_b).unwrap();
            sent += 1;
        }
        // As fast as they are taken in, so that the kernel drops none.
        b.wait_for_counters("all are counted", |counters| {
            counters.certificates_forged + counters.certificates_limited == sent
        });
    }
    let periods = begun.elapsed().as_secs() + 1;
    let counters = b.link.counters();
    assert!(
        counters.certificates_forged <= periods * 10,
        "in {periods} s: {counters:?}"
    );
    guard
        .send_to(&fixture.certificate("ours", Slot::A, Slot::A), at_b)
        .unwrap();
    assert_eq!(b.wait_for_certificate(), death(Slot::A));
    fixture.stop(&b);
}
