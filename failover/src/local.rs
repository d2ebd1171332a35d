//! The floating addresses on the local interface.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use tandem_failover_core::address::{FailureKind, Presence};

use crate::mover::{Change, MoverError};
use crate::netlink::{self, Entry};
use crate::watch::AddressWatch;

/// The floating addresses of one interface, in the kernel's list. The interface is looked up by its name
/// for each operation, so it may come and go.
#[derive(Debug)]
pub struct LocalAddresses {
    interface: String,
    addresses: Vec<IpNet>,
    watch: AddressWatch,
}

impl LocalAddresses {
    /// Starts to watch the interface. Must be called inside a tokio runtime.
    pub fn new(interface: String, addresses: Vec<IpNet>) -> LocalAddresses {
        let watched = addresses.iter().map(IpNet::addr).collect();
        let watch = AddressWatch::start(interface.clone(), watched);
        LocalAddresses {
            interface,
            addresses,
            watch,
        }
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    /// Adds what is missing.
    pub async fn add(&self) -> Result<(), MoverError> {
        netlink::with_connection(async |handle| {
            let Some(index) = netlink::interface_index(handle, &self.interface).await? else {
                let text = format!("there is no interface {}", self.interface);
                return Err(MoverError::new(FailureKind::Local, text));
            };
            for network in &self.addresses {
                netlink::add(handle, index, *network).await?;
            }
            Ok(())
        })
        .await
    }

    /// Removes what is there, whatever its prefix. Returns how many entries that were.
    pub async fn remove(&self) -> Result<usize, MoverError> {
        let addresses: Vec<IpAddr> = self.addresses.iter().map(IpNet::addr).collect();
        remove_addresses(&self.interface, &addresses).await
    }

    /// How much of the addresses is there. `All` wants the configured prefixes; an address with another
    /// prefix keeps the answer from being `None`.
    pub async fn presence(&self) -> Result<Presence, MoverError> {
        let entries = netlink::with_connection(async |handle| {
            match netlink::interface_index(handle, &self.interface).await? {
                Some(index) => netlink::list(handle, index).await,
                None => Ok(Vec::new()),
            }
        })
        .await?;
        Ok(presence(&self.addresses, &entries))
    }

    /// Waits for a change of the addresses or of the link. Cancel-safe.
    pub async fn changed(&self) -> Change {
        self.watch.changed().await
    }
}

/// Removes addresses from an interface, whatever their prefix; that the interface or an address is not
/// there is fine. Returns how many entries were removed. This is the clean-up after a killed process, and
/// needs nothing but the names.
pub async fn remove_addresses(interface: &str, addresses: &[IpAddr]) -> Result<usize, MoverError> {
    let wanted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    netlink::with_connection(async |handle| {
        let Some(index) = netlink::interface_index(handle, interface).await? else {
            return Ok(0);
        };
        let mut removed = 0;
        for entry in netlink::list(handle, index).await? {
            if wanted.contains(&entry.address) {
                netlink::delete(handle, entry).await?;
                removed += 1;
            }
        }
        Ok(removed)
    })
    .await
}

fn presence(wanted: &[IpNet], entries: &[Entry]) -> Presence {
    let exact = |network: &&IpNet| {
        entries
            .iter()
            .any(|entry| entry.address == network.addr() && entry.prefix == network.prefix_len())
    };
    if wanted.iter().filter(exact).count() == wanted.len() {
        return Presence::All;
    }
    let any = |network: &IpNet| entries.iter().any(|entry| entry.address == network.addr());
    if wanted.iter().any(any) {
        Presence::Some
    } else {
        Presence::None
    }
}
