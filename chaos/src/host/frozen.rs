//! One thread of a process, stopped in its tracks while the others go on: a disk that hangs.

use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A stopped thread; it goes on when this is dropped. Stays with the OS thread that made it, because
/// only the tracer may let go.
#[derive(Debug)]
pub struct FrozenThread {
    thread: Pid,
    /// Not `Send`.
    _tracer: std::marker::PhantomData<*const ()>,
}

impl FrozenThread {
    /// Stops the thread of `process` that has this name.
    ///
    /// # Errors
    /// There is no such thread, or this process may not trace it.
    pub fn freeze(process: Pid, name: &str) -> anyhow::Result<FrozenThread> {
        let thread = find(process, name)
            .with_context(|| format!("process {process} has no thread named {name}"))?;
        ptrace::seize(thread, ptrace::Options::empty())
            .with_context(|| format!("trace thread {thread}"))?;
        let frozen = FrozenThread {
            thread,
            _tracer: std::marker::PhantomData,
        };
        ptrace::interrupt(thread).with_context(|| format!("stop thread {thread}"))?;
        waitpid(thread, Some(WaitPidFlag::__WALL))
            .with_context(|| format!("wait for thread {thread} to stop"))?;
        Ok(frozen)
    }
}

impl FrozenThread {
    /// Whether the thread was killed meanwhile. Ask from the thread that stopped it: until its tracer has been told,
    /// a traced thread holds up the end of its process.
    ///
    /// # Errors
    /// This thread is not the tracer.
    pub fn has_died(&self) -> anyhow::Result<bool> {
        let options = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        let status = waitpid(self.thread, Some(options))
            .with_context(|| format!("state of thread {}", self.thread))?;
        Ok(matches!(
            status,
            WaitStatus::Exited(..) | WaitStatus::Signaled(..)
        ))
    }
}

impl Drop for FrozenThread {
    fn drop(&mut self) {
        // A thread that has died in the meantime needs no letting go.
        let _ = ptrace::detach(self.thread, None);
    }
}

fn find(process: Pid, name: &str) -> Option<Pid> {
    let tasks = fs::read_dir(Path::new("/proc").join(process.to_string()).join("task")).ok()?;
    tasks.filter_map(Result::ok).find_map(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).ok()?;
        let number = task.file_name().to_str()?.parse().ok()?;
        (comm.trim_end() == name).then(|| Pid::from_raw(number))
    })
}
