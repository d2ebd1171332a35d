//! A death certificate: a guard's signed word that a worker process of its node has ended.
//!
//! One UDP datagram to the pair's port, where the first byte tells it from QUIC (RFC 9443 section 2: QUIC's fixed bit,
//! 0x40, is clear). Numbers are big-endian:
//!
//! ```text
//!  0  magic, 4 bytes       21  life, 8 bytes
//!  4  version, 1 byte      29  grace in milliseconds, 4 bytes
//!  5  replica, 8 bytes     33  length of the signer's certificate, 2 bytes; the certificate, X.509 DER
//! 13  epoch, 8 bytes        .  length of the signature, 2 bytes; the signature, to the end
//! ```
//! The signature (ECDSA P-256 with SHA-256, ASN.1) covers [`CONTEXT`] and everything before its length. The signer's
//! certificate is verified by the pair's CA, as a client's in the peer link is, and must name the replica's slot: so
//! only the node itself can declare a process of its own dead, and what is signed for one pair is nothing to another.
//!
//! It does no harm to repeat one ([`Replica::handle_death`](tandem_replication_core::Replica::handle_death)), so there
//! is no nonce to remember and no time to agree on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SigningKey;
use tandem_replication_core::{Death, ReplicaId, Slot};

use crate::pki::{Credentials, KeyPaths, PkiError, slot_of};

#[cfg(test)]
mod tests;

/// Longest datagram: what every path carries unfragmented (RFC 9000 section 14 asks the same of QUIC). A node whose
/// certificate is too long for it cannot certify and says so at start.
pub const DATAGRAM_LIMIT: usize = 1_200;

const MAGIC: [u8; 4] = [0x14, b'T', b'D', b'C'];
const VERSION: u8 = 1;
/// Keeps the signature from being taken for one of anything else that the key signs.
const CONTEXT: &[u8] = b"tandem death certificate\0";

/// A worker's end, as its guard states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeathCertificate {
    /// Which replica the process was.
    pub replica: ReplicaId,
    /// The term in which it led; 0 if it did not lead when it died.
    pub epoch: u64,
    /// A random number of the process, for the logs of the three hosts to be brought together by.
    pub life: u64,
    /// How long the dead worker's kernel program may still forward media that reaches it, in whole milliseconds.
    pub grace: Duration,
}

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key cannot sign.
    #[error("cannot sign: {0}")]
    Key(#[from] rustls::Error),
    /// The node's own certificate leaves no room.
    #[error("{0} bytes exceed a datagram's {DATAGRAM_LIMIT}")]
    TooLong(usize),
}

/// Why a datagram is no certificate of the pair. Each has a counter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Forged {
    #[error("it is not laid out as a death certificate")]
    Malformed,
    #[error("its version is {0}, not {VERSION}")]
    Version(u8),
    #[error("the signer is not of this pair: {0}")]
    Untrusted(rustls::Error),
    #[error("the signer is not of the slot it certifies")]
    WrongSlot,
    #[error("the signature is wrong")]
    Signature,
}

/// What a guard signs with.
pub struct CertificateSigner {
    certificate: CertificateDer<'static>,
    key: Arc<dyn SigningKey>,
}

impl CertificateSigner {
    /// Loads the node's keys and tries them once.
    ///
    /// # Errors
    /// Names the file that is missing or not usable.
    pub fn load(paths: &KeyPaths, slot: Slot) -> Result<CertificateSigner, PkiError> {
        let Credentials { chain, key, .. } = Credentials::load(paths, slot)?;
        let unusable = |path: &std::path::Path, source| PkiError::Unusable {
            path: path.to_owned(),
            source,
        };
        let key = default_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|source| unusable(&paths.key, source))?;
        let certificate = chain.into_iter().next().ok_or_else(|| {
            let source = rustls::Error::NoCertificatesPresented;
            unusable(&paths.certificate, source)
        })?;
        let signer = CertificateSigner { certificate, key };
        let attempt = DeathCertificate {
            replica: ReplicaId::first(slot),
            epoch: 0,
            life: 0,
            grace: Duration::ZERO,
        };
        match signer.sign(&attempt) {
            Ok(_) => Ok(signer),
            Err(SignError::Key(source)) => Err(unusable(&paths.key, source)),
            Err(error @ SignError::TooLong(_)) => {
                let source = rustls::Error::General(error.to_string());
                Err(unusable(&paths.certificate, source))
            }
        }
    }

    /// The datagram to send.
    ///
    /// # Errors
    /// See [`SignError`]; a signer that was loaded has signed before.
    pub fn sign(&self, death: &DeathCertificate) -> Result<Vec<u8>, SignError> {
        let DeathCertificate {
            replica,
            epoch,
            life,
            grace,
        } = *death;
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        let length = u16::try_from(self.certificate.len())
            .map_err(|_| SignError::TooLong(self.certificate.len()))?;
        let mut datagram = Vec::with_capacity(DATAGRAM_LIMIT);
        datagram.extend(MAGIC);
        datagram.push(VERSION);
        datagram.extend(replica.get().to_be_bytes());
        datagram.extend(epoch.to_be_bytes());
        datagram.extend(life.to_be_bytes());
        datagram.extend(grace_ms.to_be_bytes());
        datagram.extend(length.to_be_bytes());
        datagram.extend(self.certificate.as_ref());
        let signature = self
            .key
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
            .ok_or_else(|| rustls::Error::General("not an ECDSA P-256 key".to_owned()))?
            .sign(&signed(&datagram))?;
        let length = u16::try_from(signature.len()).unwrap_or(u16::MAX);
        datagram.extend(length.to_be_bytes());
        datagram.extend(signature);
        if datagram.len() > DATAGRAM_LIMIT {
            return Err(SignError::TooLong(datagram.len()));
        }
        Ok(datagram)
    }
}

