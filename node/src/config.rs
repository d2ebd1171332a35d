//! The configuration file: raw TOML in, only valid relations out.
//!
//! [`Config::load`] is the single entry. Whatever it returns can be run: every address parses, every
//! name refers to something, no two sockets collide. Each error names file, line and key, because the
//! reader is an operator with an editor open.

mod raw;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
};

use ipnet::IpNet;
use tandem_replication::{Profile, Slot};
use toml::Spanned;

use raw::Raw;

/// A whole node's configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) slot: Slot,
    pub(crate) state_dir: PathBuf,
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
}

/// What a data node serves.
#[derive(Debug, Clone)]
pub(crate) struct Border {
    pub(crate) floating: Floating,
    pub(crate) realms: Vec<Realm>,
    pub(crate) groups: Vec<Group>,
    pub(crate) routes: Vec<Route>,
    pub(crate) cdr_path: PathBuf,
}

/// The floating addresses and what moves them.
#[derive(Debug, Clone)]
pub(crate) struct Floating {
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) mover: Mover,
}

#[derive(Debug, Clone)]
pub(crate) enum Mover {
    L2,
    Ec2 {
        region: String,
        endpoint: Option<String>,
        own_eni: String,
    },
}

/// A side of the border.
#[derive(Debug, Clone)]
pub(crate) struct Realm {
    pub(crate) name: String,
    pub(crate) bind: SocketAddr,
    pub(crate) advertise: SocketAddr,
    pub(crate) media_ports: RangeInclusive<u16>,
}

#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// Index into [`Border::realms`].
    pub(crate) realm: usize,
    pub(crate) name: String,
    pub(crate) targets: Vec<Target>,
}

#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) priority: u16,
    pub(crate) weight: u16,
}

/// Calls that arrive on a realm go to a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) from: usize,
    pub(crate) to: usize,
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

/// More next hops than this would outlast any caller's patience.
const TARGETS_PER_GROUP: usize = 16;
const REALMS: usize = 64;

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
                "\"fast\", \"standard\" or \"relaxed\"",
            )?,
            None => Profile::default(),
        };
        Ok(Pair {
            keys: PathBuf::from(&raw.keys),
            addresses,
            profile,
        })
    }
}

impl Border {
    fn check(raw: &Raw, slot: Slot, state_dir: &Path) -> Result<Border, Located> {
        let floating = raw
            .floating
            .as_ref()
            .ok_or(Problem::SectionMissing {
                section: "floating",
            })
            .map_err(Located::from)
            .and_then(|floating| Floating::check(floating, slot))?;
        let realms = check_realms(&raw.realm, &floating)?;
        let groups = check_groups(&raw.group, &realms)?;
        let routes = check_routes(&raw.route, &realms, &groups)?;
        let cdr = raw
            .cdr
            .as_ref()
            .map_or("cdr.jsonl", |cdr| cdr.path.as_str());
        Ok(Border {
            floating,
            realms,
            groups,
            routes,
            cdr_path: state_dir.join(cdr),
        })
    }
}

impl Floating {
    fn check(raw: &raw::Floating, slot: Slot) -> Result<Floating, Located> {
        let addresses = raw
            .addresses
            .iter()
            .map(|text| {
                value(
                    text,
                    "floating.addresses",
                    "an address with its prefix such as 10.0.0.100/24",
                )
            })
            .collect::<Result<Vec<IpNet>, _>>()?;
        if addresses.is_empty() {
            return Err(Problem::Empty {
                key: "floating.addresses",
            }
            .into());
        }
        let mover = match raw.mover.get_ref().as_str() {
            "l2" => Mover::L2,
            "ec2" => {
                let ec2 = raw
                    .ec2
                    .as_ref()
                    .ok_or_else(|| at(&raw.mover, Problem::Ec2Missing))?;
                let own_eni = match slot {
                    Slot::B => &ec2.eni.b,
                    Slot::A | Slot::Witness => &ec2.eni.a,
                };
                if !own_eni.get_ref().starts_with("eni-") {
                    let value = own_eni.get_ref().clone();
                    let key = "floating.ec2.eni";
                    return Err(at(
                        own_eni,
                        Problem::Value {
                            key,
                            value,
                            wanted: "an id such as eni-0a1b2c3d",
                        },
                    ));
                }
                Mover::Ec2 {
                    region: ec2.region.clone(),
                    endpoint: ec2.endpoint.clone(),
                    own_eni: own_eni.get_ref().clone(),
                }
            }
            other => {
                let value = other.to_owned();
                return Err(at(
                    &raw.mover,
                    Problem::Value {
                        key: "floating.mover",
                        value,
                        wanted: "\"l2\" or \"ec2\"",
                    },
                ));
            }
        };
        Ok(Floating {
            interface: raw.interface.clone(),
            addresses,
            mover,
        })
    }

