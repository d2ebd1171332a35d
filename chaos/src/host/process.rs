//! Processes on a host: one that the drill started, and all that live in a namespace, whoever
//! started them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::namespace::Namespace;

/// How often the process table is read again for children that were born while their parents were
/// being killed. A host that still has processes then is reported as an error.
const MAX_KILL_ROUNDS: usize = 100;
/// How long one killed process may take to go: it can be in the kernel, writing to a slow disk.
const MAX_DEATH_MS: u16 = 10_000;

/// A process that the drill started on a host, leader of its own process group. Killed with its
/// group on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    pub(super) fn spawn(namespace: &Namespace, mut command: Command) -> io::Result<Process> {
        namespace.enter_on_spawn(&mut command);
        command.process_group(0);
        let child = command.spawn()?;
        Ok(Process { child })
    }

    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal to this process only, not to its group.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(self.pid(), signal)?)
    }

    /// SIGKILL to the whole process group, then collects the status.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        killpg(self.pid(), Signal::SIGKILL)?;
        self.child.wait()
    }

    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The read end of the standard output, once, if the command piped it.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The read end of the standard error, once, if the command piped it.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that cannot be killed ends with the sandbox.
        let _ = self.kill();
    }
}

/// Every process whose network namespace is `namespace`, a daemon's grandchildren included.
pub(super) fn in_namespace(namespace: &Namespace) -> io::Result<Vec<Pid>> {
    let inode = namespace.inode()?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process may end between the two reads, and a zombie has no namespace: neither is on the
        // host.
        if let Ok(metadata) = fs::metadata(entry.path().join("ns/net"))
            && metadata.ino() == inode
        {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Sends `signal` to every process in the namespace; one that has just ended is no error.
pub(super) fn signal_all(namespace: &Namespace, signal: Signal) -> io::Result<()> {
    for pid in in_namespace(namespace)? {
        ignore_gone(kill(pid, signal))?;
    }
    Ok(())
}

/// SIGKILL to every process in the namespace, until none is left.
pub(super) fn kill_all(namespace: &Namespace) -> io::Result<()> {
    for _ in 0..MAX_KILL_ROUNDS {
        let doomed = in_namespace(namespace)?;
        if doomed.is_empty() {
            return Ok(());
        }
        for pid in doomed {
            // Opened before the signal, so that the number cannot have passed to another process.
            let Some(handle) = open_handle(pid)? else {
                continue;
            };
            ignore_gone(kill(pid, Signal::SIGKILL))?;
            await_end(&handle)?;
        }
    }
    Err(io::Error::other(format!(
        "processes on {} survive SIGKILL",
        namespace.name()
    )))
}

fn ignore_gone(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A pidfd: readable once the process has ended, zombie or not.
fn open_handle(pid: Pid) -> io::Result<Option<OwnedFd>> {
    // SAFETY: pidfd_open takes two integers and returns a new file descriptor, which nobody else
    // owns.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    match Errno::result(result) {
        Ok(descriptor) => {
            let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
            // SAFETY: as above.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }))
        }
        Err(Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn await_end(handle: &OwnedFd) -> io::Result<()> {
    let mut handles = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    match poll(&mut handles, PollTimeout::from(MAX_DEATH_MS))? {
        0 => Err(io::Error::from(io::ErrorKind::TimedOut)),
        _ => Ok(()),
    }
}
