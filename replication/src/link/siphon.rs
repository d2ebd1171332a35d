//! One port, two protocols: death certificates are taken out before quinn sees what was received.
//!
//! RFC 9443 section 2: a first byte with QUIC's fixed bit set is QUIC. That holds for every packet that quinn sends,
//! version negotiation and stateless resets included, once the bit's greasing (RFC 9287) is off, as it is in
//! [`tls`](super::tls).

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// RFC 9000 section 17.2: "Fixed Bit: The next bit (0x40) of byte 0 is set to 1".
const FIXED_BIT: u8 = 0x40;

/// quinn's socket without what is not QUIC.
pub(super) struct Siphon<Aside> {
    socket: Arc<dyn AsyncUdpSocket>,
    /// Takes what is not QUIC, with its source. Must not block.
    aside: Aside,
}

impl<Aside> Siphon<Aside> {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, aside: Aside) -> Siphon<Aside> {
        Siphon { socket, aside }
    }
}

impl<Aside> fmt::Debug for Siphon<Aside> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Siphon")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl<Aside: Fn(SocketAddr, &[u8]) + Send + Sync + 'static> AsyncUdpSocket for Siphon<Aside> {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(cx, buffers, meta);
        if let Poll::Ready(Ok(count)) = &received {
            for (buffer, meta) in buffers.iter_mut().zip(meta).take(*count) {
                let from = meta.addr;
                let aside = |datagram: &[u8]| (self.aside)(from, datagram);
                meta.len = keep_quic(buffer, meta.len, meta.stride, aside);
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// The kernel may hand over several datagrams of one sender at once (GRO): all `stride` bytes long but the last.
/// Moves the QUIC ones together at the front, still `stride` apart, and returns how many bytes they are.
fn keep_quic(buffer: &mut [u8], length: usize, stride: usize, aside: impl Fn(&[u8])) -> usize {
    let length = length.min(buffer.len());
    let mut kept = 0;
    let mut start = 0;
    while start < length {
        // A stride of zero would be the kernel's error; then all of it is one datagram.
        let end = match stride {
            0 => length,
            stride => length.min(start + stride),
        };
        let datagram = buffer.get(start..end).unwrap_or_default();
        match datagram.first() {
            Some(first) if first & FIXED_BIT != 0 => {
                buffer.copy_within(start..end, kept);
                kept += end - start;
            }
            Some(_) | None => aside(datagram),
        }
        start = end;
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn sorted(received: &[&[u8]], stride: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut buffer = received.concat();
        let aside = RefCell::new(Vec::new());
        let length = buffer.len();
        // A buffer is longer than what was received into it.
        buffer.extend([0x40; 8]);
        let kept = keep_quic(&mut buffer, length, stride, |datagram| {
            aside.borrow_mut().push(datagram.to_vec());
        });
        buffer.truncate(kept);
        (buffer, aside.into_inner())
    }

    #[test]
    fn what_is_not_quic_is_taken_out_wherever_it_lies() {
        let (quic, other) = ([0x40, 1, 2], [0x14, 3, 4]);
        let nothing: Vec<Vec<u8>> = Vec::new();
        assert_eq!(sorted(&[&quic], 3), (quic.to_vec(), nothing.clone()));
        assert_eq!(sorted(&[&other], 3), (Vec::new(), vec![other.to_vec()]));
        // Long and short headers; the last one shorter.
        assert_eq!(
            sorted(&[&quic, &other, &[0xc0, 5, 6], &other, &[0x7f, 7]], 3),
            (
                vec![0x40, 1, 2, 0xc0, 5, 6, 0x7f, 7],
                vec![other.to_vec(), other.to_vec()]
            )
        );
        assert_eq!(
            sorted(&[&other, &quic, &[0x14]], 3),
            (quic.to_vec(), vec![other.to_vec(), vec![0x14]])
        );
        assert_eq!(sorted(&[], 3), (Vec::new(), nothing.clone()));
        assert_eq!(sorted(&[&quic, &quic], 0), ([quic, quic].concat(), nothing));
    }
}
