//! recvmmsg(2) and sendmmsg(2) over one set of buffers: received packets are sent from where they lie.
//!
//! nix offers both calls, but its slices borrow the buffers for as long as the headers live, which forbids reusing
//! them without an allocation per call. All unsafe code of the relay is in this file.
#![allow(unsafe_code)]

use nix::libc;
use socket2::SockAddr;
use std::{
    fmt, io, mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// Packets per system call.
pub(crate) const BATCH: usize = 32;
/// Bytes a packet may have: above any MTU that media is sent in. A longer one is dropped and counted.
pub(crate) const PACKET_LIMIT: usize = 2_048;

/// Buffers for one batch, and the list of those to be sent.
pub(crate) struct Batch {
    buffers: Vec<[u8; PACKET_LIMIT]>,
    received: Vec<Received>,
    /// Destinations, and which buffer goes there. Equally long, never longer than `BATCH`.
    destinations: Vec<SockAddr>,
    queued: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Received {
    length: usize,
    /// `None` for a packet that was cut off or whose source cannot be read.
    source: Option<SocketAddr>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("received", &self.received.len())
            .field("queued", &self.queued.len())
            .finish_non_exhaustive()
    }
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch {
            buffers: vec![[0; PACKET_LIMIT]; BATCH],
            received: Vec::with_capacity(BATCH),
            destinations: Vec::with_capacity(BATCH),
            queued: Vec::with_capacity(BATCH),
        }
    }

    /// Replaces the batch by what waits on the socket, without waiting; the number of packets.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.received.clear();
        self.clear_queue();
        // SAFETY: both are plain C structures for which all zeroes is a valid value.
        let mut sources: [libc::sockaddr_storage; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above; the null pointers come with lengths of zero.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut vectors = [EMPTY_VECTOR; BATCH];
        for (((header, vector), source), buffer) in headers
            .iter_mut()
            .zip(&mut vectors)
            .zip(&mut sources)
            .zip(&mut self.buffers)
        {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = buffer.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(source).cast();
            header.msg_hdr.msg_namelen = ADDRESS_LENGTH;
        }
        // SAFETY: `headers` holds BATCH initialised entries; each points to one vector, one address and through the
        // vector to one buffer, all distinct, all longer lived than the call, with their true lengths. No timeout.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (header, source) in headers.iter().zip(&sources).take(count) {
            let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            self.received.push(Received {
                length: (header.msg_len as usize).min(PACKET_LIMIT),
                source: whole.then(|| read_address(source)).flatten(),
            });
        }
        Ok(self.received.len())
    }

    /// A packet of the batch and its source; `None` when it was cut off.
    pub(crate) fn packet(&self, place: usize) -> Option<(SocketAddr, &[u8])> {
        let received = self.received.get(place)?;
        let bytes = self.buffers.get(place)?.get(..received.length)?;
        Some((received.source?, bytes))
    }

    /// Has the next [`Batch::send`] send this packet of the batch there.
    pub(crate) fn queue(&mut self, place: usize, to: SocketAddr) {
        if self.queued.len() < BATCH && place < self.received.len() {
            self.queued.push(place);
            self.destinations.push(to.into());
        }
    }

    /// Packets that wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// UDP payload bytes of `count` queued packets from `start` on.
    pub(crate) fn queued_bytes(&self, start: usize, count: usize) -> u64 {
        let sent = self.queued.iter().skip(start).take(count);
        sent.filter_map(|place| self.received.get(*place))
            .map(|received| received.length as u64)
            .sum()
    }

    /// Sends what is queued, from `start` on, with one system call; the number sent. An error is that of the packet
    /// at `start`: the kernel stops at the first packet it refuses and reports only when that is the first of all.
    pub(crate) fn send_from(&self, start: usize, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: a plain C structure for which all zeroes is a valid value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut vectors = [EMPTY_VECTOR; BATCH];
        let mut count = 0;
        let waiting = self.queued.iter().zip(&self.destinations).skip(start);
        for ((header, vector), (place, to)) in headers.iter_mut().zip(&mut vectors).zip(waiting) {
            let (Some(buffer), Some(received)) =
                (self.buffers.get(*place), self.received.get(*place))
            else {
                break;
            };
            vector.iov_base = buffer.as_ptr().cast_mut().cast();
            vector.iov_len = received.length;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = to.len();
            count += 1;
        }
        // SAFETY: the first `count` headers are initialised and point to vectors, addresses and buffers that outlive
        // the call, with lengths within them; sendmmsg only reads through these pointers, although C has no way of
        // saying so in the type.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    pub(crate) fn clear_queue(&mut self) {
        self.queued.clear();
        self.destinations.clear();
    }
}

const EMPTY_VECTOR: libc::iovec = libc::iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};

const ADDRESS_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

fn read_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_storage is at least as large and as aligned as every address type, and the family
            // says that the kernel wrote a sockaddr_in.
            let v4 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            // The flow label is no part of who the peer is.
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{net::UdpSocket, os::fd::AsFd};

    fn pair(host: &str) -> (UdpSocket, UdpSocket) {
        (
            UdpSocket::bind((host, 0)).unwrap(),
            UdpSocket::bind((host, 0)).unwrap(),
        )
    }

    #[test]
    fn a_batch_goes_out_as_it_came_in() {
        for host in ["127.0.0.1", "::1"] {
            let (near, far) = pair(host);
            for number in 0..5u8 {
                far.send_to(&[number; 100], near.local_addr().unwrap())
                    .unwrap();
            }
            let mut batch = Batch::new();
            assert_eq!(batch.receive(near.as_fd()).unwrap(), 5);
            for place in 0..5 {
                let (source, bytes) = batch.packet(place).unwrap();
                assert_eq!(source, far.local_addr().unwrap());
                assert_eq!(bytes, [place as u8; 100]);
                batch.queue(place, source);
            }
            assert_eq!(batch.send_from(0, near.as_fd()).unwrap(), 5);
            for number in 0..5u8 {
                let mut bytes = [0; 200];
                let (length, source) = far.recv_from(&mut bytes).unwrap();
                assert_eq!(source, near.local_addr().unwrap());
                assert_eq!(&bytes[..length], [number; 100]);
            }
        }
    }

    #[test]
    fn an_empty_socket_would_block() {
        let (near, _far) = pair("127.0.0.1");
        let error = Batch::new().receive(near.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_packet_that_does_not_fit_is_not_there() {
        let (near, far) = pair("127.0.0.1");
        far.send_to(&[0; PACKET_LIMIT + 1], near.local_addr().unwrap())
            .unwrap();
        far.send_to(&[0; PACKET_LIMIT], near.local_addr().unwrap())
            .unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(near.as_fd()).unwrap(), 2);
        assert!(batch.packet(0).is_none());
        assert_eq!(batch.packet(1).unwrap().1.len(), PACKET_LIMIT);
    }

    #[test]
    fn an_empty_packet_is_one() {
        let (near, far) = pair("127.0.0.1");
        far.send_to(&[], near.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(near.as_fd()).unwrap(), 1);
        assert_eq!(batch.packet(0).unwrap().1.len(), 0);
    }
}
