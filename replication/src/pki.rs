//! The pair's own certification authority.
//!
//! A pair trusts one CA and nothing else. Each node holds a certificate naming its slot (`a.tandem`), which is
//! what the peer link checks a sender against; the CA's key stays with the operator and never goes to a node.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tandem_replication_core::Slot;

/// Every slot of a pair.
pub(crate) const SLOTS: [Slot; 3] = [Slot::A, Slot::B, Slot::Witness];

/// How long a pair may live before its CA must be replaced.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a node's certificate is valid.
const NODE_LIFETIME: Duration = Duration::from_secs(2 * 365 * 86_400);
/// Certificates are valid from this long ago, for nodes whose clocks are behind.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(86_400);

/// Longest pair name: an X.520 common name has at most 64 characters, " node witness" included.
const PAIR_NAME_LIMIT: usize = 48;

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const NODE_CERTIFICATE: &str = "cert.pem";
const NODE_KEY: &str = "key.pem";

/// Where a node finds its part of the pair's keys. All PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPaths {
    /// The pair's CA certificate.
    pub ca: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// This node's private key.
    pub key: PathBuf,
}

impl KeyPaths {
    /// The names [`create_pair`] uses, in one node's directory.
    pub fn in_directory(directory: &Path) -> KeyPaths {
        KeyPaths {
            ca: directory.join(CA_CERTIFICATE),
            certificate: directory.join(NODE_CERTIFICATE),
            key: directory.join(NODE_KEY),
        }
    }
}

