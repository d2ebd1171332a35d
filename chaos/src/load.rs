//! Many calls with little work: one socket a side, and for each call an INVITE, its answer and the ACK. No
//! media is sent.
//!
//! ```text
//! caller (pbx)          the pair            callee (trunk)
//!    ── INVITE ──────────▶│── INVITE ──────────▶│
//!    ◀── 200 ─────────────│◀─────────── 200 ────│
//!    ── ACK ─────────────▶│── ACK ─────────────▶│   established
//! ```
//!
//! As many calls are under way as the window allows, so the pair's commits set the pace and no queue runs
//! over. What gets lost all the same is repeated.

mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::fabric::{CLIENT_SIP_PORT, Fabric, PBX_SIP_PORT};
use crate::host::HostId;
use text::Message;

/// Calls under way at once.
const WINDOW: usize = 128;
/// Room for everything that a full window can send.
const RECEIVE_BUFFER: usize = 8 << 20;
const DATAGRAM: usize = 8_192;
/// Datagrams read from one side before the other has its turn.
const READ_BATCH: usize = 64;
/// RFC 3261 timer T1, here between all repetitions: the pair is on the same machine.
const REPEAT_AFTER: Duration = Duration::from_millis(500);
/// 32 s: timer B. A call that is not answered then has failed.
const MAX_REPEATS: u32 = 64;
const LOOK_EVERY_MS: u16 = 50;

/// What it took to establish calls.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct LoadReport {
    /// Both sides have them established.
    pub established: usize,
    /// INVITEs and answers that had to be sent again.
    pub repeats: u64,
    /// Final responses other than 2xx, by status; 0 stands for no answer at all.
    pub refused: BTreeMap<u16, usize>,
    pub took: Duration,
}

/// The two phones.
#[derive(Debug)]
pub struct Load {
    caller: UdpSocket,
    callee: UdpSocket,
    caller_address: SocketAddr,
    callee_address: SocketAddr,
    /// Where the border listens for the caller; calls take turns.
    borders: Vec<SocketAddr>,
}

/// Something sent that has no answer yet.
#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    to: SocketAddr,
    due: Instant,
    repeats: u32,
}

impl Waiting {
    fn new(bytes: Vec<u8>, to: SocketAddr) -> Waiting {
        Waiting {
            bytes,
            to,
            due: Instant::now() + REPEAT_AFTER,
            repeats: 0,
        }
    }
}

/// One batch of calls on its way.
#[derive(Debug, Default)]
struct Progress {
    /// INVITEs without a final response.
    calling: BTreeMap<u32, Waiting>,
    /// Answers without their ACK.
    answering: BTreeMap<u32, Waiting>,
    answered: BTreeSet<u32>,
    acknowledged: BTreeSet<u32>,
    report: LoadReport,
}