impl fmt::Debug for CertificateSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateSigner").finish_non_exhaustive()
    }
}

/// What a peer checks with: the pair's CA.
#[derive(Debug)]
pub(crate) struct Verifier(Arc<dyn ClientCertVerifier>);

impl Verifier {
    pub(crate) fn new(roots: rustls::RootCertStore) -> Result<Verifier, VerifierBuilderError> {
        let provider = Arc::new(default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Ok(Verifier(builder.build()?))
    }

    /// Costs two signatures' verification; whoever calls it bounds how often.
    pub(crate) fn verify(
        &self,
        datagram: &[u8],
        now: UnixTime,
    ) -> Result<DeathCertificate, Forged> {
        let Parsed {
            death,
            certificate,
            signed_part,
            signature,
        } = Parsed::read(datagram)?;
        self.0
            .verify_client_cert(&certificate, &[], now)
            .map_err(Forged::Untrusted)?;
        if slot_of(&certificate).map_err(Forged::Untrusted)? != Some(death.replica.slot()) {
            return Err(Forged::WrongSlot);
        }
        let public_key = ParsedCertificate::try_from(&certificate)
            .map_err(Forged::Untrusted)?
            .subject_public_key_info();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key.as_ref())
            .verify(&signed(signed_part), signature)
            .map_err(|_| Forged::Signature)?;
        Ok(death)
    }
}

/// The slot that a datagram claims to be from, without any proof; for bounds that must cost nothing.
pub(crate) fn claimed_slot(datagram: &[u8]) -> Option<Slot> {
    Parsed::read(datagram)
        .ok()
        .map(|parsed| parsed.death.replica.slot())
}

impl From<DeathCertificate> for Death {
    fn from(certificate: DeathCertificate) -> Death {
        let DeathCertificate { replica, epoch, .. } = certificate;
        Death { replica, epoch }
    }
}

fn signed(part: &[u8]) -> Vec<u8> {
    [CONTEXT, part].concat()
}

/// A datagram taken apart; nothing of it is verified yet.
struct Parsed<'a> {
    death: DeathCertificate,
    certificate: CertificateDer<'a>,
    signed_part: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parsed<'a> {
    fn read(datagram: &'a [u8]) -> Result<Parsed<'a>, Forged> {
        if datagram.len() > DATAGRAM_LIMIT {
            return Err(Forged::Malformed);
        }
        let mut reader = Reader(datagram);
        if reader.array()? != MAGIC {
            return Err(Forged::Malformed);
        }
        let [version] = reader.array()?;
        if version != VERSION {
            return Err(Forged::Version(version));
        }
        let replica = ReplicaId::try_from(u64::from_be_bytes(reader.array()?))
            .map_err(|_| Forged::Malformed)?;
        let epoch = u64::from_be_bytes(reader.array()?);
        let life = u64::from_be_bytes(reader.array()?);
        let grace = Duration::from_millis(u32::from_be_bytes(reader.array()?).into());
        let certificate = reader.counted()?;
        let signed_part = datagram
            .get(..datagram.len() - reader.0.len())
            .ok_or(Forged::Malformed)?;
        let signature = reader.counted()?;
        if certificate.is_empty() || signature.is_empty() || !reader.0.is_empty() {
            return Err(Forged::Malformed);
        }
        Ok(Parsed {
            death: DeathCertificate {
                replica,
                epoch,
                life,
                grace,
            },
            certificate: CertificateDer::from(certificate),
            signed_part,
            signature,
        })
    }
}

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Forged> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Forged::Malformed)?;
        self.0 = rest;
        Ok(*array)
    }

    /// Bytes with their number, two bytes, before them.
    fn counted(&mut self) -> Result<&'a [u8], Forged> {
        let length = u16::from_be_bytes(self.array()?).into();
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Forged::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}