/// Why keys were not created or not loaded. Each names its file.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The name does not fit a certificate.
    #[error("pair name {0:?} must have 1 to {PAIR_NAME_LIMIT} printable ASCII characters")]
    PairName(String),
    /// A pair's keys are never replaced in place: the nodes would refuse each other.
    #[error("{0} exists already; keys are never overwritten")]
    Exists(PathBuf),
    /// A file or directory could not be created or written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is missing, unreadable, or not the PEM it should be.
    #[error("cannot read {what} from {path}: {source}")]
    Read {
        /// "CA certificate", "certificate" or "private key".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate is well-formed PEM but unusable.
    #[error("{path} is not usable: {source}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The certificate belongs to another node.
    #[error("{path} does not name slot {slot}: expected {expected}")]
    WrongSlot {
        /// The certificate.
        path: PathBuf,
        /// This node's slot.
        slot: Slot,
        /// The name the certificate lacks.
        expected: String,
    },
    /// Creating a key or a certificate failed.
    #[error("cannot create a certificate: {0}")]
    Create(#[from] rcgen::Error),
}

/// The name a slot's certificate carries.
pub fn server_name(slot: Slot) -> String {
    format!("{slot}.tandem")
}

/// Creates a pair's CA and its three nodes' certificates: `ca.pem` and `ca.key` in `directory`, and
/// `ca.pem`, `cert.pem` and `key.pem` in its subdirectories `a`, `b` and `witness`, ready to be copied to the
/// nodes. Private keys are readable by their owner only.
///
/// # Errors
/// Nothing is written if any of the files exists.
pub fn create_pair(directory: &Path, pair_name: &str) -> Result<(), PkiError> {
    let printable = pair_name.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if pair_name.is_empty() || pair_name.len() > PAIR_NAME_LIMIT || !printable {
        return Err(PkiError::PairName(pair_name.to_owned()));
    }
    let nodes = SLOTS.map(|slot| {
        (
            slot,
            KeyPaths::in_directory(&directory.join(slot.to_string())),
        )
    });
    let ca_paths = [directory.join(CA_CERTIFICATE), directory.join(CA_KEY)];
    let node_paths = nodes
        .iter()
        .flat_map(|(_, paths)| [&paths.ca, &paths.certificate, &paths.key]);
    if let Some(path) = ca_paths
        .iter()
        .chain(node_paths)
        .find(|path| path.symlink_metadata().is_ok())
    {
        return Err(PkiError::Exists(path.clone()));
    }

    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let ca_params = ca_parameters(pair_name)?;
    let ca = ca_params.self_signed(&ca_key)?;
    let issuer = Issuer::from_params(&ca_params, &ca_key);

    create_directory(directory)?;
    write_new(&ca_paths[0], &ca.pem(), 0o644)?;
    write_new(&ca_paths[1], &ca_key.serialize_pem(), 0o600)?;
    for (slot, paths) in &nodes {
        let (certificate, key) = node_certificate(*slot, pair_name, &issuer)?;
        create_directory(&directory.join(slot.to_string()))?;
        write_new(&paths.ca, &ca.pem(), 0o644)?;
        write_new(&paths.certificate, &certificate.pem(), 0o644)?;
        write_new(&paths.key, &key.serialize_pem(), 0o600)?;
    }
    Ok(())
}

fn ca_parameters(pair_name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = parameters(Vec::new(), &format!("{pair_name} CA"), CA_LIFETIME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn node_certificate(
    slot: Slot,
    pair_name: &str,
    issuer: &Issuer<'_, &KeyPair>,
) -> Result<(Certificate, KeyPair), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let common_name = format!("{pair_name} node {slot}");
    let mut params = parameters(vec![server_name(slot)], &common_name, NODE_LIFETIME)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Each node both dials and is dialled.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok((params.signed_by(&key, issuer)?, key))
}

fn parameters(
    names: Vec<String>,
    common_name: &str,
    lifetime: Duration,
) -> Result<CertificateParams, rcgen::Error> {
    let now = rcgen::date_time_ymd(1970, 1, 1)
        + SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = now - CLOCK_TOLERANCE;
    params.not_after = now + lifetime;
    // RFC 5280 section 4.1.2.2: positive, unique per CA, at most 20 octets.
    let mut serial = rand::random::<[u8; 16]>();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn create_directory(path: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| PkiError::Write {
            path: path.to_owned(),
            source,
        })
}

fn write_new(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    let write = || -> io::Result<()> {
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => PkiError::Write {
            path: path.to_owned(),
            source,
        },
    })
}

/// A node's keys, loaded and checked against its slot.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) roots: RootCertStore,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Credentials {
    pub(crate) fn load(paths: &KeyPaths, slot: Slot) -> Result<Credentials, PkiError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("CA certificate", &paths.ca)? {
            roots
                .add(certificate)
                .map_err(|source| PkiError::Unusable {
                    path: paths.ca.clone(),
                    source,
                })?;
        }
        let chain = certificates("certificate", &paths.certificate)?;
        let named = match chain.first() {
            Some(certificate) => slot_of(certificate).map_err(|source| PkiError::Unusable {
                path: paths.certificate.clone(),
                source,
            })?,
            None => None,
        };
        if named != Some(slot) {
            return Err(PkiError::WrongSlot {
                path: paths.certificate.clone(),
                slot,
                expected: server_name(slot),
            });
        }
        let key = PrivateKeyDer::from_pem_file(&paths.key).map_err(|source| PkiError::Read {
            what: "private key",
            path: paths.key.clone(),
            source,
        })?;
        Ok(Credentials { roots, chain, key })
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let failed = |source| PkiError::Read {
        what,
        path: path.to_owned(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(failed(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

/// The slot a certificate names; `None` if it names none, or more than one.
pub(crate) fn slot_of(certificate: &CertificateDer<'_>) -> Result<Option<Slot>, rustls::Error> {
    let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
    let mut named = SLOTS.into_iter().filter(|slot| {
        let name = rustls::pki_types::ServerName::try_from(server_name(*slot))
            .expect("slot names are DNS labels");
        rustls::client::verify_server_name(&parsed, &name).is_ok()
    });
    Ok(match (named.next(), named.next()) {
        (Some(slot), None) => Some(slot),
        (None, _) | (Some(_), Some(_)) => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn created_keys_load_in_their_slot_and_in_no_other() {
        let directory = tempfile::tempdir().unwrap();
        create_pair(directory.path(), "berlin").unwrap();
        for owner in SLOTS {
            let paths = KeyPaths::in_directory(&directory.path().join(owner.to_string()));
            let mode = fs::metadata(&paths.key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            for slot in SLOTS {
                let loaded = Credentials::load(&paths, slot);
                assert_eq!(
                    loaded.is_ok(),
                    slot == owner,
                    "{owner} as {slot}: {loaded:?}"
                );
            }
        }
        let mode = fs::metadata(directory.path().join(CA_KEY))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let occupied = directory.path().join("witness").join(NODE_KEY);
        fs::create_dir(directory.path().join("witness")).unwrap();
        fs::write(&occupied, "precious").unwrap();
        let refused = create_pair(directory.path(), "berlin").unwrap_err();
        assert!(
            matches!(&refused, PkiError::Exists(path) if *path == occupied),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(&occupied).unwrap(), "precious");
        assert!(!directory.path().join(CA_CERTIFICATE).exists());
    }

    #[test]
    fn names_that_no_certificate_can_carry_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["", "a\nb", &"x".repeat(PAIR_NAME_LIMIT + 1)] {
            assert!(matches!(
                create_pair(directory.path(), name),
                Err(PkiError::PairName(_))
            ));
        }
    }

    #[test]
    fn loading_errors_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        create_pair(directory.path(), "berlin").unwrap();
        let paths = KeyPaths::in_directory(&directory.path().join("a"));
        let absent = KeyPaths {
            key: directory.path().join("absent.pem"),
            ..paths.clone()
        };
        let error = Credentials::load(&absent, Slot::A).unwrap_err().to_string();
        assert!(
            error.contains("private key") && error.contains("absent.pem"),
            "{error}"
        );

        fs::write(&paths.ca, "not a certificate").unwrap();
        let error = Credentials::load(&paths, Slot::A).unwrap_err().to_string();
        assert!(
            error.contains("CA certificate") && error.contains("ca.pem"),
            "{error}"
        );
    }
}
