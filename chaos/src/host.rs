//! The machines of a drill: network namespaces with interfaces, processes and a power switch.

pub mod frozen;
mod link;
pub mod namespace;
pub mod packet;
pub mod process;
pub mod tool;

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::Context;
use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use namespace::Namespace;
pub use process::Process;

/// What Debian 12 sets for a host with one uplink, so that a drill does not depend on the machine
/// it runs on.
const HOST_SYSCTLS: [(&str, &str); 4] = [
    ("ipv4/ip_forward", "0"),
    ("ipv4/ip_nonlocal_bind", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "2"),
];

/// The machines of every fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostId {
    NodeA,
    NodeB,
    Witness,
    /// The internal side's phone system.
    Pbx,
    /// The carrier, outside.
    Trunk,
}

impl HostId {
    pub const ALL: [HostId; 5] = [
        HostId::NodeA,
        HostId::NodeB,
        HostId::Witness,
        HostId::Pbx,
        HostId::Trunk,
    ];
    /// The pair: the two nodes that can own the floating address.
    pub const DATA_NODES: [HostId; 2] = [HostId::NodeA, HostId::NodeB];
    /// The voters.
    pub const NODES: [HostId; 3] = [HostId::NodeA, HostId::NodeB, HostId::Witness];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HostId::NodeA => "node-a",
            HostId::NodeB => "node-b",
            HostId::Witness => "witness",
            HostId::Pbx => "pbx",
            HostId::Trunk => "trunk",
        }
    }

    /// The node's slot in the pair's configuration.
    #[must_use]
    pub fn slot(self) -> Option<&'static str> {
        match self {
            HostId::NodeA => Some("a"),
            HostId::NodeB => Some("b"),
            HostId::Witness => Some("witness"),
            HostId::Pbx | HostId::Trunk => None,
        }
    }

    /// A small number unlike every other host's, from 1.
    pub(crate) fn number(self) -> u8 {
        match self {
            HostId::NodeA => 1,
            HostId::NodeB => 2,
            HostId::Witness => 3,
            HostId::Pbx => 4,
            HostId::Trunk => 5,
        }
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a host comes up with when it has power.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: &'static str,
    pub address: Ipv4Net,
    pub gateway: Option<Ipv4Addr>,
}

impl Interface {
    fn up(&self) -> String {
        let Interface {
            name,
            address,
            gateway,
        } = self;
        let route = gateway
            .map(|gateway| format!("route replace default via {gateway} dev {name}\n"))
            .unwrap_or_default();
        format!("link set {name} up\naddr replace {address} dev {name}\n{route}")
    }

    fn flush(&self) -> String {
        format!("addr flush dev {}\n", self.name)
    }
}

/// One machine. Dropping it kills every process on it.
#[derive(Debug)]
pub struct Host {
    id: HostId,
    namespace: Namespace,
    interfaces: Vec<Interface>,
}

impl Host {
    /// A machine without interfaces; the fabric plugs them in.
    pub(crate) fn create(id: HostId) -> anyhow::Result<Host> {
        let namespace = Namespace::create(id.name())?;
        for (key, value) in HOST_SYSCTLS {
            namespace.set_sysctl(key, value)?;
        }
        Ok(Host {
            id,
            namespace,
            interfaces: Vec::new(),
        })
    }

    /// Configures an interface that the fabric has put into the namespace, now and at every later
    /// power-on.
    pub(crate) fn plug(&mut self, interface: Interface) -> anyhow::Result<()> {
        tool::ip(Some(&self.namespace), &interface.up())?;
        self.interfaces.push(interface);
        Ok(())
    }

    #[must_use]
    pub fn id(&self) -> HostId {
        self.id
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        self.id.name()
    }

    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    #[must_use]
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Runs `body` on a thread inside the host's network: sockets that it makes belong to the host.
    pub fn run_in<R: Send>(&self, body: impl FnOnce() -> R + Send) -> io::Result<R> {
        self.namespace.run_in(body)
    }

    /// Starts a process on the host.
    pub fn spawn(&self, command: Command) -> io::Result<Process> {
        Process::spawn(&self.namespace, command)
    }

    /// Every live process on the host, also those the drill did not start itself.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        process::in_namespace(&self.namespace)
    }

    /// The IPv4 addresses that the host has configured now, the floating address among them on its
    /// owner.
    pub fn addresses(&self) -> anyhow::Result<Vec<Ipv4Addr>> {
        self.run_in(|| {
            let entries = getifaddrs().context("list addresses")?;
            Ok(entries
                .filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()))
                .filter(|address| !address.is_loopback())
                .collect())
        })?
    }

    /// Takes one interface down, as pulling its cable does, or up with its address and route.
    pub fn set_link(&self, interface: &str, up: bool) -> anyhow::Result<()> {
        let interface = self
            .interfaces
            .iter()
            .find(|candidate| candidate.name == interface)
            .with_context(|| format!("{} has no interface {interface}", self.id))?;
        let batch = if up {
            interface.up()
        } else {
            format!("link set {} down", interface.name)
        };
        Ok(tool::ip(Some(&self.namespace), &batch)?)
    }

    /// Stops every process where it stands, as a hypervisor pausing the machine does to them; the
    /// kernel still answers for the host.
    pub fn pause(&self) -> anyhow::Result<()> {
        process::signal_all(&self.namespace, Signal::SIGSTOP)
            .with_context(|| format!("pause {}", self.id))
    }

    pub fn resume(&self) -> anyhow::Result<()> {
        process::signal_all(&self.namespace, Signal::SIGCONT)
            .with_context(|| format!("resume {}", self.id))
    }

    /// Cuts the power. The links go first: a machine without power sends nothing more, while its
    /// processes are still being collected here. Files on disk stay, addresses do not.
    pub fn power_cut(&self) -> anyhow::Result<()> {
        self.cut_links()?;
        self.lose_everything()
    }

    /// The first part of a power cut: from its return on nothing leaves the machine. By system calls, so
    /// that what is measured from here does not hold the start of a program.
    pub fn cut_links(&self) -> anyhow::Result<()> {
        let cut = || {
            self.interfaces
                .iter()
                .try_for_each(|interface| link::set_down(interface.name))
        };
        self.run_in(cut)?
            .with_context(|| format!("cut the links of {}", self.id))
    }

    /// The rest of a power cut: processes and addresses.
    pub fn lose_everything(&self) -> anyhow::Result<()> {
        process::kill_all(&self.namespace).with_context(|| format!("power cut of {}", self.id))?;
        let batch: String = self.interfaces.iter().map(Interface::flush).collect();
        Ok(tool::ip(Some(&self.namespace), &batch)?)
    }

    /// Brings the machine up with its own addresses and without processes, as after
    /// [`Host::power_cut`].
    pub fn power_on(&self) -> anyhow::Result<()> {
        let batch: String = self.interfaces.iter().map(Interface::up).collect();
        Ok(tool::ip(Some(&self.namespace), &batch)?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What resists ends with the sandbox.
        let _ = process::kill_all(&self.namespace);
    }
}