impl Load {
    /// Opens both sockets on the hosts of PBX and trunk.
    pub fn open(fabric: &Fabric) -> anyhow::Result<Load> {
        let socket = |id: HostId| -> anyhow::Result<(UdpSocket, SocketAddr)> {
            let address = SocketAddr::from((fabric.address(id), CLIENT_SIP_PORT));
            let socket = fabric.host(id).run_in(|| UdpSocket::bind(address))??;
            socket.set_nonblocking(true)?;
            // More than the sysctl allows an ordinary user; what it then grants is enough for the window.
            let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER);
            Ok((socket, address))
        };
        let (caller, caller_address) = socket(HostId::Pbx)?;
        let (callee, callee_address) = socket(HostId::Trunk)?;
        let borders = fabric.floating_addresses().into_iter();
        Ok(Load {
            caller,
            callee,
            caller_address,
            callee_address,
            borders: borders
                .map(|address| SocketAddr::from((address, PBX_SIP_PORT)))
                .collect(),
        })
    }

    /// Establishes calls with these numbers; those below `with_media` have an audio stream, in the others it is
    /// disabled (RFC 3264 section 6: port zero), so that they hold no media port.
    pub fn establish(
        &mut self,
        calls: Range<u32>,
        with_media: u32,
        limit: Duration,
    ) -> anyhow::Result<LoadReport> {
        let begun = Instant::now();
        let mut progress = Progress::default();
        let mut numbers = calls.clone();
        loop {
            while progress.calling.len() < WINDOW
                && let Some(number) = numbers.next()
            {
                self.invite(number, number < with_media, &mut progress)?;
            }
            if progress.calling.is_empty() && progress.answering.is_empty() && numbers.is_empty() {
                break;
            }
            self.wait()?;
            self.read_caller(&mut progress)?;
            self.read_callee(with_media, &mut progress)?;
            self.repeat(&mut progress)?;
            if begun.elapsed() > limit {
                bail!(
                    "{} of {} calls within {limit:?}: {:?}",
                    progress.answered.len(),
                    calls.len(),
                    progress.report
                );
            }
        }
        let mut report = progress.report;
        report.established = progress
            .answered
            .intersection(&progress.acknowledged)
            .count();
        report.took = begun.elapsed();
        Ok(report)
    }

    fn invite(&self, number: u32, media: bool, progress: &mut Progress) -> anyhow::Result<()> {
        ensure!(!self.borders.is_empty(), "a pair has a floating address");
        let border = self.borders[number as usize % self.borders.len()];
        let bytes = text::invite(number, self.caller_address, border, media);
        send(&self.caller, &bytes, border)?;
        progress.calling.insert(number, Waiting::new(bytes, border));
        Ok(())
    }

    fn wait(&self) -> anyhow::Result<()> {
        let mut sockets = [
            PollFd::new(self.caller.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.callee.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut sockets, PollTimeout::from(LOOK_EVERY_MS)).context("wait for the pair")?;
        Ok(())
    }

    fn read_caller(&self, progress: &mut Progress) -> anyhow::Result<()> {
        receive(&self.caller, |bytes, source| {
            let Some(message) = Message::parse(bytes) else {
                return Ok(());
            };
            let (Some(status), Some(number)) = (message.status(), message.number()) else {
                return Ok(());
            };
            if status < 200 {
                return Ok(());
            }
            // Also a repeated answer needs its ACK (RFC 3261 section 13.2.2.4).
            if let Some(ack) = text::ack(&message, number, self.caller_address) {
                send(&self.caller, &ack, source)?;
            }
            if progress.calling.remove(&number).is_some() {
                if status < 300 {
                    progress.answered.insert(number);
                } else {
                    *progress.report.refused.entry(status).or_default() += 1;
                }
            }
            Ok(())
        })
    }

    fn read_callee(&self, with_media: u32, progress: &mut Progress) -> anyhow::Result<()> {
        receive(&self.callee, |bytes, source| {
            let Some(message) = Message::parse(bytes) else {
                return Ok(());
            };
            let Some((method, number)) = message.request() else {
                return Ok(());
            };
            match method {
                "INVITE" if !progress.acknowledged.contains(&number) => {
                    let media = number < with_media;
                    let answer = text::answer(&message, number, self.callee_address, media);
                    send(&self.callee, &answer, source)?;
                    progress
                        .answering
                        .insert(number, Waiting::new(answer, source));
                }
                "ACK" => {
                    progress.answering.remove(&number);
                    progress.acknowledged.insert(number);
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn repeat(&self, progress: &mut Progress) -> anyhow::Result<()> {
        let now = Instant::now();
        let Progress {
            calling,
            answering,
            report,
            ..
        } = progress;
        for (socket, open) in [(&self.caller, calling), (&self.callee, answering)] {
            for waiting in open.values_mut().filter(|waiting| waiting.due <= now) {
                send(socket, &waiting.bytes, waiting.to)?;
                waiting.due = now + REPEAT_AFTER;
                waiting.repeats += 1;
                report.repeats += 1;
            }
            let before = open.len();
            open.retain(|_, waiting| waiting.repeats < MAX_REPEATS);
            if open.len() < before {
                *report.refused.entry(0).or_default() += before - open.len();
            }
        }
        Ok(())
    }
}

/// A full send buffer loses the datagram, as a network may; the repetition mends it.
fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> anyhow::Result<()> {
    match socket.send_to(bytes, to) {
        Ok(_) => Ok(()),
        Err(error) if is_transient(&error) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("send to {to}")),
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    // During a takeover nobody may have the address: the host is unreachable, or refuses.
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock
            | std::io::ErrorKind::Interrupted
            | std::io::ErrorKind::ConnectionRefused
            | std::io::ErrorKind::HostUnreachable
            | std::io::ErrorKind::NetworkUnreachable
    )
}

fn receive(
    socket: &UdpSocket,
    mut take: impl FnMut(&[u8], SocketAddr) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut buffer = [0; DATAGRAM];
    for _ in 0..READ_BATCH {
        match socket.recv_from(&mut buffer) {
            Ok((length, source)) => take(buffer.get(..length).unwrap_or_default(), source)?,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error).context("receive"),
        }
    }
    Ok(())
}
