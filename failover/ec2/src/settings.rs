//! What the mover must know, checked before anything is called.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

#[derive(Clone, Debug)]
pub struct Ec2Settings {
    pub region: String,
    /// Instead of the region's public endpoint: a VPC interface endpoint, or a simulator. `http` works too.
    pub endpoint: Option<String>,
    /// The own network interface in EC2, `eni-…`.
    pub network_interface: String,
    /// The same network interface as the kernel names it. Never guessed: a host may have several.
    pub interface: String,
    /// The floating addresses. Their prefix does not matter: they are added as /32.
    pub addresses: Vec<IpNet>,
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("floating.addresses: no address given")]
    NoAddress,
    #[error("floating.addresses: {0}: EC2 cannot move an IPv6 address in one call; only IPv4 here")]
    Ipv6(IpAddr),
    #[error("floating.ec2.eni: {0:?} is not the id of a network interface (eni-…)")]
    NetworkInterface(String),
    #[error("floating.ec2.region: empty")]
    NoRegion,
    #[error("floating.ec2.endpoint: {0:?} does not begin with http:// or https://")]
    Endpoint(String),
}

impl Ec2Settings {
    pub(crate) fn validate(&self) -> Result<Vec<Ipv4Addr>, SettingsError> {
        if self.region.is_empty() {
            return Err(SettingsError::NoRegion);
        }
        let id = &self.network_interface;
        if id.strip_prefix("eni-").is_none_or(str::is_empty) {
            return Err(SettingsError::NetworkInterface(id.clone()));
        }
        if let Some(endpoint) = &self.endpoint
            && !["http://", "https://"]
                .iter()
                .any(|scheme| endpoint.starts_with(scheme))
        {
            return Err(SettingsError::Endpoint(endpoint.clone()));
        }
        if self.addresses.is_empty() {
            return Err(SettingsError::NoAddress);
        }
        let v4 = |network: &IpNet| match network.addr() {
            IpAddr::V4(address) => Ok(address),
            IpAddr::V6(_) => Err(SettingsError::Ipv6(network.addr())),
        };
        self.addresses.iter().map(v4).collect()
    }
}
