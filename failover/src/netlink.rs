//! rtnetlink requests whose connection lives exactly as long as their future.
//!
//! The usual way is one connection in a task of its own. A request whose future was dropped could then
//! still wait in that task, and reach the kernel after the request that was meant to undo it. Here the
//! connection is polled by the future that asks: what is dropped is not sent. The kernel carries a sent
//! request out before the send returns.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::{Error, Handle};
use tandem_failover_core::address::FailureKind;

use crate::mover::MoverError;

/// One address of an interface, as the kernel lists it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    message: AddressMessage,
}

/// Runs `request` with a fresh connection.
pub(crate) async fn with_connection<T>(
    request: impl AsyncFnOnce(&Handle) -> Result<T, MoverError>,
) -> Result<T, MoverError> {
    let (connection, handle, _messages) = rtnetlink::new_connection()
        .map_err(|error| local(format!("cannot open a netlink socket: {error}")))?;
    tokio::select! {
        result = request(&handle) => result,
        () = connection => Err(local("the netlink socket closed".to_owned())),
    }
}

/// The index of the interface; none if there is no such interface.
pub(crate) async fn interface_index(
    handle: &Handle,
    interface: &str,
) -> Result<Option<u32>, MoverError> {
    let mut links = handle
        .link()
        .get()
        .match_name(interface.to_owned())
        .execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(local(format!(
            "cannot look up interface {interface}: {error}"
        ))),
    }
}

/// The addresses of the interface.
pub(crate) async fn list(handle: &Handle, index: u32) -> Result<Vec<Entry>, MoverError> {
    let request = handle.address().get().set_link_index_filter(index);
    let messages: Vec<AddressMessage> = request
        .execute()
        .try_collect()
        .await
        .map_err(|error| local(format!("cannot list addresses: {error}")))?;
    Ok(messages.into_iter().filter_map(entry).collect())
}

/// Adds an address; that it is there already is fine.
pub(crate) async fn add(handle: &Handle, index: u32, network: IpNet) -> Result<(), MoverError> {
    let mut request = handle
        .address()
        .add(index, network.addr(), network.prefix_len());
    if network.addr().is_ipv6() {
        // The quorum decided who holds the address. Duplicate detection would keep it unusable for a
        // second, and take it away for good while the old holder still answers (RFC 4862 s5.4).
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    match request.execute().await {
        Ok(()) => Ok(()),
        Err(error) if errno(&error) == Some(Errno::EEXIST) => Ok(()),
        Err(error) => Err(local(format!("cannot add {network}: {error}"))),
    }
}

/// Deletes an entry; that it is gone already is fine.
pub(crate) async fn delete(handle: &Handle, entry: Entry) -> Result<(), MoverError> {
    let (address, prefix) = (entry.address, entry.prefix);
    match handle.address().del(entry.message).execute().await {
        Ok(()) => Ok(()),
        Err(error) if matches!(errno(&error), Some(Errno::EADDRNOTAVAIL | Errno::ENODEV)) => Ok(()),
        Err(error) => Err(local(format!("cannot delete {address}/{prefix}: {error}"))),
    }
}

/// The address a message speaks of: on point-to-point links `Address` is the other end.
pub(crate) fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
}

fn entry(message: AddressMessage) -> Option<Entry> {
    let address = local_address(&message)?;
    Some(Entry {
        address,
        prefix: message.header.prefix_len,
        message,
    })
}

fn errno(error: &Error) -> Option<Errno> {
    match error {
        Error::NetlinkError(message) => Some(Errno::from_raw(-message.raw_code())),
        _ => None,
    }
}

fn local(text: String) -> MoverError {
    MoverError::new(FailureKind::Local, text)
}
