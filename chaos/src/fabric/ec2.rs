//! A VPC as EC2 builds it: addresses belong to network interfaces because the API says so.
//!
//! ```text
//!  node-a 10.0.0.11 ─┐                                    ┌─ pbx 10.0.1.20 (another subnet)
//!  node-b 10.0.0.12 ─┤─ router "vpc": routes, source ─────┤
//! witness 10.0.0.13 ─┘  checks, Elastic IPs, EC2 API      └─ internet ─ trunk 198.51.100.20
//!                       at http://10.0.0.1:7700
//! ```
//!
//! The floating address 10.0.0.100 starts on node-a's interface, with the Elastic IP 203.0.113.100
//! bound to it.

mod describe;
mod endpoint;
mod error;
mod faults;
pub mod ids;
mod log;
mod query;
mod router;
mod state;
mod vpc;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;

use super::config::{Binding, Ec2Addresses, NodeAddresses, Passage};
use super::partition::{Cut, Family, Partition, Rule, apart};
use crate::capture::{Capture, Tap};
use crate::host::{Host, HostId, Interface};
use endpoint::Endpoint;
use error::ApiError;
pub use faults::{Fault, Faults, Outage, Rule as FaultRule, Trigger};
pub use ids::InterfaceId;
use ids::{AllocationId, InstanceId, SubnetId};
pub use log::{Call, Effect, Outcome};
use router::{INTERNET_PORT, Port, Router, port_name};
use state::{Change, ElasticName, NetworkInterface, State, Target};

const VPC: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 16);
const NODE_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 24);
const PBX_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 1, 0), 24);
const NODE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PBX_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const INTERNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 1), 24);
const FLOATING: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const ELASTIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 100);
const API_PORT: u16 = 7700;
const REGION: &str = "eu-central-1";
/// A t3.medium's interface has six addresses, the primary one included.
const SECONDARY_LIMIT: usize = 5;
const HOST_INTERFACE: &str = "eth0";

/// The VPC with its hosts, its API and the internet side.
#[derive(Debug)]
pub struct Ec2Fabric {
    // Dropped before the hosts: a call in progress must not outlive them.
    endpoint: Endpoint,
    hosts: BTreeMap<HostId, Host>,
    partition: Mutex<Partition>,
}

impl Ec2Fabric {
    /// Builds the VPC, every host up with its own address and the endpoint serving.
    pub fn build() -> anyhow::Result<Ec2Fabric> {
        let mut hosts = BTreeMap::new();
        for id in HostId::ALL {
            hosts.insert(id, Host::create(id)?);
        }
        let gateways = [NODE_GATEWAY, PBX_GATEWAY];
        let mut router = Router::build(VPC, &gateways, INTERNET, HostId::Trunk)?;
        for host in hosts.values_mut() {
            let primary = address(host.id());
            if host.id() != HostId::Trunk {
                let port = Port {
                    host: host.id(),
                    primary,
                };
                router.plug(interface_id(host.id()), port)?;
            }
            host.plug(Interface {
                name: HOST_INTERFACE,
                address: Ipv4Net::new(primary, 24)?,
                gateway: Some(gateway(host.id())),
            })?;
        }
        let partition = Mutex::new(Partition::new(router.namespace(), Family::Ip)?);
        let api = SocketAddrV4::new(NODE_GATEWAY, API_PORT);
        let endpoint = Endpoint::start(router, first_state()?, api)?;
        Ok(Ec2Fabric {
            endpoint,
            hosts,
            partition,
        })
    }

    /// Replaces the endpoint's faults, the rules' remaining counts included.
    pub fn set_faults(&self, faults: Faults) -> anyhow::Result<()> {
        self.endpoint.set_faults(faults)
    }