    fn holds(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address)
    }
}

fn check_realms(raw: &[raw::Realm], floating: &Floating) -> Result<Vec<Realm>, Located> {
    if raw.is_empty() {
        return Err(Problem::Empty { key: "realm" }.into());
    }
    if raw.len() > REALMS {
        let value = raw.len().to_string();
        return Err(Problem::Value {
            key: "realm",
            value,
            wanted: "at most 64 realms",
        }
        .into());
    }
    let mut realms: Vec<Realm> = Vec::with_capacity(raw.len());
    for raw in raw {
        let realm = check_realm(raw, floating)?;
        for other in &realms {
            check_apart(raw, &realm, other)?;
        }
        realms.push(realm);
    }
    Ok(realms)
}

fn check_realm(raw: &raw::Realm, floating: &Floating) -> Result<Realm, Located> {
    let bind: SocketAddr = value(&raw.bind, "realm.bind", SOCKET_ADDRESS)?;
    if !floating.holds(bind.ip()) {
        let floating = floating.addresses.iter().map(|net| net.addr().to_string());
        let floating = floating.collect::<Vec<_>>().join(", ");
        return Err(at(
            &raw.bind,
            Problem::BindNotFloating {
                bind: bind.ip(),
                floating,
            },
        ));
    }
    let advertise = match &raw.advertise {
        Some(text) => {
            let advertise: SocketAddr = value(text, "realm.advertise", SOCKET_ADDRESS)?;
            if advertise.is_ipv4() != bind.is_ipv4() {
                let key = "realm.advertise";
                let (bind, advertise) = (bind.ip(), advertise.ip());
                return Err(at(
                    text,
                    Problem::FamilyMismatch {
                        key,
                        bind,
                        advertise,
                    },
                ));
            }
            advertise
        }
        None => bind,
    };
    let media_ports = port_range(&raw.media_ports)?;
    Ok(Realm {
        name: raw.name.get_ref().clone(),
        bind,
        advertise,
        media_ports,
    })
}

/// Two realms on one address must share neither signalling port nor media ports.
fn check_apart(raw: &raw::Realm, realm: &Realm, other: &Realm) -> Result<(), Located> {
    if other.name == realm.name {
        return Err(at(
            &raw.name,
            Problem::Duplicate {
                key: "realm.name",
                name: realm.name.clone(),
            },
        ));
    }
    if other.bind == realm.bind {
        return Err(at(
            &raw.bind,
            Problem::Duplicate {
                key: "realm.bind",
                name: realm.bind.to_string(),
            },
        ));
    }
    if other.bind.ip() != realm.bind.ip() {
        return Ok(());
    }
    let (ours, theirs) = (&realm.media_ports, &other.media_ports);
    if ours.start() <= theirs.end() && theirs.start() <= ours.end() {
        let (first, second) = (other.name.clone(), realm.name.clone());
        let address = realm.bind.ip();
        return Err(at(
            &raw.media_ports,
            Problem::PortsOverlap {
                first,
                second,
                address,
            },
        ));
    }
    for (signalling, media) in [(realm, other), (other, realm), (realm, realm)] {
        if media.media_ports.contains(&signalling.bind.port()) {
            let port = signalling.bind.port();
            let realm = media.name.clone();
            return Err(at(
                &raw.media_ports,
                Problem::SignallingInMedia { port, realm },
            ));
        }
    }
    Ok(())
}

