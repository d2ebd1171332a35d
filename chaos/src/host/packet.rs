//! Raw packet sockets (packet(7)). The `unsafe` of their options lives here.

use std::io::{self, IoSliceMut};
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, recvmsg, setsockopt,
    sockopt::{ReceiveTimestampns, RxqOvfl},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::clock;

/// Room for bursts while the reader waits for a processor: seconds of a busy drill.
const RECEIVE_BUFFER: usize = 16 << 20;
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_OFFSET: u32 = 12;
const IPV4_SOURCE_OFFSET: u32 = 14 + 12;

/// A raw Ethernet socket on one interface of the namespace that it was opened in.
#[derive(Debug)]
pub struct PacketSocket {
    descriptor: OwnedFd,
}

/// What one read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the frame that are in the buffer.
    pub length: usize,
    /// When the kernel took the frame from the link, in boot time.
    pub at: Duration,
    /// Frames that the kernel has dropped for want of buffer since the socket was opened.
    pub lost: u32,
}

impl PacketSocket {
    /// For sending frames.
    pub fn sender(interface: &str) -> io::Result<PacketSocket> {
        let socket = PacketSocket::open()?;
        socket.bind(interface, 0)?;
        Ok(socket)
    }

    /// Receives the IPv4 packets with this source that come in from the link, before a bridge or a
    /// filter sees them.
    pub fn receiver(interface: &str, source: Ipv4Addr) -> io::Result<PacketSocket> {
        let socket = PacketSocket::open()?;
        socket.filter_source(source)?;
        socket.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
        // SO_RCVBUF is capped by a sysctl that an ordinary user cannot raise.
        if socket
            .set_option(
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                &(RECEIVE_BUFFER as i32),
            )
            .is_err()
        {
            socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUF, &(RECEIVE_BUFFER as i32))?;
        }
        setsockopt(&socket.descriptor, ReceiveTimestampns, &true)?;
        setsockopt(&socket.descriptor, RxqOvfl, &1)?;
        // Only "all protocols" sees a frame before the bridge takes it.
        socket.bind(interface, libc::ETH_P_ALL)?;
        Ok(socket)
    }

    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::sys::socket::send(self.descriptor.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// One frame, or `None` when none waits.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut slices = [IoSliceMut::new(buffer)];
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec, u32);
        let message = match recvmsg::<()>(
            self.descriptor.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut received = Received {
            length: message.bytes,
            at: clock::boottime(),
            lost: 0,
        };
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(stamp) => {
                    let age = clock::realtime().saturating_sub(Duration::from(stamp));
                    received.at = received.at.saturating_sub(age);
                }
                ControlMessageOwned::RxqOvfl(lost) => received.lost = lost,
                _ => {}
            }
        }
        Ok(Some(received))
    }

    fn open() -> io::Result<PacketSocket> {
        // Protocol 0 receives nothing until `bind` names one: no frame slips in before the filter
        // is set.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        Ok(PacketSocket {
            descriptor: socket.into(),
        })
    }

    fn bind(&self, interface: &str, protocol: i32) -> io::Result<()> {
        let index = i32::try_from(if_nametoindex(interface)?).map_err(io::Error::other)?;
        let protocol = u16::try_from(protocol).map_err(io::Error::other)?;
        // SAFETY: sockaddr_ll is smaller than the zeroed storage that it is written to, and every
        // bit pattern of it is valid; the length given is its own.
        let ((), address) = unsafe {
            SockAddr::try_init(|storage, length| {
                let address = storage.cast::<libc::sockaddr_ll>();
                (*address).sll_family = libc::AF_PACKET as u16;
                (*address).sll_protocol = protocol.to_be();
                (*address).sll_ifindex = index;
                *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                Ok(())
            })?
        };
        socket2::SockRef::from(&self.descriptor).bind(&address)
    }

    /// A classic BPF program: IPv4 frames from `source` whole, everything else not at all.
    fn filter_source(&self, source: Ipv4Addr) -> io::Result<()> {
        let statement = |code: u32, jump_false: u8, k: u32| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf: jump_false,
            k,
        };
        let load_half = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
        let load_word = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        let jump_equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        let accept = libc::BPF_RET | libc::BPF_K;
        let mut program = [
            statement(load_half, 0, ETHERTYPE_OFFSET),
            statement(jump_equal, 3, ETHERTYPE_IPV4),
            statement(load_word, 0, IPV4_SOURCE_OFFSET),
            statement(jump_equal, 1, source.to_bits()),
            statement(accept, 0, u32::MAX),
            statement(accept, 0, 0),
        ];
        let program = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_mut_ptr(),
        };
        self.set_option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    fn set_option<T>(&self, level: i32, name: i32, value: &T) -> io::Result<()> {
        // SAFETY: the kernel reads `size_of::<T>()` bytes from a live reference; callers pass the
        // type that the option takes. A filter program's instructions outlive the call, which
        // copies them.
        let result = unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
