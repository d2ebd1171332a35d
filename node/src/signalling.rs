//! SIP sockets: one per realm, bound before this node owns anything.
//!
//! A socket is bound with IP_FREEBIND to an address that the host may not have yet, so a takeover
//! binds nothing. One thread per realm receives; the engine sends, through the same socket.

use std::{io, net::SocketAddr, net::UdpSocket, sync::Arc, thread};

use anyhow::Context;
use bytes::Bytes;
use nix::libc::MSG_DONTWAIT;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tandem_sip::flow::RealmId;
use tracing::warn;

use crate::{config::Realm, inbox};

/// The largest UDP payload there is: a SIP message larger than this cannot arrive by UDP.
const DATAGRAM_MAX: usize = 65_535;
/// A burst of retransmissions from a restarted PBX fits; beyond it the kernel drops and counts.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A realm's socket, for sending.
#[derive(Debug, Clone)]
pub(crate) struct RealmSocket(Arc<UdpSocket>);

impl RealmSocket {
    /// Binds a realm's signalling socket and starts its receiver.
    ///
    /// # Errors
    /// Names the realm and the address.
    pub(crate) fn open(
        id: RealmId,
        realm: &Realm,
        inbox: inbox::Sender,
    ) -> anyhow::Result<RealmSocket> {
        let socket = bind(realm.bind)
            .with_context(|| format!("realm {:?}: binding {}/udp", realm.name, realm.bind))?;
        let socket = Arc::new(socket);
        let receiver = Arc::clone(&socket);
        let name = format!("sip-{}", realm.name);
        thread::Builder::new()
            .name(name)
            .spawn(move || receive(&receiver, id, &inbox))
            .context("starting a SIP receiver")?;
        Ok(RealmSocket(socket))
    }

    /// Sends one message; never blocks. A full socket buffer loses it, as the network may.
    pub(crate) fn send(&self, bytes: &[u8], remote: SocketAddr) -> io::Result<()> {
        SockRef::from(&*self.0)
            .send_to_with_flags(bytes, &remote.into(), MSG_DONTWAIT)
            .map(|_| ())
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn receive(socket: &UdpSocket, realm: RealmId, inbox: &inbox::Sender) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, source)) => {
                let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                if !inbox.offer(realm, source, bytes) {
                    return;
                }
            }
            // An ICMP error to something we sent earlier, reported here by Linux: not about receiving.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => warn!(?realm, %error, "receiving SIP"),
        }
    }
}
