//! A disposable machine for one drill: own user (when not root), mount, network and process
//! namespaces.
//!
//! ```text
//! tandem-chaos            the process the user started; waits and passes the exit status on
//! └─ process 1            private mounts, tmpfs on /run; reaps orphans for as long as the drill runs
//!    └─ the drill         where `enter` returns
//! ```
//!
//! Nothing outlives the drill. Process 1 is killed by the kernel when the outer process dies in
//! whatever way (PR_SET_PDEATHSIG), and with process 1 the kernel kills everything in the process
//! namespace; the names made by `ip netns` are on the tmpfs, so the network namespaces go with the
//! last process in them.

use std::fs;
use std::os::fd::AsFd;
use std::process::exit;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, getegid, geteuid, pipe2};

use crate::host::tool::{self, Tool, ToolError};

/// Exit status of a supervising process that cannot tell how the drill ended.
const EXIT_UNKNOWN: i32 = 70;
/// A shell reports "killed by signal n" as 128 + n.
const EXIT_SIGNAL_BASE: i32 = 128;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(
        "this user or container may not create namespaces ({0}); run as root, or allow \
         unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, or lift the \
         AppArmor restriction of them)"
    )]
    NotPermitted(Errno),
    #[error("{step}: {error}")]
    Setup {
        step: &'static str,
        error: std::io::Error,
    },
    #[error("the sandbox must be entered before any thread is started, {0} are running")]
    Threads(usize),
    #[error(transparent)]
    Tool(#[from] ToolError),
}

impl SandboxError {
    /// Whether the machine forbids it, rather than something being broken: a test may skip then.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, SandboxError::NotPermitted(_))
    }
}

/// Continues the calling program inside a new sandbox.
///
/// Call it first in `main`: it forks, and only the innermost process returns `Ok`. The processes
/// around it never return; the outermost exits with the drill's status. An `Err` may come from the
/// caller's process or from a child that could not finish the set-up; either way the caller prints
/// it and exits, and its status reaches the user.
pub fn enter() -> Result<(), SandboxError> {
    tool::require(&[Tool::Ip, Tool::Nft])?;
    let threads = fs::read_dir("/proc/self/task")
        .map_err(setup("count threads"))?
        .count();
    if threads != 1 {
        return Err(SandboxError::Threads(threads));
    }
    unshare_namespaces()?;
    let (alive_reader, alive_writer) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
    if let Some(first) = split()? {
        drop(alive_reader);
        wait_and_exit(first);
    }
    drop(alive_writer);
    set_pdeathsig(Signal::SIGKILL).map_err(failed("parent death signal"))?;
    // The parent may have died before the line above took effect: then its end of the pipe is
    // closed already.
    let mut ends = [PollFd::new(alive_reader.as_fd(), PollFlags::empty())];
    if poll(&mut ends, PollTimeout::ZERO).map_err(failed("poll"))? > 0 {
        exit(EXIT_UNKNOWN);
    }
    private_mounts()?;
    tool::run(None, Tool::Ip, &["link", "set", "lo", "up"], "")?;
    match split()? {
        Some(drill) => wait_and_exit(drill),
        None => Ok(()),
    }
}

/// One user id is mapped, to root inside; root needs no user namespace and keeps its rights over
/// BPF.
fn unshare_namespaces() -> Result<(), SandboxError> {
    let (user, group) = (geteuid(), getegid());
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    if user.is_root() {
        return unshare(flags).map_err(SandboxError::NotPermitted);
    }
    unshare(flags | CloneFlags::CLONE_NEWUSER).map_err(SandboxError::NotPermitted)?;
    map_ids(user, group)
}

fn map_ids(user: Uid, group: Gid) -> Result<(), SandboxError> {
    // user_namespaces(7): gid_map is writable without privilege only once setgroups is denied.
    fs::write("/proc/self/setgroups", "deny").map_err(setup("deny setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(setup("map the user id"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).map_err(setup("map the group id"))
}

fn private_mounts() -> Result<(), SandboxError> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let data = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at("/", None, private)?;
    mount_at("/proc", Some("proc"), data | MsFlags::MS_NOEXEC)?;
    mount_at("/run", Some("tmpfs"), data)
}

fn mount_at(target: &str, kind: Option<&str>, flags: MsFlags) -> Result<(), SandboxError> {
    mount(kind, target, kind, flags, None::<&str>).map_err(|errno| match errno {
        // A container whose /proc is partly masked lets no user namespace mount another.
        Errno::EPERM => SandboxError::NotPermitted(errno),
        other => failed("mount")(other),
    })
}

/// Forks; `Some(child)` in the parent, `None` in the child.
fn split() -> Result<Option<Pid>, SandboxError> {
    // SAFETY: `enter` checked that this process has one thread, and children of it start with one:
    // no lock can be held by a thread that does not exist in the child.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Reaps children, orphans that fell to process 1 included, until `child` ends; then ends the same
/// way.
fn wait_and_exit(child: Pid) -> ! {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => exit(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                exit(EXIT_SIGNAL_BASE + signal as i32)
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => exit(EXIT_UNKNOWN),
        }
    }
}

fn failed(step: &'static str) -> impl FnOnce(Errno) -> SandboxError {
    move |errno| setup(step)(errno.into())
}

fn setup(step: &'static str) -> impl FnOnce(std::io::Error) -> SandboxError {
    move |error| SandboxError::Setup { step, error }
}
