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

const PBX_MEDIA_PORTS: &str = "20000-20999";
const TRUNK_MEDIA_PORTS: &str = "21000-21999";

/// What a fabric tells its nodes.
#[derive(Debug)]
pub(super) struct NodeAddresses {
    /// Replication addresses of a, b and the witness.
    pub(super) nodes: [Ipv4Addr; 3],
    pub(super) floating: Ipv4Net,
    pub(super) interface: &'static str,
    /// PBX side, trunk side.
    pub(super) realms: [Binding; 2],
    pub(super) ec2: Option<Ec2Addresses>,
}

/// One realm's address as bound and as told to its peers.
#[derive(Debug)]
pub(super) struct Binding {
    name: &'static str,
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
    pub(super) fn plain(name: &'static str, address: Ipv4Addr) -> Binding {
        Binding {
            name,
            bind: address,
            advertise: address,
        }
    }

    /// Peers are told another address, which the fabric translates to the bound one.
    pub(super) fn translated(name: &'static str, bind: Ipv4Addr, advertise: Ipv4Addr) -> Binding {
        Binding {
            name,
            bind,
            advertise,
        }
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
        config.push_str(&realm_sections(addresses));
        config.push_str(&routing_sections(clients));
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
    let mut section = format!(
        "[floating]\nmover = \"{mover}\"\ninterface = \"{interface}\"\n\
         addresses = [\"{floating}\"]\n"
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

fn realm_sections(addresses: &NodeAddresses) -> String {
    let ports = [
        (PBX_SIP_PORT, PBX_MEDIA_PORTS),
        (TRUNK_SIP_PORT, TRUNK_MEDIA_PORTS),
    ];
    addresses
        .realms
        .iter()
        .zip(ports)
        .map(|(realm, (sip, media))| {
            let Binding {
                name,
                bind,
                advertise,
            } = realm;
            format!(
                "[[realm]]\nname = \"{name}\"\nbind = \"{bind}:{sip}\"\n\
                 advertise = \"{advertise}:{sip}\"\nmedia_ports = \"{media}\"\n"
            )
        })
        .collect()
}

fn routing_sections([pbx, trunk]: [Ipv4Addr; 2]) -> String {
    [
        ("carrier", "trunk", "pbx", trunk),
        ("office", "pbx", "trunk", pbx),
    ]
    .into_iter()
    .map(|(group, realm, from, target)| {
        format!(
            "[[group]]\nname = \"{group}\"\nrealm = \"{realm}\"\ntargets = \
                 [{{ address = \"{target}:{CLIENT_SIP_PORT}\", priority = 1, weight = 10 }}]\n\
                 [[route]]\nfrom = \"{from}\"\nto = \"{group}\"\n"
        )
    })
    .collect()
}

/// A TOML basic string; the escapes of JSON strings are a subset of TOML's.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
