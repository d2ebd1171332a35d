//! Media sockets.

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{setsockopt, sockopt::RcvBufForce},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
};
use tracing::warn;

/// RFC 4594 section 4.1: telephony media travels in the class EF, code point 46, in the upper six bits of the byte.
const EXPEDITED_FORWARDING: u32 = 46 << 2;

/// Opens a media socket on an address that need not be on this host: the standby holds the ports of the floating
/// address before it holds the address.
pub(crate) fn open(address: SocketAddr, receive_buffer: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    match address {
        SocketAddr::V4(_) => {
            socket.set_freebind_v4(true)?;
            socket.set_tos_v4(EXPEDITED_FORWARDING)?;
        }
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
            socket.set_tclass_v6(EXPEDITED_FORWARDING)?;
        }
    }
    // Beyond net.core.rmem_max only with CAP_NET_ADMIN; without it the kernel grants what it allows.
    if setsockopt(&socket, RcvBufForce, &receive_buffer).is_err() {
        socket.set_recv_buffer_size(receive_buffer)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Raises the soft limit of open files as far as the hard limit lets it; each media port is one.
pub(crate) fn raise_file_limit(media_ports: u64) {
    /// Files of everything else: SIP, peers, the store, logs.
    const OTHER_FILES: u64 = 256;
    let needed = media_ports + OTHER_FILES;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft < needed && setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard).is_err() {
        warn!(soft, needed, "cannot raise the limit of open files");
    }
    if hard < needed {
        warn!(
            hard,
            needed, "fewer open files allowed than there are media ports; LimitNOFILE= raises it"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use socket2::SockRef;
    use std::io::ErrorKind;

    const BUFFER: usize = 1 << 16;

    #[test]
    fn binds_addresses_that_are_not_on_this_host() {
        for address in ["198.51.100.1:0", "[2001:db8::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let socket = open(address, BUFFER).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), address.ip());
        }
    }

    #[test]
    fn marks_media_for_expedited_forwarding() {
        let socket = open("127.0.0.1:0".parse().unwrap(), BUFFER).unwrap();
        assert_eq!(SockRef::from(&socket).tos_v4().unwrap(), 0xb8);
        let socket = open("[::1]:0".parse().unwrap(), BUFFER).unwrap();
        assert_eq!(SockRef::from(&socket).tclass_v6().unwrap(), 0xb8);
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let first = open("127.0.0.1:0".parse().unwrap(), BUFFER).unwrap();
        let error = open(first.local_addr().unwrap(), BUFFER).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}
