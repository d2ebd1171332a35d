//! The VPC's data plane: one router namespace that no host can talk into believing anything.
//!
//! - The router never asks for an address by ARP: each ENI's cable has one permanent neighbour, and
//!   it answers every ARP request itself (proxy), so gratuitous ARP changes nothing, as in EC2.
//! - A secondary address is routed by its holder's packet mark, looked up in a map. Route, source
//!   check and Elastic IP translation change in one nftables transaction: there is no instant at
//!   which they disagree.
//! - Elastic IPs are rewritten statelessly, packet by packet. No connection tracking is involved, so
//!   a flow cannot stay with the old holder.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::Context;
use ipnet::Ipv4Net;

use super::ids::InterfaceId;
use super::state::State;
use crate::host::HostId;
use crate::host::namespace::Namespace;
use crate::host::tool::{self, Tool, ToolError};

/// The port to the internet.
pub(super) const INTERNET_PORT: &str = "igw";
/// Where packets to an address that nobody holds go to be counted and dropped.
const VOID_PORT: &str = "void";
/// Routing table of mark n is this plus n.
const TABLE_BASE: u32 = 100;

/// The router, and the ENIs plugged into it.
#[derive(Debug)]
pub(super) struct Router {
    namespace: Namespace,
    ports: BTreeMap<InterfaceId, Port>,
}

/// The router's end of an ENI.
#[derive(Debug, Clone)]
pub(super) struct Port {
    pub(super) host: HostId,
    pub(super) primary: Ipv4Addr,
}

impl Port {
    pub(super) fn name(&self) -> String {
        port_name(self.host)
    }

    fn mark(&self) -> u32 {
        u32::from(self.host.number())
    }

    /// Stands for the host in routes; nothing ever resolves it.
    fn next_hop(&self) -> Ipv4Addr {
        Ipv4Addr::new(169, 254, 0, self.host.number())
    }
}

pub(super) fn port_name(host: HostId) -> String {
    format!("eni-{host}")
}

/// The address of the hosts' ends, by which the router reaches them without asking.
fn hardware_address(host: HostId) -> String {
    format!("02:00:00:00:00:{:02x}", host.number())
}

impl Router {
    /// A router with `gateways` as its own addresses in the VPC's range `cidr`, and `internet` as
    /// its address outside.
    pub(super) fn build(
        cidr: Ipv4Net,
        gateways: &[Ipv4Addr],
        internet: Ipv4Net,
        outside: HostId,
    ) -> anyhow::Result<Router> {
        let namespace = Namespace::create("vpc")?;
        let mut batch = format!(
            "link add {VOID_PORT} type veth peer name void-end\n\
             link set {VOID_PORT} up\nlink set void-end up\n\
             route add {cidr} dev {VOID_PORT}\n\
             link add {INTERNET_PORT} type veth peer name eth0 netns {outside}\n\
             link set {INTERNET_PORT} up\naddr add {internet} dev {INTERNET_PORT}\n"
        );
        for gateway in gateways {
            let _ = writeln!(batch, "addr add {gateway}/32 dev lo");
        }
        tool::ip(Some(&namespace), &batch)?;
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/igw/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ] {
            namespace.set_sysctl(key, value)?;
        }
        tool::nft(&namespace, &table(cidr))?;
        Ok(Router {
            namespace,
            ports: BTreeMap::new(),
        })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(super) fn port(&self, interface: &InterfaceId) -> Option<&Port> {
        self.ports.get(interface)
    }

    /// Puts an ENI into a host's namespace as `eth0`.
    pub(super) fn plug(&mut self, id: InterfaceId, port: Port) -> anyhow::Result<()> {
        let Port { host, primary } = &port;
        let (name, mark, next_hop) = (port.name(), port.mark(), port.next_hop());
        let hardware = hardware_address(*host);
        let table = TABLE_BASE + mark;
        tool::ip(
            Some(&self.namespace),
            &format!(
                "link add {name} type veth peer name eth0 address {hardware} netns {host}\n\
                 link set {name} up\n\
                 neigh replace {next_hop} lladdr {hardware} dev {name} nud permanent\n\
                 route add {primary} via {next_hop} dev {name} onlink\n\
                 route add default via {next_hop} dev {name} onlink table {table}\n\
                 rule add fwmark {mark} lookup {table}\n"
            ),
        )?;
        self.namespace
            .set_sysctl(&format!("ipv4/conf/{name}/proxy_arp"), "1")?;
        // Answer at once: the default waits up to 0.8 s.
        self.namespace
            .set_sysctl(&format!("ipv4/neigh/{name}/proxy_delay"), "0")?;
        tool::nft(&self.namespace, &source_check(&name))?;
        self.ports.insert(id, port);
        Ok(())
    }

