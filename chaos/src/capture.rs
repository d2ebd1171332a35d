//! What really left each node from the floating address, seen from the fabric's end of its cable.
//!
//! One thread per tapped port, in the fabric's namespace. Packets are recorded before any source
//! check, translation or bridging, so a packet counts even when the fabric then drops it: contract
//! 1 is about what a node emits. ARP never counts.

mod frame;
mod ownership;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use crate::host::HostId;
use crate::host::namespace::Namespace;
use crate::host::packet::PacketSocket;
pub use ownership::{ServeTime, dual_owner_packets};

/// Packets kept, about 200 MB at most. Later ones are only counted ([`Captured::overflow`]): a
/// drill that gets here must call its result incomplete.
const MAX_PACKETS: usize = 4_000_000;
/// Headers are enough; longer frames are cut.
const SNAP_LENGTH: usize = 128;

/// One IPv4 packet from the floating address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapturedPacket {
    /// When the kernel took it from the node's link, CLOCK_BOOTTIME.
    pub at: Duration,
    /// Who sent it.
    pub node: HostId,
    /// Destination address; its port is 0 unless the packet is UDP.
    pub destination: SocketAddrV4,
    /// `None` unless the packet is UDP (an ICMP error is not).
    pub source_port: Option<u16>,
}

/// The result of a capture.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// Sorted by time.
    pub packets: Vec<CapturedPacket>,
    /// Packets beyond the bound of what is kept.
    pub overflow: u64,
    /// Frames that the kernel dropped because a reader was too slow.
    pub lost: u64,
}

impl Captured {
    /// Whether every packet was seen: only then is "none found" a proof.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.overflow == 0 && self.lost == 0
    }
}

/// A running capture; stops when finished or dropped.
pub struct Capture {
    packets: Arc<Mutex<Captured>>,
    stop: Arc<EventFd>,
    readers: Vec<JoinHandle<()>>,
}

/// One port to listen on: the fabric's end of a node's link.
#[derive(Debug, Clone)]
pub(crate) struct Tap {
    pub(crate) node: HostId,
    pub(crate) port: String,
}

impl Capture {
    /// Starts recording packets whose source is `floating` on each tap in `namespace`. Recording
    /// has begun when this returns.
    pub(crate) fn start(
        namespace: &Namespace,
        taps: &[Tap],
        floating: Ipv4Addr,
    ) -> anyhow::Result<Capture> {
        let packets = Arc::new(Mutex::new(Captured::default()));
        let stop = Arc::new(EventFd::new().context("eventfd for the capture")?);
        let mut capture = Capture {
            packets: Arc::clone(&packets),
            stop: Arc::clone(&stop),
            readers: Vec::new(),
        };
        for tap in taps {
            let socket = namespace
                .run_in(|| PacketSocket::receiver(&tap.port, floating))?
                .with_context(|| format!("capture on {}", tap.port))?;
            let reader = Reader {
                node: tap.node,
                socket,
                stop: Arc::clone(&stop),
                captured: Arc::clone(&packets),
                lost: 0,
            };
            let thread = thread::Builder::new()
                .name(format!("capture-{}", tap.node))
                .spawn(move || reader.run())?;
            capture.readers.push(thread);
        }
        Ok(capture)
    }

    /// What has been seen so far.
    #[must_use]
    pub fn snapshot(&self) -> Captured {
        let mut captured = lock(&self.packets).clone();
        captured.packets.sort_by_key(|packet| packet.at);
        captured
    }

    /// Stops, with everything that had reached the ports.
    #[must_use]
    pub fn finish(mut self) -> Captured {
        self.stop_readers();
        let mut captured = std::mem::take(&mut *lock(&self.packets));
        captured.packets.sort_by_key(|packet| packet.at);
        captured
    }

    fn stop_readers(&mut self) {
        // The counter cannot overflow: it is written once or twice.
        let _ = self.stop.write(1);
        for reader in self.readers.drain(..) {
            // A reader that panicked has printed why; what it saw before stays.
            let _ = reader.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop_readers();
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Capture")
            .field("readers", &self.readers.len())
            .finish_non_exhaustive()
    }
}

struct Reader {
    node: HostId,
    socket: PacketSocket,
    stop: Arc<EventFd>,
    captured: Arc<Mutex<Captured>>,
    /// The socket's drop counter as last seen; it only grows.
    lost: u32,
}

impl Reader {
    fn run(mut self) {
        loop {
            let stopping = match self.wait() {
                Ok(stopping) => stopping,
                Err(error) => return self.give_up(&error),
            };
            // Also when stopping: what waits in the socket belongs to the capture.
            if let Err(error) = self.drain() {
                return self.give_up(&error);
            }
            if stopping {
                return;
            }
        }
    }

    /// Waits for frames or the end; true at the end.
    fn wait(&self) -> io::Result<bool> {
        let mut sources = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) => Ok(sources[1].any().unwrap_or(true)),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; SNAP_LENGTH];
        while let Some(received) = self.socket.receive(&mut buffer)? {
            let frame = buffer.get(..received.length).unwrap_or(&buffer);
            let mut captured = lock(&self.captured);
            captured.lost += u64::from(received.lost.wrapping_sub(self.lost));
            self.lost = received.lost;
            let Some(headers) = frame::parse(frame) else {
                continue;
            };
            if captured.packets.len() >= MAX_PACKETS {
                captured.overflow += 1;
                continue;
            }
            captured.packets.push(CapturedPacket {
                at: received.at,
                node: self.node,
                destination: headers.destination,
                source_port: headers.source_port,
            });
        }
        Ok(())
    }

    /// A tap that went blind makes the capture incomplete, which its result says.
    fn give_up(&self, error: &io::Error) {
        tracing::warn!(node = %self.node, %error, "capture stopped early");
        lock(&self.captured).lost += 1;
    }
}

/// Each holder leaves the record whole at every step, so a poisoned lock is still good.
fn lock(captured: &Mutex<Captured>) -> std::sync::MutexGuard<'_, Captured> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
}
