//! An office LAN: one switch for everybody, a second for the link between the nodes.
//!
//! ```text
//!            pbx .20   trunk .30
//!              │          │
//!   ┌──────────┴──────────┴──────────┐  front  10.77.0.0/24, floating address .100
//!   └───┬────────────┬───────────┬───┘
//!  node-a .11   node-b .12   witness .13
//!   ┌───┴────────────┴───────────┴───┐  back   10.78.0.0/24, replication only
//!   └────────────────────────────────┘
//! ```
//!
//! The floating address moves as on any LAN: a host adds it to its interface and announces it by
//! gratuitous ARP; the others are plain Linux hosts and update the entry they have.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use ipnet::Ipv4Net;

use super::config::{Binding, NodeAddresses, Passage, WIDE_CALLS};
use super::loss::{self, LossCount};
use super::partition::{Cut, Family, Partition, Rule, apart};
use crate::capture::{Capture, Tap};
use crate::host::namespace::Namespace;
use crate::host::{Host, HostId, Interface, tool};

const PREFIX: u8 = 24;
const FLOATING: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Addresses .100 to .109.
const MAX_WIDE: u8 = 10;
const FRONT_INTERFACE: &str = "eth0";
const BACK_INTERFACE: &str = "eth1";

/// The two switches and what is plugged into them.
#[derive(Debug)]
pub struct LanFabric {
    switches: Namespace,
    hosts: BTreeMap<HostId, Host>,
    partition: Mutex<Partition>,
    /// Floating addresses that carry as many calls as their ports allow; none: an office's few.
    wide: u8,
}

impl LanFabric {
    /// Builds the LAN, every host up with its own address; nobody has the floating address.
    pub fn build() -> anyhow::Result<LanFabric> {
        let switches = Namespace::create("lan")?;
        tool::ip(
            Some(&switches),
            "link add front type bridge forward_delay 0\nlink set front up\n\
             link add back type bridge forward_delay 0\nlink set back up\n",
        )?;
        let mut hosts = BTreeMap::new();
        for id in HostId::ALL {
            let mut host = Host::create(id)?;
            connect(&switches, "front", &front_port(id), id, FRONT_INTERFACE, 0)?;
            host.plug(Interface {
                name: FRONT_INTERFACE,
                address: Ipv4Net::new(front_address(id), PREFIX)?,
                gateway: None,
            })?;
            if id.slot().is_some() {
                connect(&switches, "back", &back_port(id), id, BACK_INTERFACE, 1)?;
                host.plug(Interface {
                    name: BACK_INTERFACE,
                    address: Ipv4Net::new(back_address(id), PREFIX)?,
                    gateway: None,
                })?;
            }
            hosts.insert(id, host);
        }
        let partition = Mutex::new(Partition::new(&switches, Family::Bridge)?);
        Ok(LanFabric {
            switches,
            hosts,
            partition,
            wide: 0,
        })
    }

    /// As [`LanFabric::build`], with floating addresses, realms and media ports for this many calls.
    pub fn build_for(calls: u32) -> anyhow::Result<LanFabric> {
        let wide = u8::try_from(calls.div_ceil(WIDE_CALLS))
            .ok()
            .filter(|wide| *wide <= MAX_WIDE)
            .with_context(|| format!("{calls} calls: at most {MAX_WIDE} addresses"))?;
        Ok(LanFabric {
            wide,
            ..LanFabric::build()?
        })
    }

    /// Every floating address, the first one first.
    pub fn floating_addresses(&self) -> Vec<Ipv4Addr> {
        let [a, b, c, first] = FLOATING.octets();
        (0..self.wide.max(1))
            .map(|number| Ipv4Addr::new(a, b, c, first + number))
            .collect()
    }

    pub(super) fn hosts(&self) -> &BTreeMap<HostId, Host> {
        &self.hosts
    }

    pub(super) fn floating() -> Ipv4Addr {
        FLOATING
    }

    pub(super) fn address(id: HostId) -> Ipv4Addr {
        front_address(id)
    }

