//! The part of a node's configuration file that the fabric decides: addresses and the address
//! mover.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::host::HostId;

/// Replication listens here on every node.
pub const PEER_PORT: u16 = 7600;
/// SIP port of the floating address towards the PBX.
pub const PBX_SIP_PORT: u16 = 5060;
/// SIP port of the floating address towards the trunk.
pub const TRUNK_SIP_PORT: u16 = 5070;
/// Where the phones of PBX and trunk listen.
pub const CLIENT_SIP_PORT: u16 = 5060;

/// Media ports of PBX and trunk side where both are bound to one address.
const OFFICE_MEDIA_PORTS: [&str; 2] = ["20000-20999", "21000-21999"];
/// As many as an address has above the signalling ports, half for each side.
const WIDE_MEDIA_PORTS: [&str; 2] = ["6000-35767", "35768-65535"];
/// Calls with one audio stream that fit into [`WIDE_MEDIA_PORTS`]: RTP and RTCP on each side.
pub(super) const WIDE_CALLS: u32 = 14_884;

/// What a fabric tells its nodes.
#[derive(Debug)]
pub(super) struct NodeAddresses {
    /// Replication addresses of a, b and the witness.
    pub(super) nodes: [Ipv4Addr; 3],
    pub(super) floating: Vec<Ipv4Net>,
    pub(super) interface: &'static str,
    pub(super) passages: Vec<Passage>,
    pub(super) ec2: Option<Ec2Addresses>,
}

/// A PBX side and a trunk side, with calls between them both ways.
#[derive(Debug)]
pub(super) struct Passage {
    sides: [Binding; 2],
    media_ports: [&'static str; 2],
}

impl Passage {
    /// For as many calls as a drill places.
    pub(super) fn office(pbx: Binding, trunk: Binding) -> Passage {
        Passage {
            sides: [pbx, trunk],
            media_ports: OFFICE_MEDIA_PORTS,
        }
    }

    /// For [`WIDE_CALLS`] calls, all on one address.
    pub(super) fn wide(address: Ipv4Addr) -> Passage {
        Passage {
            sides: [Binding::plain(address), Binding::plain(address)],
            media_ports: WIDE_MEDIA_PORTS,
        }
    }
}

/// One realm's address as bound and as told to its peers.
#[derive(Debug)]
pub(super) struct Binding {
    bind: Ipv4Addr,
    advertise: Ipv4Addr,
}

/// Present where the EC2 mover moves the address.
#[derive(Debug)]
pub(super) struct Ec2Addresses {
    pub(super) endpoint: String,
    pub(super) region: &'static str,
    /// Network interfaces of a and b.
    pub(super) interfaces: [String; 2],
}

impl Binding {
    /// Bound and advertised are the same address.
    pub(super) fn plain(address: Ipv4Addr) -> Binding {
        Binding {
            bind: address,
            advertise: address,
        }
    }

    /// Peers are told another address, which the fabric translates to the bound one.
    pub(super) fn translated(bind: Ipv4Addr, advertise: Ipv4Addr) -> Binding {
        Binding { bind, advertise }
    }
}

/// `[pair]`, and for data nodes `[floating]`, `[[realm]]`s, `[[group]]`s and `[[route]]`s both
/// ways.
///
/// The caller adds `[node]`, `[admin]` and `[cdr]`, which do not depend on the fabric.
pub(super) fn node_config(
    addresses: &NodeAddresses,
    node: HostId,
    keys: &Path,
    profile: &str,
    clients: [Ipv4Addr; 2],
) -> String {
    let [a, b, witness] = addresses.nodes;
    let keys = toml_string(&keys.to_string_lossy());
    let profile = toml_string(profile);
    let mut config = format!(
        "[pair]\nkeys = {keys}\na = \"{a}:{PEER_PORT}\"\nb = \"{b}:{PEER_PORT}\"\n\
         witness = \"{witness}:{PEER_PORT}\"\nprofile = {profile}\n"
    );
    if HostId::DATA_NODES.contains(&node) {
        config.push_str(&floating_section(addresses));
        for (number, passage) in addresses.passages.iter().enumerate() {
            config.push_str(&realm_sections(number, passage));
            config.push_str(&routing_sections(number, clients));
        }
    }
    config
}

fn floating_section(addresses: &NodeAddresses) -> String {
    let NodeAddresses {
        floating,
        interface,
        ec2,
        ..
    } = addresses;
    let mover = if ec2.is_some() { "ec2" } else { "l2" };
    let floating: Vec<String> = floating.iter().map(|net| format!("\"{net}\"")).collect();
    let mut section = format!(
        "[floating]\nmover = \"{mover}\"\ninterface = \"{interface}\"\naddresses = [{}]\n",
        floating.join(", ")
    );
    if let Some(Ec2Addresses {
        endpoint,
        region,
        interfaces: [a, b],
    }) = ec2
    {
        // Writing to a String cannot fail.
        let _ = write!(
            section,
            "[floating.ec2]\nregion = \"{region}\"\nendpoint = \"{endpoint}\"\n\
             [floating.ec2.eni]\na = \"{a}\"\nb = \"{b}\"\n"
        );
    }
    section
}

/// `pbx` and `trunk`; of later passages `pbx-1` and so on.
fn realm_names(number: usize) -> [String; 2] {
    ["pbx", "trunk"].map(|side| match number {
        0 => side.to_owned(),
        number => format!("{side}-{number}"),
    })
}

fn realm_sections(number: usize, passage: &Passage) -> String {
    let names = realm_names(number);
    let signalling = [PBX_SIP_PORT, TRUNK_SIP_PORT];
    let Passage { sides, media_ports } = passage;
    sides
        .iter()
        .zip(names)
        .zip(signalling.into_iter().zip(media_ports))
        .map(|((Binding { bind, advertise }, name), (sip, media))| {
            format!(
                "[[realm]]\nname = \"{name}\"\nbind = \"{bind}:{sip}\"\n\
                 advertise = \"{advertise}:{sip}\"\nmedia_ports = \"{media}\"\n"
            )
        })
        .collect()
}

fn routing_sections(number: usize, clients: [Ipv4Addr; 2]) -> String {
    let [pbx, trunk] = realm_names(number);
    let [at_pbx, at_trunk] = clients;
    [(&trunk, &pbx, at_trunk), (&pbx, &trunk, at_pbx)]
        .into_iter()
        .map(|(realm, from, target)| {
            format!(
                "[[group]]\nname = \"to-{realm}\"\nrealm = \"{realm}\"\ntargets = \
                 [{{ address = \"{target}:{CLIENT_SIP_PORT}\", priority = 1, weight = 10 }}]\n\
                 [[route]]\nfrom = \"{from}\"\nto = \"to-{realm}\"\n"
            )
        })
        .collect()
}

/// A TOML basic string; the escapes of JSON strings are a subset of TOML's.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
