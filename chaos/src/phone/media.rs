//! Speaking and listening for all calls of one phone.
//!
//! Two threads live as long as [`Media`]: the ticker sends every stream's packet at absolute
//! deadlines, the ear waits on all sockets with epoll and stamps each packet as it is read. Neither
//! is a task of the async runtime: a busy runtime must not look like a media gap. Dropping
//! [`Media`] ends both within 100 ms.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use tokio::sync::watch;

use super::listener::{Heard, Listener, Tally};
use super::voice::{CallIndex, Party, Source, Voices};
use crate::clock::boottime;

/// Streams are spread over this many instants of the 20 ms packet time, so that they do not go out
/// as one burst.
const PHASES: u32 = 4;
const TICK: Duration = Duration::from_millis(20 / PHASES as u64);

/// Datagrams read from one socket before the others get their turn.
const READ_BATCH: usize = 32;

/// Sockets reported by one wait.
const EVENT_BATCH: usize = 64;

/// How often the ear looks whether it is to end.
const STOP_WITHIN_MS: u16 = 100;

/// Packets after which a stream counts as flowing: 100 ms of speech.
const FLOWING_AFTER: u32 = 5;

/// Longest datagram of interest; anything longer is not ours and is judged by its first octets.
const DATAGRAM: usize = 2_048;

/// What one party heard, and how much the other had said.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Hearing {
    #[serde(flatten)]
    pub tally: Tally,
    /// Longest silence in the measured window, in ms; null when none was opened for the call.
    pub longest_gap_ms: Option<u64>,
    /// Packets lost between the opening of the window and the end of the count.
    pub lost_in_window: u32,
}

struct Mouth {
    source: Source,
    socket: Arc<UdpSocket>,
    /// None while silent.
    remote: Option<SocketAddr>,
    sent: u32,
    /// Packets sent when the window was opened.
    window_from: u32,
    /// Packets sent when the count was ended; later ones are not judged.
    judged: Option<u32>,
}

struct Ear {
    socket: Arc<UdpSocket>,
    listener: Listener,
    /// Packets heard since the last `await_flow`; None when not asked.
    flow: Option<u32>,
}

#[derive(Default)]
struct Shared {
    mouths: Mutex<BTreeMap<CallIndex, Mouth>>,
    ears: Mutex<BTreeMap<CallIndex, Ear>>,
    stop: AtomicBool,
    /// Worst lateness of the ticker since the window was opened.
    late_us: AtomicU64,
    /// The same when it was closed.
    window_late_us: AtomicU64,
}

/// All streams of one phone.
pub struct Media {
    party: Party,
    voices: Voices,
    shared: Arc<Shared>,
    epoll: Arc<Epoll>,
    flowing: watch::Receiver<u32>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Media {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Media")
            .field("party", &self.party)
            .finish_non_exhaustive()
    }
}

impl Media {
    /// Starts the two threads.
    pub fn start(party: Party, voices: Voices) -> io::Result<Media> {
        let shared = Arc::new(Shared::default());
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let (flow, flowing) = watch::channel(0);
        let ticker = std::thread::Builder::new().name("ticker".into()).spawn({
            let shared = Arc::clone(&shared);
            move || tick(&shared)
        })?;
        let ear = std::thread::Builder::new().name("ear".into()).spawn({
            let (shared, epoll) = (Arc::clone(&shared), Arc::clone(&epoll));
            move || listen(&shared, &epoll, &flow)
        })?;
        Ok(Media {
            party,
            voices,
            shared,
            epoll,
            flowing,
            threads: vec![ticker, ear],
        })
    }