    pub(super) fn node_addresses(&self) -> NodeAddresses {
        let floating = self.floating_addresses();
        let passages = match self.wide {
            0 => vec![Passage::office(
                Binding::plain(FLOATING),
                Binding::plain(FLOATING),
            )],
            _ => floating.iter().copied().map(Passage::wide).collect(),
        };
        NodeAddresses {
            nodes: HostId::NODES.map(back_address),
            floating: floating
                .into_iter()
                .map(|address| Ipv4Net::new_assert(address, PREFIX))
                .collect(),
            interface: FRONT_INTERFACE,
            passages,
            ec2: None,
        }
    }

    pub(super) fn cut(&self, node: HostId, cut: Cut) -> anyhow::Result<()> {
        let front = front_port(node);
        let back = back_port(node);
        let from = [Rule::From(front.clone()), Rule::From(back.clone())];
        let to = [Rule::To(front.clone()), Rule::To(back.clone())];
        let rules: Vec<Rule> = match cut {
            Cut::Everything => from.into_iter().chain(to).collect(),
            Cut::Outbound => from.into(),
            Cut::Inbound => to.into(),
            Cut::Peers => others(node)
                .flat_map(|peer| peer_rules(node, peer))
                .collect(),
            Cut::Peer(peer) => peer_rules(node, peer),
            Cut::Clients => [HostId::Pbx, HostId::Trunk]
                .into_iter()
                .flat_map(|client| apart(&front, &front_port(client)))
                .collect(),
        };
        Ok(self.partition().add(rules)?)
    }

    pub(super) fn heal(&self, node: HostId) -> anyhow::Result<()> {
        Ok(self
            .partition()
            .heal(&[front_port(node), back_port(node)])?)
    }

    pub(super) fn lose_on_peer_link(&self, percent: u8) -> anyhow::Result<()> {
        loss::set(&self.switches, &HostId::NODES.map(back_port), percent)
    }

    pub(super) fn peer_link_loss(&self) -> anyhow::Result<LossCount> {
        loss::count(&self.switches)
    }

    pub(super) fn capture(&self) -> anyhow::Result<Capture> {
        let taps: Vec<Tap> = HostId::NODES
            .into_iter()
            .flat_map(|node| [front_port(node), back_port(node)].map(|port| Tap { node, port }))
            .collect();
        Capture::start(&self.switches, &taps, FLOATING)
    }

    /// The hosts that have the floating address configured: on a LAN nothing stops two.
    pub(super) fn address_holders(&self) -> anyhow::Result<Vec<HostId>> {
        let mut holders = Vec::new();
        for host in self.hosts.values() {
            if host.addresses()?.contains(&FLOATING) {
                holders.push(host.id());
            }
        }
        Ok(holders)
    }

    fn partition(&self) -> std::sync::MutexGuard<'_, Partition> {
        // The set of rules is whole between any two of its operations.
        self.partition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cable from a switch's port to a host's interface.
fn connect(
    switches: &Namespace,
    switch: &str,
    port: &str,
    host: HostId,
    interface: &str,
    network: u8,
) -> anyhow::Result<()> {
    let number = host.number();
    tool::ip(
        Some(switches),
        &format!(
            "link add {port} type veth peer name {interface} \
             address 02:00:00:00:{network:02x}:{number:02x} netns {host}\n\
             link set {port} master {switch} up\n"
        ),
    )?;
    Ok(())
}

fn others(node: HostId) -> impl Iterator<Item = HostId> {
    HostId::NODES
        .into_iter()
        .filter(move |other| *other != node)
}

fn peer_rules(node: HostId, peer: HostId) -> Vec<Rule> {
    let front = apart(&front_port(node), &front_port(peer));
    let back = apart(&back_port(node), &back_port(peer));
    front.into_iter().chain(back).collect()
}

fn front_port(id: HostId) -> String {
    id.name().to_owned()
}

fn back_port(id: HostId) -> String {
    format!("{id}-back")
}

fn front_address(id: HostId) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last_octet(id))
}

fn back_address(id: HostId) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 0, last_octet(id))
}

fn last_octet(id: HostId) -> u8 {
    match id {
        HostId::NodeA => 11,
        HostId::NodeB => 12,
        HostId::Witness => 13,
        HostId::Pbx => 20,
        HostId::Trunk => 30,
    }
}
