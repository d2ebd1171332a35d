//! The mover: the kernel's side first, then EC2's.

use std::net::Ipv4Addr;

use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use ipnet::{IpNet, Ipv4Net};
use tandem_failover::{Change, LocalAddresses, Mover, MoverError};
use tandem_failover_core::Epoch;
use tandem_failover_core::address::{AddressConfig, Presence, Source, SourcePolicy};

use crate::api::Api;
use crate::client::{client, http_client, usual_credentials};
use crate::settings::{Ec2Settings, SettingsError};

/// Moves secondary private addresses between network interfaces of one subnet.
#[derive(Debug)]
pub struct Ec2Mover {
    local: LocalAddresses,
    api: Api,
}

impl Ec2Mover {
    /// Credentials come from the environment or the instance profile when the first call needs them.
    /// Must be called inside a tokio runtime.
    pub fn new(settings: Ec2Settings) -> Result<Ec2Mover, SettingsError> {
        let http = http_client();
        let credentials = usual_credentials(&http);
        Ec2Mover::build(settings, http, credentials)
    }

    pub(crate) fn build(
        settings: Ec2Settings,
        http: aws_sdk_ec2::config::SharedHttpClient,
        credentials: SharedCredentialsProvider,
    ) -> Result<Ec2Mover, SettingsError> {
        let addresses = settings.validate()?;
        let Ec2Settings {
            region,
            endpoint,
            network_interface,
            interface,
            ..
        } = settings;
        let place = match &endpoint {
            Some(endpoint) => format!("{network_interface} in {region} at {endpoint}"),
            None => format!("{network_interface} in {region}"),
        };
        let local = LocalAddresses::new(interface, hosts(&addresses));
        let client = client(region, endpoint, http, credentials);
        let api = Api::new(client, network_interface, place, addresses);
        Ok(Ec2Mover { local, api })
    }
}

/// As /32: the subnet's route belongs to the primary address, which must stay the source of the API calls.
fn hosts(addresses: &[Ipv4Addr]) -> Vec<IpNet> {
    addresses
        .iter()
        .map(|address| Ipv4Net::from(*address).into())
        .collect()
}

#[async_trait]
impl Mover for Ec2Mover {
    fn name(&self) -> &'static str {
        "ec2"
    }

    /// A VPC learns nothing from announcements.
    fn config(&self) -> AddressConfig {
        let sources = vec![SourcePolicy::NETLINK, SourcePolicy::EC2_DESCRIBE];
        AddressConfig {
            sources,
            announces: false,
        }
    }

    /// The kernel first: the first packet that EC2 delivers here then finds its sockets.
    async fn claim(&self, _epoch: Epoch) -> Result<(), MoverError> {
        self.local.add().await?;
        self.api.assign().await
    }

    /// Only the kernel's side. Unassigning would break the Elastic IP's binding, and could take the address
    /// from a new owner that already has it.
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
            Source::Ec2Describe => self.api.presence().await,
        }
    }

    async fn announce(&self, _copies: u8) -> Result<(), MoverError> {
        Ok(())
    }

    async fn changed(&self) -> Change {
        self.local.changed().await
    }
}
