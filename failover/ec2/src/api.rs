//! The two calls.

use std::net::Ipv4Addr;

use aws_sdk_ec2::Client;
use tandem_failover::MoverError;
use tandem_failover_core::address::{FailureKind, Presence};

use crate::failure::failure;

/// EC2 as seen from one network interface and a set of addresses.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    network_interface: String,
    /// What the calls are about, for error texts.
    place: String,
    addresses: Vec<Ipv4Addr>,
}

impl Api {
    pub(crate) fn new(
        client: Client,
        network_interface: String,
        place: String,
        addresses: Vec<Ipv4Addr>,
    ) -> Api {
        Api {
            client,
            network_interface,
            place,
            addresses,
        }
    }

    /// Moves all addresses here in one call, from whoever has them. Success means EC2 has accepted it, not
    /// that packets arrive.
    pub(crate) async fn assign(&self) -> Result<(), MoverError> {
        let addresses: Vec<String> = self.addresses.iter().map(Ipv4Addr::to_string).collect();
        let what = || {
            let (addresses, place) = (addresses.join(", "), &self.place);
            format!("AssignPrivateIpAddresses of {addresses} to {place}")
        };
        self.client
            .assign_private_ip_addresses()
            .network_interface_id(&self.network_interface)
            .allow_reassignment(true)
            .set_private_ip_addresses(Some(addresses.clone()))
            .send()
            .await
            .map(|_answer| ())
            .map_err(|error| failure(&what(), &error))
    }

    /// How many of the addresses EC2 shows on the own network interface.
    pub(crate) async fn presence(&self) -> Result<Presence, MoverError> {
        let what = || format!("DescribeNetworkInterfaces of {}", self.place);
        let answer = self
            .client
            .describe_network_interfaces()
            .network_interface_ids(&self.network_interface)
            .send()
            .await
            .map_err(|error| failure(&what(), &error))?;
        let own = answer
            .network_interfaces()
            .iter()
            .find(|interface| interface.network_interface_id() == Some(&self.network_interface));
        let Some(own) = own else {
            let text = format!("{}: it is not in the answer", what());
            return Err(MoverError::new(FailureKind::NotFound, text));
        };
        // Compared as addresses: as text, 10.0.0.10 is also the beginning of 10.0.0.100.
        let assigned: Vec<Ipv4Addr> = own
            .private_ip_addresses()
            .iter()
            .filter_map(|address| address.private_ip_address()?.parse().ok())
            .collect();
        let here = self
            .addresses
            .iter()
            .filter(|address| assigned.contains(address))
            .count();
        Ok(match here {
            0 => Presence::None,
            count if count == self.addresses.len() => Presence::All,
            _ => Presence::Some,
        })
    }
}
