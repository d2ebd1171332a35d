//! The worker's sign of life, and what its guard would have to certify.
//!
//! ```text
//!   worker: Raft thread, each turn ─▶ Heart ──▶ socket pair ──▶ Beats ─▶ guard
//!           engine's view, 5 times a second ─▶┘    (the worker's standard input)
//! ```
//! Two threads must live. Without the Raft thread nobody keeps the lease or votes; it beats itself. Without the engine
//! nobody serves, while the lease goes on and keeps the other node from serving; it is known by the view that it
//! publishes, and when that is too old the Raft thread's beats are withheld. All other threads either end the worker
//! when they fail or are fed by these two.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixDatagram as StdUnixDatagram,
    },
    process::Stdio,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use nix::sys::socket::{SockType, getsockopt, sockopt};
use tandem_datapath::boottime;
use tandem_replication::{Pulse, ReplicaId};
use tandem_replication_core::Timing;
use tokio::{
    net::UnixDatagram,
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, warn};

use crate::status::EngineView;

/// Beats are this far apart unless there is news. The kernel keeps 10 (net.unix.max_dgram_qlen), which a guard that
/// reads them as they come never lets pile up; at the bound a beat is dropped and the next turn tries again.
const BEAT_INTERVAL: Duration = Duration::from_millis(20);
/// An engine this long without a new view is stuck. It publishes five a second; rereading a full table after a
/// snapshot takes seconds.
const ENGINE_LIMIT: Duration = Duration::from_secs(10);
/// Election timeouts without a beat after which a worker is taken for frozen.
const SILENT_TIMEOUTS: u32 = 5;
/// However short the timeouts: a worker that is only late must not be killed.
const SILENCE_MIN: Duration = Duration::from_millis(500);
/// Likewise when its threads are ordinary ones: they are as late as the machine is busy.
const SILENCE_MIN_ORDINARY: Duration = Duration::from_secs(2);
/// The silence is looked at this many times, so that a guard which was itself held up sees the beats that came
/// meanwhile before it judges.
const CHECKS: u32 = 5;
/// Beats taken at a worker's end; more than the kernel keeps.
const LAST_BEATS: usize = 1_024;

const VERSION: u8 = 1;
const BEAT_BYTES: usize = 17;