/// `"20000-20999"`: an even first port (RTP), an odd last one (its RTCP).
fn port_range(text: &Spanned<String>) -> Result<RangeInclusive<u16>, Located> {
    let wanted = "a range such as 20000-20999: even first port from 1024, odd last port";
    text.get_ref()
        .split_once('-')
        .and_then(|(first, last)| Some(first.trim().parse().ok()?..=last.trim().parse().ok()?))
        .filter(|range: &RangeInclusive<u16>| {
            *range.start() >= 1024
                && range.start() < range.end()
                && range.start().is_multiple_of(2)
                && !range.end().is_multiple_of(2)
        })
        .ok_or_else(|| {
            let value = text.get_ref().clone();
            at(
                text,
                Problem::Value {
                    key: "realm.media_ports",
                    value,
                    wanted,
                },
            )
        })
}

fn check_groups(raw: &[raw::Group], realms: &[Realm]) -> Result<Vec<Group>, Located> {
    let mut names = BTreeSet::new();
    raw.iter()
        .map(|raw| {
            let name = raw.name.get_ref().clone();
            if !names.insert(name.clone()) {
                return Err(at(
                    &raw.name,
                    Problem::Duplicate {
                        key: "group.name",
                        name,
                    },
                ));
            }
            let realm = index_of(
                realms,
                |realm| &realm.name,
                &raw.realm,
                "group.realm",
                "realm",
            )?;
            if raw.targets.get_ref().is_empty() {
                return Err(at(
                    &raw.targets,
                    Problem::Empty {
                        key: "group.targets",
                    },
                ));
            }
            if raw.targets.get_ref().len() > TARGETS_PER_GROUP {
                let count = raw.targets.get_ref().len();
                return Err(at(
                    &raw.targets,
                    Problem::TooManyTargets {
                        count,
                        limit: TARGETS_PER_GROUP,
                    },
                ));
            }
            let targets = raw.targets.get_ref().iter();
            let targets = targets.map(|target| check_target(target, &realms[realm]));
            Ok(Group {
                realm,
                name,
                targets: targets.collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

fn check_target(raw: &raw::Target, realm: &Realm) -> Result<Target, Located> {
    let address: SocketAddr = value(&raw.address, "group.targets.address", SOCKET_ADDRESS)?;
    if address.is_ipv4() != realm.bind.is_ipv4() {
        let (realm, bind) = (realm.name.clone(), realm.bind.ip());
        return Err(at(
            &raw.address,
            Problem::TargetFamily {
                target: address,
                realm,
                bind,
            },
        ));
    }
    Ok(Target {
        address,
        priority: raw.priority,
        weight: raw.weight,
    })
}

fn check_routes(
    raw: &[raw::Route],
    realms: &[Realm],
    groups: &[Group],
) -> Result<Vec<Route>, Located> {
    let mut taken = BTreeSet::new();
    raw.iter()
        .map(|raw| {
            let from = index_of(
                realms,
                |realm| &realm.name,
                &raw.from,
                "route.from",
                "realm",
            )?;
            if !taken.insert(from) {
                let name = raw.from.get_ref().clone();
                return Err(at(
                    &raw.from,
                    Problem::Duplicate {
                        key: "route.from",
                        name,
                    },
                ));
            }
            let to = index_of(groups, |group| &group.name, &raw.to, "route.to", "group")?;
            Ok(Route { from, to })
        })
        .collect()
}

/// The index of the item that `name` names.
fn index_of<T>(
    items: &[T],
    name_of: impl Fn(&T) -> &str,
    name: &Spanned<String>,
    key: &'static str,
    what: &'static str,
) -> Result<usize, Located> {
    items
        .iter()
        .position(|item| name_of(item) == name.get_ref())
        .ok_or_else(|| {
            at(
                name,
                Problem::Unknown {
                    key,
                    what,
                    name: name.get_ref().clone(),
                },
            )
        })
}

#[cfg(test)]
mod tests;
