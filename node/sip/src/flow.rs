//! Where a message came from and where its answer goes: realm, transport and remote address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// A side of the border. The number is the realm's position in the configuration's id space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmId(pub u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Transport {
    Udp = 0,
    Tcp = 1,
    Tls = 2,
}

impl Transport {
    /// RFC 3261 section 17: reliable transports need no retransmission, so several timers become zero.
    pub fn is_reliable(self) -> bool {
        match self {
            Transport::Udp => false,
            Transport::Tcp | Transport::Tls => true,
        }
    }

    /// The token a Via carries (RFC 3261 section 20.42).
    pub fn token(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub realm: RealmId,
    pub transport: Transport,
    pub remote: SocketAddr,
}

/// The form of a [`Flow`] inside call records. Every bit pattern decodes to some flow, so reading a record back
/// cannot fail half-way.
///
/// The address is kept as 128 bits, IPv4 in its mapped form (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct FlowRecord {
    #[prost(uint32, tag = "1")]
    realm: u32,
    #[prost(enumeration = "Transport", tag = "2")]
    transport: i32,
    #[prost(fixed64, tag = "3")]
    address_high: u64,
    #[prost(fixed64, tag = "4")]
    address_low: u64,
    #[prost(uint32, tag = "5")]
    port: u32,
    /// Scope of a link-local IPv6 address; zero otherwise.
    #[prost(uint32, tag = "6")]
    scope: u32,
}

impl From<Flow> for FlowRecord {
    fn from(flow: Flow) -> FlowRecord {
        let (address, scope) = match flow.remote {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        let bits = address.to_bits();
        FlowRecord {
            realm: u32::from(flow.realm.0),
            transport: flow.transport.into(),
            address_high: (bits >> 64) as u64,
            address_low: bits as u64,
            port: u32::from(flow.remote.port()),
            scope,
        }
    }
}

impl From<&FlowRecord> for Flow {
    fn from(record: &FlowRecord) -> Flow {
        let bits = u128::from(record.address_high) << 64 | u128::from(record.address_low);
        let port = record.port as u16;
        let remote = match Ipv6Addr::from_bits(bits).to_canonical() {
            IpAddr::V4(v4) => SocketAddr::from((v4, port)),
            IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, record.scope)),
        };
        Flow {
            realm: RealmId(record.realm as u16),
            transport: record.transport(),
            remote,
        }
    }
}

impl From<FlowRecord> for Flow {
    fn from(record: FlowRecord) -> Flow {
        Flow::from(&record)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use prost::Message as _;

    #[test]
    fn flows_survive_the_record() {
        for remote in [
            "192.0.2.1:5060",
            "[2001:db8::1]:65535",
            "[fe80::1%7]:5060",
            "0.0.0.0:0",
        ] {
            let remote: SocketAddr = remote.parse().unwrap();
            for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
                let flow = Flow {
                    realm: RealmId(u16::MAX),
                    transport,
                    remote,
                };
                let bytes = FlowRecord::from(flow).encode_to_vec();
                let back = FlowRecord::decode(bytes.as_slice()).unwrap();
                assert_eq!(Flow::from(back), flow);
            }
        }
    }

    #[test]
    fn a_mapped_address_comes_back_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:5060".parse().unwrap();
        let flow = Flow {
            realm: RealmId(1),
            transport: Transport::Udp,
            remote: mapped,
        };
        let back = Flow::from(FlowRecord::from(flow));
        assert_eq!(back.remote, "192.0.2.1:5060".parse().unwrap());
    }
}
