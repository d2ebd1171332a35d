//! The mover of a LAN: the address is where its holder says it is.

use std::net::IpAddr;

use async_trait::async_trait;
use ipnet::IpNet;
use tandem_failover_core::Epoch;
use tandem_failover_core::address::{AddressConfig, FailureKind, Presence, Source, SourcePolicy};

use crate::announce::announce;
use crate::local::LocalAddresses;
use crate::mover::{Change, Mover, MoverError};

/// Adds the addresses to an interface, with the prefixes given, and announces them by gratuitous ARP and
/// unsolicited neighbour advertisements.
#[derive(Debug)]
pub struct L2Mover {
    local: LocalAddresses,
}

impl L2Mover {
    /// Must be called inside a tokio runtime.
    pub fn new(interface: String, addresses: Vec<IpNet>) -> L2Mover {
        L2Mover {
            local: LocalAddresses::new(interface, addresses),
        }
    }
}

#[async_trait]
impl Mover for L2Mover {
    fn name(&self) -> &'static str {
        "l2"
    }

    fn config(&self) -> AddressConfig {
        AddressConfig {
            sources: vec![SourcePolicy::NETLINK],
            announces: true,
        }
    }

    async fn claim(&self, _epoch: Epoch) -> Result<(), MoverError> {
        self.local.add().await
    }

    async fn release(&self) -> Result<(), MoverError> {
        let removed = self.local.remove().await?;
        tracing::debug!(
            interface = self.local.interface(),
            removed,
            "addresses removed"
        );
        Ok(())
    }

    async fn observe(&self, source: Source) -> Result<Presence, MoverError> {
        match source {
            Source::Netlink => self.local.presence().await,
            Source::Ec2Describe => Err(MoverError::new(
                FailureKind::Other,
                "a LAN has no control plane to ask",
            )),
        }
    }

    async fn announce(&self, copies: u8) -> Result<(), MoverError> {
        let addresses: Vec<IpAddr> = self.local.addresses().iter().map(IpNet::addr).collect();
        announce(self.local.interface(), &addresses, copies)
    }

    async fn changed(&self) -> Change {
        self.local.changed().await
    }
}
