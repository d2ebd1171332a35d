//! What a data node serves, and the relations that must hold between its parts.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use tandem_replication::Slot;
use toml::Spanned;

use super::{
    Located, Problem, SOCKET_ADDRESS, at,
    raw::{self, Raw},
    value,
};

/// More next hops than this would outlast any caller's patience.
const TARGETS_PER_GROUP: usize = 16;
const REALMS: usize = 64;
/// More calls than this have no room in the replicated table.
const CALLS: usize = 200_000;

/// What a data node serves.
#[derive(Debug, Clone)]
pub(crate) struct Border {
    pub(crate) floating: Floating,
    pub(crate) realms: Vec<Realm>,
    pub(crate) groups: Vec<Group>,
    pub(crate) routes: Vec<Route>,
    pub(crate) cdr_path: PathBuf,
    /// Calls at once; one more gets 503. `None`: the SIP core's default.
    pub(crate) calls: Option<usize>,
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
impl Border {
    pub(super) fn check(raw: &Raw, slot: Slot, state_dir: &Path) -> Result<Border, Located> {
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
            calls: raw.limits.as_ref().map(check_calls).transpose()?,
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

fn check_calls(raw: &raw::Limits) -> Result<usize, Located> {
    let calls = *raw.calls.get_ref();
    if (1..=CALLS).contains(&calls) {
        return Ok(calls);
    }
    Err(at(
        &raw.calls,
        Problem::Value {
            key: "limits.calls",
            value: calls.to_string(),
            wanted: "between 1 and 200000",
        },
    ))
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
