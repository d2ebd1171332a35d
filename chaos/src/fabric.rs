//! The networks that drills run on: an EC2 VPC and a LAN, with the same hosts on both.

mod config;
pub mod ec2;
mod lan;
mod loss;
mod partition;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::bail;

use crate::capture::Capture;
use crate::host::{Host, HostId};
pub use config::{CLIENT_SIP_PORT, PBX_SIP_PORT, PEER_PORT, TRUNK_SIP_PORT};
pub use ec2::{
    Call, Ec2Fabric, Effect, Fault, FaultRule, Faults, InterfaceId, Outage, Outcome, Trigger,
};
pub use lan::LanFabric;
pub use loss::LossCount;
pub use partition::Cut;

/// A built network. Build it inside a [`crate::sandbox`]; dropping it kills everything on its
/// hosts.
#[derive(Debug)]
pub enum Fabric {
    Ec2(Ec2Fabric),
    Lan(LanFabric),
}

impl Fabric {
    pub fn ec2() -> anyhow::Result<Fabric> {
        Ec2Fabric::build().map(Fabric::Ec2)
    }

    pub fn lan() -> anyhow::Result<Fabric> {
        LanFabric::build().map(Fabric::Lan)
    }

    /// A LAN whose nodes have realms and media ports for this many calls.
    pub fn lan_for(calls: u32) -> anyhow::Result<Fabric> {
        LanFabric::build_for(calls).map(Fabric::Lan)
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Fabric::Ec2(_) => "ec2",
            Fabric::Lan(_) => "lan",
        }
    }

    #[must_use]
    pub fn hosts(&self) -> &BTreeMap<HostId, Host> {
        match self {
            Fabric::Ec2(fabric) => fabric.hosts(),
            Fabric::Lan(fabric) => fabric.hosts(),
        }
    }

    #[must_use]
    pub fn host(&self, id: HostId) -> &Host {
        &self.hosts()[&id]
    }

    /// A host's own address, which never moves.
    #[must_use]
    pub fn address(&self, id: HostId) -> Ipv4Addr {
        match self {
            Fabric::Ec2(_) => Ec2Fabric::address(id),
            Fabric::Lan(_) => LanFabric::address(id),
        }
    }

    /// The address that the pair serves on, as bound on its owner.
    #[must_use]
    pub fn floating(&self) -> Ipv4Addr {
        match self {
            Fabric::Ec2(_) => Ec2Fabric::floating(),
            Fabric::Lan(_) => LanFabric::floating(),
        }
    }

    /// All of them: one, unless the fabric was built for many calls.
    #[must_use]
    pub fn floating_addresses(&self) -> Vec<Ipv4Addr> {
        match self {
            Fabric::Ec2(_) => vec![Ec2Fabric::floating()],
            Fabric::Lan(fabric) => fabric.floating_addresses(),
        }
    }

    /// The address that the trunk reaches the pair at: on EC2 the Elastic IP.
    #[must_use]
    pub fn public(&self) -> Ipv4Addr {
        match self {
            Fabric::Ec2(_) => Ec2Fabric::public(),
            Fabric::Lan(_) => LanFabric::floating(),
        }
    }

    /// What the fabric decides in a node's configuration file: `[pair]`, and on data nodes also
    /// `[floating]`, the realms `pbx` and `trunk`, and routes both ways between them. The caller
    /// adds `[node]`, `[admin]` and `[cdr]`.
    #[must_use]
    pub fn node_config(&self, node: HostId, keys: &Path, profile: &str) -> String {
        let addresses = match self {
            Fabric::Ec2(_) => Ec2Fabric::node_addresses(),
            Fabric::Lan(fabric) => fabric.node_addresses(),
        };
        let clients = [HostId::Pbx, HostId::Trunk].map(|client| self.address(client));
        config::node_config(&addresses, node, keys, profile, clients)
    }

    /// Partitions a node, on top of the cuts it already has. Its links stay up.
    pub fn cut(&self, node: HostId, cut: Cut) -> anyhow::Result<()> {
        match self {
            Fabric::Ec2(fabric) => fabric.cut(node, cut),
            Fabric::Lan(fabric) => fabric.cut(node, cut),
        }
    }

    /// Cuts a node off from everything.
    pub fn isolate(&self, node: HostId) -> anyhow::Result<()> {
        self.cut(node, Cut::Everything)
    }

    /// Removes every cut that concerns the node, also those made from the other side.
    pub fn heal(&self, node: HostId) -> anyhow::Result<()> {
        match self {
            Fabric::Ec2(fabric) => fabric.heal(node),
            Fabric::Lan(fabric) => fabric.heal(node),
        }
    }

    /// Loses this share of the packets of the peer link, at random, each way; 0 ends it.
    pub fn lose_on_peer_link(&self, percent: u8) -> anyhow::Result<()> {
        match self {
            Fabric::Ec2(_) => bail!("the EC2 fabric loses nothing at random"),
            Fabric::Lan(fabric) => fabric.lose_on_peer_link(percent),
        }
    }

    /// What was lost since the share was set.
    pub fn peer_link_loss(&self) -> anyhow::Result<LossCount> {
        match self {
            Fabric::Ec2(_) => Ok(LossCount::default()),
            Fabric::Lan(fabric) => fabric.peer_link_loss(),
        }
    }

    /// Starts recording what the nodes send from the floating address.
    pub fn capture(&self) -> anyhow::Result<Capture> {
        match self {
            Fabric::Ec2(fabric) => fabric.capture(),
            Fabric::Lan(fabric) => fabric.capture(),
        }
    }

    /// Who has the floating address now. On EC2 the host that the VPC routes it to, one at most; on
    /// a LAN every host that has it configured, where two are a finding.
    pub fn address_holders(&self) -> anyhow::Result<Vec<HostId>> {
        match self {
            Fabric::Ec2(fabric) => Ok(fabric.address_holders()),
            Fabric::Lan(fabric) => fabric.address_holders(),
        }
    }

    /// The one holder of the floating address, `None` when there is none or more than one.
    pub fn address_holder(&self) -> anyhow::Result<Option<HostId>> {
        match self.address_holders()?.as_slice() {
            [holder] => Ok(Some(*holder)),
            _ => Ok(None),
        }
    }
}
