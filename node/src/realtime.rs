//! Real-time scheduling of the threads that carry heartbeats, and memory that stays in memory.
//!
//! A heartbeat that is late because other programs keep the processors busy looks like a dead node. The Raft thread,
//! the peer link's thread and the guard run SCHED_FIFO, before everything that is not real-time; so do those that share
//! locks with them ([`Rank`]). One that spins is stopped by the kernel ([`SPIN_LIMIT`]).
//!
//! Pages are locked as they are first used (MCL_ONFAULT), so nothing is made resident that would not be, and the
//! first touch of new memory costs what it always does; what goes is the page that was swapped out when the heartbeat
//! is due (docs/decisions/0010).
//!
//! The unsafe calls of this program are here: neither scheduling classes nor MCL_ONFAULT are in nix.
#![allow(unsafe_code)]

use std::{
    fs,
    str::FromStr,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use nix::{
    errno::Errno,
    libc,
    sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
};
use tracing::{error, info};

/// Who goes before whom. All are below the kernel's own threaded interrupt handlers (50): above them nothing would be
/// gained, and a network card could starve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// It ends a worker whose threads spin.
    Guard,
    /// The Raft thread and the peer link.
    Heartbeats,
    /// The engine and the store: they share locks with the Raft thread, so whoever holds them up holds it up; and the
    /// engine takes each renewal of the lease to the gate.
    Engine,
}

impl Rank {
    const fn priority(self) -> libc::c_int {
        match self {
            Rank::Guard => 12,
            Rank::Heartbeats => 10,
            Rank::Engine => 5,
        }
    }
}

/// Processor time that a real-time thread may use without once waiting. Beyond it the kernel ends the process with
/// SIGXCPU, and the guard starts a new one: a thread that spins would keep a processor from everybody else. Longer than
/// the guard's patience with an engine that does not report; rereading a full table takes seconds.
const SPIN_LIMIT: Duration = Duration::from_secs(15);

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Where the system allows it.
    #[default]
    Auto,
    Off,
    /// Do not start without.
    Require,
}

/// The text asks for nothing that there is.
#[derive(Debug)]
pub(crate) struct NotWanted;

impl FromStr for Wanted {
    type Err = NotWanted;

    fn from_str(text: &str) -> Result<Wanted, NotWanted> {
        match text {
            "auto" => Ok(Wanted::Auto),
            "off" => Ok(Wanted::Off),
            "require" => Ok(Wanted::Require),
            _ => Err(NotWanted),
        }
    }
}

/// What this process has got. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Realtime(Arc<State>);

#[derive(Debug)]
struct State {
    /// Why not, if not.
    scheduling: Result<(), String>,
    memory: Result<(), String>,
    /// A thread that was refused what a trial was granted.
    refused: OnceLock<String>,
}

impl Realtime {
    /// Tries what is wanted, locks the process's memory, and bounds how long a real-time thread may spin.
    ///
    /// # Errors
    /// It is required and not to be had.
    pub(crate) fn prepare(wanted: Wanted) -> anyhow::Result<Realtime> {
        let (scheduling, memory) = match wanted {
            Wanted::Off => {
                let off = || Err("switched off in the configuration".to_owned());
                (off(), off())
            }
            Wanted::Auto | Wanted::Require => (try_scheduling(), lock_memory()),
        };
        if wanted == Wanted::Require {
            let required = |result: &Result<(), String>| result.clone().map_err(|why| anyhow!(why));
            required(&scheduling).context("node.realtime = \"require\": real-time scheduling")?;
            required(&memory).context("node.realtime = \"require\": locking memory")?;
        }
        let realtime = Realtime(Arc::new(State {
            scheduling,
            memory,
            refused: OnceLock::new(),
        }));
        info!(realtime = %realtime.describe(), "scheduling");
        Ok(realtime)
    }