/// One beat. The guard may be older than the worker, when the program was replaced: the version tells.
fn encode(Pulse { replica, epoch }: Pulse) -> [u8; BEAT_BYTES] {
    let mut bytes = [VERSION; BEAT_BYTES];
    let (_, numbers) = bytes.split_at_mut(1);
    let (first, second) = numbers.split_at_mut(8);
    first.copy_from_slice(&replica.get().to_be_bytes());
    second.copy_from_slice(&epoch.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Pulse> {
    let (version, numbers) = bytes.split_first_chunk::<1>()?;
    let (replica, epoch) = numbers.split_first_chunk::<8>()?;
    let epoch: &[u8; 8] = epoch.try_into().ok()?;
    (*version == [VERSION]).then_some(())?;
    Some(Pulse {
        replica: ReplicaId::try_from(u64::from_be_bytes(*replica)).ok()?,
        epoch: u64::from_be_bytes(*epoch),
    })
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Heart {
    guard: StdUnixDatagram,
    engine: OnceLock<watch::Receiver<EngineView>>,
    state: Mutex<HeartState>,
}

#[derive(Debug)]
struct HeartState {
    last: Option<(Duration, Pulse)>,
    started: Duration,
    withheld: bool,
}

impl Heart {
    /// Takes the socket that the guard left as standard input; `None` when somebody else started this worker.
    pub(crate) fn of_this_worker() -> io::Result<Option<Heart>> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        if getsockopt(&input, sockopt::SockType) != Ok(SockType::Datagram) {
            return Ok(None);
        }
        Heart::new(input).map(Some)
    }

    fn new(socket: OwnedFd) -> io::Result<Heart> {
        let guard = StdUnixDatagram::from(socket);
        guard.set_nonblocking(true)?;
        Ok(Heart {
            guard,
            engine: OnceLock::new(),
            state: Mutex::new(HeartState {
                last: None,
                started: boottime(),
                withheld: false,
            }),
        })
    }

    /// From now on beats need this engine to live.
    pub(crate) fn watch_engine(&self, view: watch::Receiver<EngineView>) {
        // There is one engine.
        let _ = self.engine.set(view);
    }

    /// Tells the guard, if there is news or the last beat is old. Never blocks.
    pub(crate) fn beat(&self, pulse: Pulse) {
        self.beat_at(pulse, boottime());
    }

    fn beat_at(&self, pulse: Pulse, now: Duration) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        let due = state
            .last
            .is_none_or(|(at, last)| last != pulse || now >= at + BEAT_INTERVAL);
        if !due {
            return;
        }
        let heard = self
            .engine
            .get()
            .map_or(now, |view| view.borrow().at.max(state.started));
        let stuck = now > heard + ENGINE_LIMIT;
        if stuck {
            if !state.withheld {
                error!(limit = ?ENGINE_LIMIT, "the engine is stuck: the guard is to end this worker");
            }
            state.withheld = true;
            return;
        }
        state.withheld = false;
        // A queue that is full, or a guard that is gone: the next turn tries again.
        if self.guard.send(&encode(pulse)).is_ok() {
            state.last = Some((now, pulse));
        }
    }
}

/// The guard's end.
#[derive(Debug)]
pub(crate) struct Beats {
    worker: UnixDatagram,
    check: Duration,
    last: Option<Pulse>,
    broken: bool,
}

impl Beats {
    /// Both ends: what the guard reads, and the standard input of the worker, which may be silent for so long.
    pub(crate) fn pair(limit: Duration) -> io::Result<(Beats, Stdio)> {
        let (ours, theirs) = StdUnixDatagram::pair()?;
        ours.set_nonblocking(true)?;
        let beats = Beats {
            worker: UnixDatagram::from_std(ours)?,
            check: limit / CHECKS,
            last: None,
            broken: false,
        };
        Ok((beats, OwnedFd::from(theirs).into()))
    }

    /// Returns once the worker has stopped beating. One that has not begun yet is starting: opening a large store
    /// takes as long as it takes.
    pub(crate) async fn silence(&mut self) {
        let mut checks = interval(self.check);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missed = 0;
        let mut bytes = [0; BEAT_BYTES + 1];
        loop {
            tokio::select! {
                biased;
                received = self.worker.recv(&mut bytes), if !self.broken => match received {
                    Ok(length) => {
                        missed = 0;
                        self.last = bytes.get(..length).and_then(decode).or(self.last);
                    }
                    Err(error) => {
                        warn!(%error, "the worker's beats cannot be read");
                        self.broken = true;
                    }
                },
                _ = checks.tick() => {
                    missed += u32::from(self.last.is_some());
                    // One more: it came somewhere within the first.
                    if missed > CHECKS {
                        return;
                    }
                }
            }
        }
    }

    /// What the worker last said, now that it says nothing any more.
    pub(crate) fn last_words(self) -> Option<Pulse> {
        let mut last = self.last;
        // tokio's own `try_recv` sees only what its driver has announced.
        let Ok(worker) = self.worker.into_std() else {
            return last;
        };
        let mut bytes = [0; BEAT_BYTES + 1];
        for _ in 0..LAST_BEATS {
            let Ok(length) = worker.recv(&mut bytes) else {
                break;
            };
            last = bytes.get(..length).and_then(decode).or(last);
        }
        last
    }
}

/// How long a worker may be silent.
pub(crate) fn silence_limit(timing: Timing, realtime: bool) -> Duration {
    let floor = if realtime {
        SILENCE_MIN
    } else {
        SILENCE_MIN_ORDINARY
    };
    (timing.election() * SILENT_TIMEOUTS).max(floor)
}

#[cfg(test)]
mod tests;