    /// Makes packets follow `state`, all at once.
    pub(super) fn program(&self, state: &State) -> Result<(), ToolError> {
        tool::nft(&self.namespace, &transaction(state, &self.ports))
    }

    /// Whether packets to the router itself on this TCP port arrive.
    pub(super) fn set_reachable(&self, port: u16, reachable: bool) -> Result<(), ToolError> {
        let mut script = "flush set ip vpc unreachable\n".to_owned();
        if !reachable {
            let _ = writeln!(script, "add element ip vpc unreachable {{ {port} }}");
        }
        tool::nft(&self.namespace, &script)
    }

    /// Packets that the source check of a host's ENI has dropped.
    pub(super) fn source_check_drops(&self, host: HostId) -> anyhow::Result<u64> {
        self.counter(&source_check_counter(&port_name(host)))
    }

    /// Packets from the VPC to the internet dropped for want of an Elastic IP.
    pub(super) fn no_public_address_drops(&self) -> anyhow::Result<u64> {
        self.counter("no_public_address")
    }

    fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let arguments = ["-j", "list", "counter", "ip", "vpc", name];
        let listing = tool::run(Some(&self.namespace), Tool::Nft, &arguments, "")?;
        let listing: serde_json::Value = serde_json::from_str(&listing)?;
        listing["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|object| object["counter"]["packets"].as_u64())
            .with_context(|| format!("no counter {name} in {listing}"))
    }
}

/// The rules that do not depend on who holds what. The chain `eni` gets a source check per port.
fn table(cidr: Ipv4Net) -> String {
    format!(
        "table ip vpc {{
            counter no_public_address {{ }}
            counter no_holder {{ }}
            set held {{ type ifname . ipv4_addr; }}
            map holder {{ type ipv4_addr : mark; }}
            map private_of {{ type ipv4_addr : ipv4_addr; }}
            map public_of {{ type ipv4_addr : ipv4_addr; }}
            set unreachable {{ type inet_service; }}
            chain eni {{ }}
            chain arriving {{
                type filter hook prerouting priority raw; policy accept;
                jump eni
                iifname \"{INTERNET_PORT}\" ip daddr set ip daddr map @private_of
                meta mark set ip daddr map @holder
            }}
            chain here {{
                type filter hook input priority filter; policy accept;
                tcp dport @unreachable drop
            }}
            chain passing {{
                type filter hook forward priority filter; policy accept;
                oifname \"{VOID_PORT}\" counter name no_holder drop
            }}
            chain leaving {{
                type filter hook postrouting priority raw; policy accept;
                oifname \"{INTERNET_PORT}\" ip saddr set ip saddr map @public_of
                oifname \"{INTERNET_PORT}\" ip saddr {cidr} counter name no_public_address drop
            }}
        }}\n"
    )
}

/// EC2's source/destination check: an ENI sends only from addresses that it holds.
fn source_check(port: &str) -> String {
    let counter = source_check_counter(port);
    format!(
        "add counter ip vpc {counter}\n\
         add rule ip vpc eni iifname \"{port}\" iifname . ip saddr != @held \
         counter name {counter} drop\n"
    )
}

fn source_check_counter(port: &str) -> String {
    format!("source_check_{}", port.replace('-', "_"))
}

fn transaction(state: &State, ports: &BTreeMap<InterfaceId, Port>) -> String {
    let mut script = String::from(
        "flush set ip vpc held\nflush map ip vpc holder\n\
         flush map ip vpc private_of\nflush map ip vpc public_of\n",
    );
    let mut add = |container: &str, element: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(script, "add element ip vpc {container} {{ {element} }}");
    };
    for interface in state.interfaces() {
        let Some(port) = ports.get(&interface.id) else {
            continue;
        };
        for address in interface.addresses() {
            add("held", format!("\"{}\" . {address}", port.name()));
        }
        for address in &interface.secondaries {
            add("holder", format!("{address} : {}", port.mark()));
        }
    }
    for elastic in state.elastic_ips() {
        if let Some(binding) = &elastic.binding {
            let (public, private) = (elastic.public, binding.private);
            add("private_of", format!("{public} : {private}"));
            add("public_of", format!("{private} : {public}"));
        }
    }
    script
}
