//! The peer link's thread: heartbeats do not wait behind an admin request or an EC2 call.
//!
//! One thread drives one runtime from start to stop: connections, their encryption, death certificates. What takes
//! long (a snapshot's encoding) goes to the runtime's blocking threads, which are not real-time.

use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use tokio::{
    runtime::{self, Handle},
    sync::oneshot,
};

use crate::realtime::{Rank, Realtime};

/// Snapshots being encoded and decoded at a time; more wait.
const BLOCKING_THREADS: usize = 4;
/// How long a snapshot that is being encoded may hold up the end of the worker.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct LinkThread {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl LinkThread {
    pub(crate) fn start(realtime: Realtime) -> anyhow::Result<LinkThread> {
        let runtime = runtime::Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("tandem-link-work")
            .enable_all()
            .build()
            .context("the peer link's runtime")?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = Builder::new()
            .name("tandem-link".to_owned())
            .spawn(move || {
                realtime.adopt(Rank::Heartbeats);
                // Told to stop, or nobody is left to tell.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(STOP_TIMEOUT);
            })
            .context("starting the peer link's thread")?;
        Ok(LinkThread {
            handle,
            stop,
            thread,
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// After replication has left.
    pub(crate) fn stop(self) {
        let _ = self.stop.send(());
        // A panic there has been reported by the panic hook.
        let _ = self.thread.join();
    }
}
