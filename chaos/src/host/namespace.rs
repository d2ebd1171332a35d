//! A named network namespace, and the ways into it. The `unsafe` of starting processes there lives
//! here.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};

use super::tool::{self, Tool};

/// Where iproute2 keeps its names; a tmpfs inside the sandbox.
const NAMES: &str = "/run/netns";

/// Cheap to clone. The name goes with the last clone, the namespace with the last process in it.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Named>);

#[derive(Debug)]
struct Named {
    name: String,
    file: File,
}

impl Namespace {
    /// Creates a namespace that `ip -n NAME` also finds, with its loopback up.
    pub fn create(name: &str) -> anyhow::Result<Namespace> {
        tool::run(None, Tool::Ip, &["netns", "add", name], "")?;
        let path = format!("{NAMES}/{name}");
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        let name = name.to_owned();
        let namespace = Namespace(Arc::new(Named { name, file }));
        tool::ip(Some(&namespace), "link set lo up")?;
        Ok(namespace)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs `body` on a thread of its own inside the namespace. Sockets made there stay there,
    /// whoever uses them.
    ///
    /// # Panics
    /// Continues a panic of `body`.
    pub fn run_in<R: Send>(&self, body: impl FnOnce() -> R + Send) -> io::Result<R> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter_thread()?;
                Ok(body())
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for good: for threads that live there.
    pub fn enter_thread(&self) -> io::Result<()> {
        Ok(setns(self.0.file.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }

    /// Writes `/proc/sys/net/{key}` of this namespace, `key` with slashes.
    pub fn set_sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run_in(|| std::fs::write(&path, value))?
            .with_context(|| format!("set {path} to {value} in {}", self.name()))
    }

    /// Lets `command`, when started, run inside the namespace.
    pub(crate) fn enter_on_spawn(&self, command: &mut Command) {
        let named = Arc::clone(&self.0);
        // SAFETY: setns is one system call, which allocates nothing and takes no lock; the closure
        // keeps the file open.
        unsafe {
            command.pre_exec(move || Ok(setns(named.file.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
    }

    /// The inode of the namespace, by which `/proc/PID/ns/net` names it.
    pub(crate) fn inode(&self) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.0.file.metadata()?.ino())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let path = format!("{NAMES}/{}", self.name);
        // Left over, the name only stands in the way of another of the same name, which says so.
        if umount2(path.as_str(), MntFlags::MNT_DETACH).is_ok() {
            let _ = std::fs::remove_file(path);
        }
    }
}
