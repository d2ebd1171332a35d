//! Sending announcements: a raw packet socket for the time of a burst.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket};
use tandem_failover_core::address::FailureKind;

use crate::frames::{HardwareAddress, announcement};
use crate::mover::MoverError;

/// ARPHRD_ETHER: only Ethernet has neighbours to tell this way.
const ETHERNET: u16 = 1;

/// Announces every address `copies` times. Never blocks: a full queue is an error.
pub(crate) fn announce(
    interface: &str,
    addresses: &[IpAddr],
    copies: u8,
) -> Result<(), MoverError> {
    let failed = |step: &str, errno: Errno| {
        let text = format!("cannot announce on {interface}: {step}: {errno}");
        MoverError::new(FailureKind::Local, text)
    };
    let link = link_address(interface).map_err(|errno| failed("getifaddrs", errno))?;
    let Some((link, source)) = link else {
        return Err(MoverError::new(
            FailureKind::Local,
            format!("cannot announce on {interface}: not an Ethernet interface"),
        ));
    };
    let socket = open(&link).map_err(|errno| failed("packet socket", errno))?;
    let frames: Vec<Vec<u8>> = addresses
        .iter()
        .flat_map(|address| announcement(source, *address))
        .collect();
    for _ in 0..copies {
        for frame in &frames {
            send(socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)
                .map_err(|errno| failed("send", errno))?;
        }
    }
    Ok(())
}

/// The link-layer address of the interface; none if it is not there or not Ethernet.
fn link_address(interface: &str) -> Result<Option<(LinkAddr, HardwareAddress)>, Errno> {
    let found = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied());
    Ok(found
        .filter(|link| link.hatype() == ETHERNET)
        .and_then(|link| {
            link.addr()
                .map(|hardware| (link, HardwareAddress(hardware)))
        }))
}

/// A socket that only sends: without a protocol the kernel delivers nothing to it.
fn open(link: &LinkAddr) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    bind(socket.as_raw_fd(), link)?;
    Ok(socket)
}