    /// The faults as they are now: `Next` counts what is left.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.endpoint.faults()
    }

    /// Every API call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.endpoint.calls()
    }

    /// Every change of the data plane so far.
    #[must_use]
    pub fn effects(&self) -> Vec<Effect> {
        self.endpoint.effects()
    }

    /// Log entries lost to the log's bound.
    #[must_use]
    pub fn forgotten_log_entries(&self) -> u64 {
        self.endpoint.forgotten_log_entries()
    }

    /// Moves the floating address behind everybody's back, as an operator at the console could.
    pub fn move_floating(&self, to: HostId) -> anyhow::Result<()> {
        self.endpoint.change(&Change::Assign {
            interface: interface_id(to),
            addresses: vec![FLOATING],
            allow_reassignment: true,
        })
    }

    /// Packets that a host sent from an address which its interface did not hold.
    pub fn source_check_drops(&self, host: HostId) -> anyhow::Result<u64> {
        self.endpoint.router().source_check_drops(host)
    }

    /// Packets to the internet from addresses without an Elastic IP.
    pub fn no_public_address_drops(&self) -> anyhow::Result<u64> {
        self.endpoint.router().no_public_address_drops()
    }

    /// Where nodes reach the API.
    #[must_use]
    pub fn api_url() -> String {
        format!("http://{NODE_GATEWAY}:{API_PORT}")
    }

    /// The id of a host's network interface.
    #[must_use]
    pub fn interface_id(host: HostId) -> InterfaceId {
        interface_id(host)
    }

    pub(super) fn hosts(&self) -> &BTreeMap<HostId, Host> {
        &self.hosts
    }

    pub(super) fn floating() -> Ipv4Addr {
        FLOATING
    }

    /// The floating address as the internet sees it.
    pub(super) fn public() -> Ipv4Addr {
        ELASTIC
    }

    pub(super) fn address(id: HostId) -> Ipv4Addr {
        address(id)
    }

    pub(super) fn node_addresses() -> NodeAddresses {
        NodeAddresses {
            nodes: HostId::NODES.map(address),
            floating: vec![Ipv4Net::from(FLOATING)],
            interface: HOST_INTERFACE,
            passages: vec![Passage::office(
                Binding::plain(FLOATING),
                Binding::translated(FLOATING, ELASTIC),
            )],
            ec2: Some(Ec2Addresses {
                endpoint: Ec2Fabric::api_url(),
                region: REGION,
                interfaces: HostId::DATA_NODES.map(|node| interface_id(node).to_string()),
            }),
        }
    }

    pub(super) fn cut(&self, node: HostId, cut: Cut) -> anyhow::Result<()> {
        let port = port_of(node);
        let rules: Vec<Rule> = match cut {
            Cut::Everything => vec![Rule::From(port.clone()), Rule::To(port)],
            Cut::Outbound => vec![Rule::From(port)],
            Cut::Inbound => vec![Rule::To(port)],
            Cut::Peers => HostId::NODES
                .into_iter()
                .filter(|other| *other != node)
                .flat_map(|peer| apart(&port, &port_of(peer)))
                .collect(),
            Cut::Peer(peer) => apart(&port, &port_of(peer)).into(),
            Cut::Clients => [HostId::Pbx, HostId::Trunk]
                .into_iter()
                .flat_map(|client| apart(&port, &port_of(client)))
                .collect(),
        };
        Ok(self.partition().add(rules)?)
    }

    pub(super) fn heal(&self, node: HostId) -> anyhow::Result<()> {
        Ok(self.partition().heal(&[port_of(node)])?)
    }

    pub(super) fn capture(&self) -> anyhow::Result<Capture> {
        let taps: Vec<Tap> = HostId::NODES
            .into_iter()
            .map(|node| Tap {
                node,
                port: port_of(node),
            })
            .collect();
        Capture::start(self.endpoint.router().namespace(), &taps, FLOATING)
    }

    /// The one host whose interface the VPC routes the floating address to.
    pub(super) fn address_holders(&self) -> Vec<HostId> {
        let state = self.endpoint.effective();
        let holder = state.holder(FLOATING);
        holder
            .and_then(|interface| self.endpoint.router().port(&interface.id))
            .map(|port| port.host)
            .into_iter()
            .collect()
    }

    fn partition(&self) -> MutexGuard<'_, Partition> {
        // The set of rules is whole between any two of its operations.
        self.partition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The VPC at the start: the floating address on node-a, its Elastic IP bound.
fn first_state() -> Result<State, ApiError> {
    let interfaces = [HostId::NodeA, HostId::NodeB, HostId::Witness, HostId::Pbx];
    let interfaces = interfaces.map(|host| NetworkInterface {
        id: interface_id(host),
        instance: InstanceId::new(format!("i-0{:016x}", host.number())),
        subnet: subnet_id(host),
        cidr: if host == HostId::Pbx {
            PBX_SUBNET
        } else {
            NODE_SUBNET
        },
        primary: address(host),
        secondaries: BTreeSet::new(),
        secondary_limit: SECONDARY_LIMIT,
    });
    let allocation = AllocationId::new(format!("eipalloc-0{:016x}", 1));
    let state = State::new(interfaces, [(allocation.clone(), ELASTIC)]);
    let (state, _) = state.with(&Change::Assign {
        interface: interface_id(HostId::NodeA),
        addresses: vec![FLOATING],
        allow_reassignment: false,
    })?;
    let (state, _) = state.with(&Change::Associate {
        elastic: ElasticName::Allocation(allocation),
        target: Target::Interface(interface_id(HostId::NodeA)),
        private: Some(FLOATING),
        allow_reassociation: false,
    })?;
    Ok(state)
}

fn interface_id(host: HostId) -> InterfaceId {
    InterfaceId::new(format!("eni-0{:016x}", host.number()))
}

fn subnet_id(host: HostId) -> SubnetId {
    SubnetId::new(if host == HostId::Pbx {
        "subnet-0pbx"
    } else {
        "subnet-0nodes"
    })
}

fn port_of(host: HostId) -> String {
    if host == HostId::Trunk {
        INTERNET_PORT.to_owned()
    } else {
        port_name(host)
    }
}

fn address(host: HostId) -> Ipv4Addr {
    match host {
        HostId::NodeA => Ipv4Addr::new(10, 0, 0, 11),
        HostId::NodeB => Ipv4Addr::new(10, 0, 0, 12),
        HostId::Witness => Ipv4Addr::new(10, 0, 0, 13),
        HostId::Pbx => Ipv4Addr::new(10, 0, 1, 20),
        HostId::Trunk => Ipv4Addr::new(198, 51, 100, 20),
    }
}

fn gateway(host: HostId) -> Ipv4Addr {
    match host {
        HostId::NodeA | HostId::NodeB | HostId::Witness => NODE_GATEWAY,
        HostId::Pbx => PBX_GATEWAY,
        HostId::Trunk => INTERNET.addr(),
    }
}
