//! What a call costs: memory of both workers, memory of the kernel, open files.

use std::fs;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::drill::Pair;
use crate::host::HostId;

/// RTP and RTCP on both sides.
const FILES_PER_CALL: u64 = 4;
/// Everything else that a node holds open, generously.
const OTHER_FILES: u64 = 1_024;

/// How many files a node may open, and so how many calls can have media.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct FileBudget {
    pub limit: u64,
    /// Calls whose media sockets fit.
    pub calls: u32,
}

impl FileBudget {
    /// Raises this process's limit, which the nodes inherit, as far as `calls` need it and the system allows.
    pub fn raise(calls: u32) -> FileBudget {
        let wanted = u64::from(calls) * FILES_PER_CALL + OTHER_FILES;
        // Raising the hard limit needs CAP_SYS_RESOURCE; without it what there is must do.
        let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((_, hard)) if wanted > hard => {
                match setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted) {
                    Ok(()) => wanted,
                    Err(_) => hard,
                }
            }
            Ok((_, hard)) => hard,
            Err(_) => 0,
        };
        let calls = limit.saturating_sub(OTHER_FILES) / FILES_PER_CALL;
        FileBudget {
            limit,
            calls: u32::try_from(calls).unwrap_or(u32::MAX),
        }
    }
}

/// A worker's memory, in KiB.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct WorkerMemory {
    pub resident_kib: u64,
    /// Of it without files.
    pub anonymous_kib: u64,
    pub open_files: u64,
}

/// Before the first call and with all of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CallMemory {
    pub owner: [WorkerMemory; 2],
    pub standby: [WorkerMemory; 2],
    /// The kernel's own, of the whole machine.
    pub kernel_kib: [u64; 2],
    /// The first owner's next process, which got the calls from its disk.
    pub restarted: WorkerMemory,
}

impl CallMemory {
    /// Of a pair without calls.
    pub(super) fn before(pair: &Pair) -> anyhow::Result<CallMemory> {
        let [owner, standby] = of_pair(pair)?;
        Ok(CallMemory {
            owner: [owner, WorkerMemory::default()],
            standby: [standby, WorkerMemory::default()],
            kernel_kib: [kernel_kib()?, 0],
            restarted: WorkerMemory::default(),
        })
    }

    /// Of the same pair with calls.
    pub(super) fn after(&mut self, pair: &Pair) -> anyhow::Result<()> {
        let [owner, standby] = of_pair(pair)?;
        self.owner[1] = owner;
        self.standby[1] = standby;
        self.kernel_kib[1] = kernel_kib()?;
        Ok(())
    }

    /// Bytes a call: owner, standby, a restarted node, and half of the kernel's growth.
    pub(super) fn bytes_per_call(&self, calls: usize) -> [u64; 4] {
        let per_call = |before: u64, after: u64| {
            (after.saturating_sub(before) * 1_024) / (calls.max(1) as u64)
        };
        let resident = |of: [WorkerMemory; 2]| per_call(of[0].resident_kib, of[1].resident_kib);
        [
            resident(self.owner),
            resident(self.standby),
            per_call(self.owner[0].resident_kib, self.restarted.resident_kib),
            per_call(self.kernel_kib[0], self.kernel_kib[1]) / 2,
        ]
    }
}

/// Owner, then standby.
fn of_pair(pair: &Pair) -> anyhow::Result<[WorkerMemory; 2]> {
    let mut found = [None; 2];
    for id in HostId::DATA_NODES {
        let place = usize::from(!pair.node(id)?.status()?.is_owner());
        found[place] = Some(of_worker(pair, id)?);
    }
    match found {
        [Some(owner), Some(standby)] => Ok([owner, standby]),
        _ => bail!("a pair has one owner and one standby"),
    }
}

/// A node's worker, from /proc.
pub(super) fn of_worker(pair: &Pair, id: HostId) -> anyhow::Result<WorkerMemory> {
    let pid = pair.node(id)?.worker()?.pid();
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let files = fs::read_dir(format!("/proc/{pid}/fd")).context("list open files")?;
    Ok(WorkerMemory {
        resident_kib: kib(&text, "VmRSS").context("VmRSS")?,
        anonymous_kib: kib(&text, "RssAnon").context("RssAnon")?,
        open_files: files.count() as u64,
    })
}

fn kernel_kib() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    kib(&text, "Slab").context("Slab")
}

/// `Name:    123 kB`
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::kib;

    #[test]
    fn whole_names_are_found() {
        let text = "VmRSSX:\t9 kB\nVmRSS:\t  5424 kB\nThreads:\t3\n";
        assert_eq!(kib(text, "VmRSS"), Some(5_424));
        assert_eq!(kib(text, "Vm"), None);
        assert_eq!(kib(text, "Threads"), None);
    }
}
