//! Phones on loopback with the relay between them.
//!
//! Each rig has a network of its own inside 127.0.0.0/8, chosen by process and rig, so that tests run side by side.
// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    num::NonZeroUsize,
    process,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};
use tandem_datapath::{Datapath, Gate, MediaEvent, MediaRealm, Options};
use tandem_media::{LegPlan, LocalPort, RealmNumber, StreamPlan};

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const FIRST_PORT: u16 = 20_000;
pub(crate) const LAST_PORT: u16 = 20_099;

const INSIDE: RealmNumber = RealmNumber(1);
const OUTSIDE: RealmNumber = RealmNumber(2);

pub(crate) struct Rig {
    pub(crate) datapath: Datapath,
    pub(crate) gate: Arc<Gate>,
    pub(crate) events: Receiver<MediaEvent>,
    network: [u8; 3],
}

/// A rig with an open gate and one relay thread.
pub(crate) fn rig() -> Rig {
    rig_with(1)
}

pub(crate) fn rig_with(relay_threads: usize) -> Rig {
    static RIGS: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = process::id().to_be_bytes();
    // The highest bit keeps away from 127.0.0.0/16, which is everybody's.
    let network = [high | 0x80, low, RIGS.fetch_add(1, Ordering::Relaxed)];
    let gate = Arc::new(Gate::new());
    gate.open_until(u64::MAX);
    let (sink, events) = channel();
    let options = Options {
        relay_threads: NonZeroUsize::new(relay_threads).unwrap(),
        ..Options::default()
    };
    let realms = [(INSIDE, 1), (OUTSIDE, 2)].map(|(realm, host)| MediaRealm {
        realm,
        bind: host_in(network, host),
        ports: FIRST_PORT..=LAST_PORT,
    });
    let datapath = Datapath::start_with(options, realms.into(), gate.clone(), move |event| {
        // The rig may be gone before the relay is.
        let _gone = sink.send(event);
    });
    Rig {
        datapath: datapath.unwrap(),
        gate,
        events,
        network,
    }
}

fn host_in([a, b, rig]: [u8; 3], host: u8) -> IpAddr {
    // The last byte is shared by 64 rigs of four hosts.
    assert!(rig < 64 && host < 4);
    Ipv4Addr::new(127, a, b, rig << 2 | host).into()
}

impl Rig {
    /// The address of ours that the caller talks to.
    pub(crate) fn inside(&self, port: u16) -> SocketAddr {
        SocketAddr::new(host_in(self.network, 1), port)
    }

    /// The address of ours that the callee talks to.
    pub(crate) fn outside(&self, port: u16) -> SocketAddr {
        SocketAddr::new(host_in(self.network, 2), port)
    }

    /// A phone on a host that is not ours.
    pub(crate) fn phone(&self) -> Phone {
        let socket = UdpSocket::bind((host_in(self.network, 3), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Phone { socket }
    }

    /// Waits until a counter has reached a value.
    pub(crate) fn await_counter(&self, name: &str, labels: &[(&str, &str)], value: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.datapath.stats();
            if stats.value(name, labels) >= value {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{name} {labels:?} < {value}: {stats:#?}"
            );
        }
    }

    pub(crate) fn await_drops(&self, reason: &str, value: u64) {
        self.await_counter(
            "tandem_media_dropped_packets_total",
            &[("reason", reason)],
            value,
        );
    }
}

pub(crate) struct Phone {
    socket: UdpSocket,
}

impl Phone {
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub(crate) fn send(&self, packet: &[u8], to: SocketAddr) {
        self.socket.send_to(packet, to).unwrap();
    }

    /// The next packet and its source.
    pub(crate) fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2_048];
        let (length, source) = self
            .socket
            .recv_from(&mut buffer)
            .expect("a packet in time");
        (buffer[..length].to_vec(), source)
    }

    pub(crate) fn assert_silence(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let error = self.socket.recv_from(&mut [0; 8]).expect_err("no packet");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).unwrap();
    }
}

/// One stream between two phones, on the given even ports of ours.
pub(crate) fn plan(caller: (u16, SocketAddr), callee: (u16, SocketAddr)) -> StreamPlan {
    let leg = |realm, (port, remote)| LegPlan {
        remote_rtp: Some(remote),
        ..LegPlan::new(LocalPort { realm, port })
    };
    StreamPlan::rtp(0, [leg(INSIDE, caller), leg(OUTSIDE, callee)])
}

/// 20 ms of PCMU.
pub(crate) fn rtp(sequence: u16) -> Vec<u8> {
    rtp_rs::RtpPacketBuilder::new()
        .payload_type(0)
        .ssrc(0x1122_3344)
        .sequence(sequence.into())
        .timestamp(u32::from(sequence) * 160)
        .payload(&[0xd5; 160])
        .build()
        .unwrap()
}

pub(crate) const RECEIVER_REPORT: [u8; 8] = [0x80, 201, 0, 1, 0x11, 0x22, 0x33, 0x44];