    /// Makes the calling thread real-time, if that is to be.
    pub(crate) fn adopt(&self, rank: Rank) {
        if self.0.scheduling.is_err() {
            return;
        }
        if let Err(errno) = schedule_this_thread(rank) {
            let name = thread::current().name().unwrap_or("unnamed").to_owned();
            error!(thread = %name, %errno, "a thread was refused real-time scheduling");
            // The first one is enough to show.
            let _ = self.0.refused.set(format!("thread {name}: {errno}"));
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.scheduling.is_ok() && self.0.refused.get().is_none()
    }

    /// For the status.
    pub(crate) fn describe(&self) -> String {
        let State {
            scheduling,
            memory,
            refused,
        } = &*self.0;
        match (scheduling, refused.get(), memory) {
            (Err(why), _, _) => format!("off ({why})"),
            (Ok(()), Some(refused), _) => format!("off ({refused})"),
            (Ok(()), None, Ok(())) => "on".to_owned(),
            (Ok(()), None, Err(why)) => format!("on, memory not locked ({why})"),
        }
    }
}

/// Tries it on a thread that ends at once: once adopted it cannot be given back without privilege.
fn try_scheduling() -> Result<(), String> {
    limit_spinning()?;
    let trial = thread::Builder::new()
        .name("realtime-trial".to_owned())
        .spawn(|| schedule_this_thread(Rank::Guard))
        .map_err(|error| format!("no thread to try it on: {error}"))?;
    match trial.join() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Errno::EPERM)) => {
            let limit = getrlimit(Resource::RLIMIT_RTPRIO).map_or(0, |(soft, _)| soft);
            Err(format!(
                "not permitted: it takes CAP_SYS_NICE or LimitRTPRIO={}, which is {limit}",
                Rank::Guard.priority()
            ))
        }
        Ok(Err(errno)) => Err(errno.to_string()),
        Err(_) => Err("the trial panicked".to_owned()),
    }
}

fn schedule_this_thread(rank: Rank) -> Result<(), Errno> {
    let parameters = libc::sched_param {
        sched_priority: rank.priority(),
    };
    // Threads and processes that this one starts begin without it: a worker, a snapshot's encoding.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 means the calling thread; the call reads the parameters and keeps no pointer to them.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    Errno::result(result).map(drop)
}

fn limit_spinning() -> Result<(), String> {
    let failed = |errno| format!("RLIMIT_RTTIME: {errno}");
    let (_, hard) = getrlimit(Resource::RLIMIT_RTTIME).map_err(failed)?;
    let limit = u64::try_from(SPIN_LIMIT.as_micros()).unwrap_or(u64::MAX);
    setrlimit(Resource::RLIMIT_RTTIME, limit.min(hard), hard).map_err(failed)
}

/// Only without a bound on locked memory: with one, an allocation beyond it would fail later.
fn lock_memory() -> Result<(), String> {
    let failed = |errno: Errno| errno.to_string();
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(failed)?;
    if soft != RLIM_INFINITY && !has_ipc_lock() {
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).map_err(|_| {
            format!("it takes CAP_IPC_LOCK or LimitMEMLOCK=infinity, which is {hard} bytes")
        })?;
    }
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: takes flags only, and changes nothing of what the memory holds.
    let result = unsafe { libc::mlockall(flags) };
    Errno::result(result).map(drop).map_err(failed)
}

/// Whether the bound does not apply to this process. A capability of another user namespace than the first is none
/// here.
fn has_ipc_lock() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    let users = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let first_namespace = users.split_whitespace().eq(["0", "0", "4294967295"]);
    effective >> CAP_IPC_LOCK & 1 == 1 && first_namespace
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::channel;

    use super::*;

    fn policy_of_this_thread() -> libc::c_int {
        // SAFETY: takes a number and returns one.
        unsafe { libc::sched_getscheduler(0) }
    }

    /// Skips, loudly, where the system does not allow it: then `require` must be refused instead.
    #[test]
    fn what_is_described_is_what_the_thread_has_and_children_do_not_inherit_it() {
        let realtime = Realtime::prepare(Wanted::Auto).unwrap();
        if !realtime.is_on() {
            let described = realtime.describe();
            assert!(described.starts_with("off ("), "{described}");
            assert!(Realtime::prepare(Wanted::Require).is_err());
            return;
        }
        let spinning = getrlimit(Resource::RLIMIT_RTTIME).unwrap().0;
        assert_eq!(u128::from(spinning), SPIN_LIMIT.as_micros());
        let (policies, policy) = channel();
        thread::spawn(move || {
            realtime.adopt(Rank::Engine);
            policies.send(policy_of_this_thread()).unwrap();
            thread::spawn(move || policies.send(policy_of_this_thread()).unwrap());
        });
        let fifo = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        assert_eq!(policy.recv().unwrap(), fifo);
        assert_eq!(policy.recv().unwrap(), libc::SCHED_OTHER);
    }

    #[test]
    fn off_stays_off() {
        let realtime = Realtime::prepare(Wanted::Off).unwrap();
        realtime.adopt(Rank::Heartbeats);
        assert_eq!(policy_of_this_thread(), libc::SCHED_OTHER);
        assert!(!realtime.is_on());
    }
}
