//! The configuration file: raw TOML in, only valid relations out.
//!
//! [`Config::load`] is the single entry. Whatever it returns can be run: every address parses, every
//! name refers to something, no two sockets collide. Each error names file, line and key, because the
//! reader is an operator with an editor open.

mod border;
mod raw;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use tandem_replication::{Durability, OnSingle, Profile, Slot};
use toml::Spanned;

pub(crate) use border::{Border, Floating, Mover, Realm, Target};
use raw::Raw;

use crate::realtime::Wanted;

/// A whole node's configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) slot: Slot,
    pub(crate) state_dir: PathBuf,
    pub(crate) realtime: Wanted,
    pub(crate) pair: Pair,
    pub(crate) admin: SocketAddr,
    /// What only a data node has; `None` on the witness.
    pub(crate) border: Option<Border>,
}

/// The three replicas and how they find and trust each other.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// Directory with `ca.pem`, `cert.pem` and `key.pem`, as `tandem init` writes it.
    pub(crate) keys: PathBuf,
    /// Peer link addresses by slot; always all three.
    pub(crate) addresses: BTreeMap<Slot, SocketAddr>,
    pub(crate) profile: Profile,
    pub(crate) durability: Durability,
    /// What the owner does when one of three replicas is gone.
    pub(crate) on_single: OnSingle,
}

/// Where a configuration is broken, and how.
#[derive(Debug)]
pub(crate) struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// One variant per relation that can be broken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("{0}")]
    Syntax(String),
    #[error("{key}: {value:?} is not {wanted}")]
    Value {
        key: &'static str,
        value: String,
        wanted: &'static str,
    },
    #[error("[{section}] is missing: a data node needs it")]
    SectionMissing { section: &'static str },
    #[error("[{section}] does not belong in a witness's configuration: a witness never serves")]
    SectionOnWitness { section: &'static str },
    #[error("{key}: at least one is needed")]
    Empty { key: &'static str },
    #[error("{key}: {name:?} is given twice")]
    Duplicate { key: &'static str, name: String },
    #[error("{key}: there is no {what} named {name:?}")]
    Unknown {
        key: &'static str,
        what: &'static str,
        name: String,
    },
    #[error("realm.bind: {bind} is not on a floating address ({floating})")]
    BindNotFloating { bind: IpAddr, floating: String },
    #[error("realm.media_ports: {first} and {second} share ports on {address}")]
    PortsOverlap {
        first: String,
        second: String,
        address: IpAddr,
    },
    #[error("realm.media_ports: the signalling port {port} lies inside {realm}'s range")]
    SignallingInMedia { port: u16, realm: String },
    #[error("{key}: {bind} and {advertise} are not of one address family")]
    FamilyMismatch {
        key: &'static str,
        bind: IpAddr,
        advertise: IpAddr,
    },
    #[error(
        "group.targets: {target} cannot be reached from realm {realm:?}, which is bound to {bind}"
    )]
    TargetFamily {
        target: SocketAddr,
        realm: String,
        bind: IpAddr,
    },
    #[error("floating.ec2 is missing: floating.mover is \"ec2\"")]
    Ec2Missing,
    #[error("group.targets: {count} targets, at most {limit} are tried")]
    TooManyTargets { count: usize, limit: usize },
}

impl Config {
    /// Reads and checks a file. Touches nothing else: no socket, no directory.
    pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
        let fail = |line, problem| ConfigError {
            file: path.to_owned(),
            line,
            problem,
        };
        let text = std::fs::read_to_string(path).map_err(|error| fail(None, error.into()))?;
        Self::parse(&text).map_err(|Located { at, problem }| {
            fail(at.map(|offset| line_of(&text, offset)), problem)
        })
    }

    fn parse(text: &str) -> Result<Config, Located> {
        let raw: Raw = toml::from_str(text).map_err(|error| Located {
            at: error.span().map(|span| span.start),
            problem: Problem::Syntax(error.message().to_owned()),
        })?;
        let slot: Slot = value(&raw.node.slot, "node.slot", "\"a\", \"b\" or \"witness\"")?;
        let state_dir = PathBuf::from(&raw.node.state_dir);
        let realtime = match &raw.node.realtime {
            Some(text) => value(text, "node.realtime", "\"auto\", \"off\" or \"require\"")?,
            None => Wanted::default(),
        };
        let pair = Pair::check(&raw.pair)?;
        let admin = value(&raw.admin.listen, "admin.listen", SOCKET_ADDRESS)?;
        let border = match slot {
            Slot::Witness => {
                raw.refuse_border()?;
                None
            }
            Slot::A | Slot::B => Some(Border::check(&raw, slot, &state_dir)?),
        };
        Ok(Config {
            slot,
            state_dir,
            realtime,
            pair,
            admin,
            border,
        })
    }
}

const SOCKET_ADDRESS: &str = "an address and port such as 10.0.0.11:5060 or [fd00::11]:5060";

/// A problem and the byte offset where it was seen.
#[derive(Debug)]
struct Located {
    at: Option<usize>,
    problem: Problem,
}

impl From<Problem> for Located {
    fn from(problem: Problem) -> Self {
        Located { at: None, problem }
    }
}

fn at<T>(place: &Spanned<T>, problem: Problem) -> Located {
    Located {
        at: Some(place.span().start),
        problem,
    }
}

/// Parses one string value, naming key and wanted form when it does not parse.
fn value<T: FromStr>(
    text: &Spanned<String>,
    key: &'static str,
    wanted: &'static str,
) -> Result<T, Located> {
    text.get_ref().parse().map_err(|_| {
        at(
            text,
            Problem::Value {
                key,
                value: text.get_ref().clone(),
                wanted,
            },
        )
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

impl Pair {
    fn check(raw: &raw::Pair) -> Result<Pair, Located> {
        let mut addresses = BTreeMap::new();
        for (slot, text, key) in [
            (Slot::A, &raw.a, "pair.a"),
            (Slot::B, &raw.b, "pair.b"),
            (Slot::Witness, &raw.witness, "pair.witness"),
        ] {
            let address: SocketAddr = value(text, key, SOCKET_ADDRESS)?;
            if addresses.values().any(|other| *other == address) {
                return Err(at(
                    text,
                    Problem::Duplicate {
                        key,
                        name: address.to_string(),
                    },
                ));
            }
            addresses.insert(slot, address);
        }
        let profile = match &raw.profile {
            Some(text) => value(
                text,
                "pair.profile",
                "\"turbo\", \"fast\", \"standard\" or \"relaxed\"",
            )?,
            None => Profile::default(),
        };
        let durability = match &raw.durability {
            Some(text) => value(text, "pair.durability", "\"durable\" or \"memory\"")?,
            None => Durability::default(),
        };
        let on_single = match &raw.on_single {
            Some(text) => value(text, "pair.on_single", "\"stop\" or \"serve\"")?,
            None => OnSingle::default(),
        };
        Ok(Pair {
            keys: PathBuf::from(&raw.keys),
            addresses,
            profile,
            durability,
            on_single,
        })
    }
}

#[cfg(test)]
mod tests;