    /// Takes the socket of a call and listens on it. Silent until [`Media::talk`].
    pub fn open(&self, index: CallIndex, socket: UdpSocket) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(socket);
        let mouth = Mouth {
            source: self.voices.source(index, self.party),
            socket: Arc::clone(&socket),
            remote: None,
            sent: 0,
            window_from: 0,
            judged: None,
        };
        let listener = Listener::new(self.voices.source(index, self.party.other()));
        lock(&self.shared.mouths).insert(index, mouth);
        let ear = Ear {
            socket: Arc::clone(&socket),
            listener,
            flow: None,
        };
        lock(&self.shared.ears).insert(index, ear);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::from(index.0));
        self.epoll.add(&*socket, event)?;
        Ok(())
    }

    /// Speaks to `remote` from the next packet time on.
    pub fn talk(&self, index: CallIndex, remote: SocketAddr) {
        if let Some(mouth) = lock(&self.shared.mouths).get_mut(&index) {
            mouth.remote = Some(remote);
        }
    }

    /// Falls silent; the socket stays open and is listened to.
    pub fn hush(&self, index: CallIndex) {
        if let Some(mouth) = lock(&self.shared.mouths).get_mut(&index) {
            mouth.remote = None;
        }
    }

    /// Starts measuring silences and losses of all calls; call it just before the fault.
    pub fn open_window(&self) {
        self.shared.late_us.store(0, Ordering::Relaxed);
        for mouth in lock(&self.shared.mouths).values_mut() {
            mouth.window_from = mouth.sent;
        }
        for ear in lock(&self.shared.ears)
            .values_mut()
            .filter(|ear| ear.listener.heard_anything())
        {
            ear.listener.open_window();
        }
    }

    /// Ends the measurement of silences.
    pub fn close_window(&self) {
        let late = self.shared.late_us.load(Ordering::Relaxed);
        self.shared.window_late_us.store(late, Ordering::Relaxed);
        let now = boottime();
        for ear in lock(&self.shared.ears).values_mut() {
            ear.listener.close_window(now);
        }
    }

    /// Packets sent from now on no longer count as lost: the calls are about to end, and the last
    /// packets of a call may rightly find it gone.
    pub fn end_count(&self) {
        for mouth in lock(&self.shared.mouths).values_mut() {
            mouth.judged.get_or_insert(mouth.sent);
        }
    }

    /// Waits until every call of `calls` has heard some packets, counted from now.
    /// Cancel-safe; the wait itself is not bounded.
    pub async fn await_flow(&self, calls: &[CallIndex]) {
        let mut flowing = self.flowing.clone();
        {
            let mut ears = lock(&self.shared.ears);
            for index in calls {
                if let Some(ear) = ears.get_mut(index) {
                    ear.flow = Some(0);
                }
            }
        }
        // The sender lives in the ear thread, which outlives `self`: an error is the end of the
        // phone.
        let _ = flowing.wait_for(|_| self.silent(calls).is_empty()).await;
    }

    /// Those of `calls` that still wait for packets since the last [`Media::await_flow`].
    pub fn silent(&self, calls: &[CallIndex]) -> Vec<CallIndex> {
        let ears = lock(&self.shared.ears);
        calls
            .iter()
            .filter(|index| {
                ears.get(index)
                    .is_none_or(|ear| ear.flow.is_some_and(|heard| heard < FLOWING_AFTER))
            })
            .copied()
            .collect()
    }

    /// Packets sent on the call that count, and how many of them since the window opened.
    fn said(&self, index: CallIndex) -> (u32, u32) {
        lock(&self.shared.mouths)
            .get(&index)
            .map_or((0, 0), |mouth| {
                (mouth.window_from, mouth.judged.unwrap_or(mouth.sent))
            })
    }

    /// What this phone heard of what `peer` said on the call.
    pub fn hearing(&self, index: CallIndex, peer: &Media) -> Hearing {
        let (from, sent) = peer.said(index);
        let now = boottime();
        lock(&self.shared.ears)
            .get(&index)
            .map_or(Hearing::default(), |ear| Hearing {
                tally: ear.listener.tally(sent),
                longest_gap_ms: ear
                    .listener
                    .longest_gap(now)
                    .map(|gap| gap.as_millis() as u64),
                lost_in_window: ear.listener.missing(from, sent),
            })
    }

    /// How late the ticker ever was in the window: above a few milliseconds the machine, not the
    /// pair, made the gaps.
    pub fn worst_lateness(&self) -> Duration {
        Duration::from_micros(self.shared.window_late_us.load(Ordering::Relaxed))
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panicked thread has already said why; there is nothing left to clean up.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves the table whole, so a poisoned lock still guards good data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tick(shared: &Shared) {
    let mut phase = 0;
    let mut deadline = boottime();
    while !shared.stop.load(Ordering::Relaxed) {
        deadline += TICK;
        let until = TimeSpec::from_duration(deadline);
        // EINTR only makes a tick early; the deadline of the next is absolute.
        let _ = clock_nanosleep(
            ClockId::CLOCK_BOOTTIME,
            ClockNanosleepFlags::TIMER_ABSTIME,
            &until,
        );
        let late = boottime().saturating_sub(deadline).as_micros() as u64;
        shared.late_us.fetch_max(late, Ordering::Relaxed);
        let mut mouths = lock(&shared.mouths);
        for (_, mouth) in mouths
            .iter_mut()
            .filter(|(index, _)| index.0 % PHASES == phase)
        {
            if let Some(remote) = mouth.remote {
                // A packet that the kernel refuses (unreachable, full) is lost as on any network:
                // it counts.
                let _ = mouth
                    .socket
                    .send_to(&mouth.source.packet(mouth.sent), remote);
                mouth.sent += 1;
            }
        }
        phase = (phase + 1) % PHASES;
    }
}

fn listen(shared: &Shared, epoll: &Epoll, flow: &watch::Sender<u32>) {
    let mut events = [EpollEvent::empty(); EVENT_BATCH];
    while !shared.stop.load(Ordering::Relaxed) {
        // EINTR: ask again.
        let ready = epoll
            .wait(&mut events, EpollTimeout::from(STOP_WITHIN_MS))
            .unwrap_or(0);
        let mut started = 0;
        let mut ears = lock(&shared.ears);
        for event in events.iter().take(ready) {
            let Ok(index) = u32::try_from(event.data()) else {
                continue;
            };
            if let Some(ear) = ears.get_mut(&CallIndex(index)) {
                started += u32::from(read(ear));
            }
        }
        drop(ears);
        if started > 0 {
            flow.send_modify(|flowing| *flowing = flowing.wrapping_add(started));
        }
    }
}

/// Reads what is there; returns whether the stream began to flow with it.
fn read(ear: &mut Ear) -> bool {
    let mut buffer = [0; DATAGRAM];
    let mut started = false;
    for _ in 0..READ_BATCH {
        // An error is either "nothing more" or a port-unreachable report; both end the turn.
        let Ok((length, _)) = ear.socket.recv_from(&mut buffer) else {
            break;
        };
        let heard = ear.listener.handle_packet(&buffer[..length], boottime());
        if let (Some(count), Heard::InOrder | Heard::Reordered) = (ear.flow.as_mut(), heard) {
            *count += 1;
            started |= *count == FLOWING_AFTER;
        }
    }
    started
}
