#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::SystemTime;

use proptest::prelude::*;
use rustls::RootCertStore;

use super::*;
use crate::pki::{SLOTS, create_pair};

/// Two pairs' keys; making them takes longer than using them.
struct Keys {
    signers: BTreeMap<(&'static str, Slot), CertificateSigner>,
    /// Of ours.
    roots: RootCertStore,
}

/// Loaded, since a static is never dropped and neither would be its files.
static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let paths = |pair: &str, slot: Slot| {
        KeyPaths::in_directory(&directory.path().join(pair).join(slot.to_string()))
    };
    let mut signers = BTreeMap::new();
    for pair in ["ours", "theirs"] {
        create_pair(&directory.path().join(pair), pair).unwrap();
        for slot in SLOTS {
            let signer = CertificateSigner::load(&paths(pair, slot), slot).unwrap();
            signers.insert((pair, slot), signer);
        }
    }
    let roots = Credentials::load(&paths("ours", Slot::B), Slot::B)
        .unwrap()
        .roots;
    Keys { signers, roots }
});

impl Keys {
    fn signer(&self, pair: &'static str, slot: Slot) -> &CertificateSigner {
        &self.signers[&(pair, slot)]
    }

    fn verifier(&self) -> Verifier {
        Verifier::new(self.roots.clone()).unwrap()
    }
}

fn death(slot: Slot) -> DeathCertificate {
    DeathCertificate {
        replica: ReplicaId::first(slot),
        epoch: 7,
        life: 0x0123_4567_89ab_cdef,
        grace: Duration::from_millis(250),
    }
}

fn refusal(datagram: &[u8]) -> Forged {
    KEYS.verifier()
        .verify(datagram, UnixTime::now())
        .unwrap_err()
}

#[test]
fn each_node_certifies_its_own_processes_and_no_other() {
    let verifier = KEYS.verifier();
    for signer in SLOTS {
        for of in SLOTS {
            let datagram = KEYS.signer("ours", signer).sign(&death(of)).unwrap();
            assert!(datagram.len() <= DATAGRAM_LIMIT);
            let verified = verifier.verify(&datagram, UnixTime::now());
            if signer == of {
                assert_eq!(verified.unwrap(), death(of));
            } else {
                assert!(
                    matches!(verified, Err(Forged::WrongSlot)),
                    "{signer} of {of}"
                );
            }
        }
    }
}

#[test]
fn another_pairs_node_and_an_expired_certificate_are_not_trusted() {
    let foreign = KEYS
        .signer("theirs", Slot::A)
        .sign(&death(Slot::A))
        .unwrap();
    assert!(matches!(refusal(&foreign), Forged::Untrusted(_)));
    let own = KEYS.signer("ours", Slot::A).sign(&death(Slot::A)).unwrap();
    let later = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let later = later.unwrap() + Duration::from_secs(3 * 365 * 86_400);
    let expired = KEYS
        .verifier()
        .verify(&own, UnixTime::since_unix_epoch(later));
    assert!(matches!(expired, Err(Forged::Untrusted(_))));
}

/// The right certificate, with a key that is not its own.
#[test]
fn a_signature_by_another_key_is_wrong() {
    let thief = CertificateSigner {
        certificate: KEYS.signer("ours", Slot::A).certificate.clone(),
        key: Arc::clone(&KEYS.signer("ours", Slot::B).key),
    };
    let forged = thief.sign(&death(Slot::A)).unwrap();
    assert!(matches!(refusal(&forged), Forged::Signature));
}

#[test]
fn every_changed_byte_and_every_length_is_refused() {
    let verifier = KEYS.verifier();
    let genuine = KEYS.signer("ours", Slot::A).sign(&death(Slot::A)).unwrap();
    for position in 0..genuine.len() {
        let mut changed = genuine.clone();
        changed[position] ^= 1;
        let verified = verifier.verify(&changed, UnixTime::now());
        assert!(verified.is_err(), "byte {position}: {verified:?}");
        let cut = verifier.verify(&genuine[..position], UnixTime::now());
        assert!(matches!(cut, Err(Forged::Malformed)), "{position} bytes");
    }
    let longer = [genuine.as_slice(), &[0]].concat();
    assert!(matches!(refusal(&longer), Forged::Malformed));
    assert!(matches!(
        refusal(&vec![0x14; DATAGRAM_LIMIT + 1]),
        Forged::Malformed
    ));
    let mut next = genuine;
    next[4] = 2;
    assert!(matches!(refusal(&next), Forged::Version(2)));
}

/// The first byte is what the pair's port tells it from QUIC by.
#[test]
fn it_is_not_taken_for_quic() {
    let datagram = KEYS.signer("ours", Slot::A).sign(&death(Slot::A)).unwrap();
    assert_eq!(datagram[0] & 0x40, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_signed_is_what_is_read(
        incarnation in 1u32..,
        epoch: u64,
        life: u64,
        grace_ms: u32,
    ) {
        let signer = KEYS.signer("ours", Slot::Witness);
        let death = DeathCertificate {
            replica: ReplicaId::new(Slot::Witness, incarnation).unwrap(),
            epoch,
            life,
            grace: Duration::from_millis(grace_ms.into()),
        };
        let datagram = signer.sign(&death).unwrap();
        prop_assert_eq!(claimed_slot(&datagram), Some(Slot::Witness));
        prop_assert_eq!(KEYS.verifier().verify(&datagram, UnixTime::now()).unwrap(), death);
    }

    /// Beyond the magic, so that it does not end there.
    #[test]
    fn arbitrary_bytes_are_refused(
        head in prop::option::of(Just([MAGIC.as_slice(), &[VERSION, 0, 0, 0, 1, 0, 0, 0, 1]].concat())),
        tail in prop::collection::vec(any::<u8>(), 0..1_300),
    ) {
        let datagram = [head.unwrap_or_default(), tail].concat();
        prop_assert!(KEYS.verifier().verify(&datagram, UnixTime::now()).is_err());
    }
}
