//! The store thread: the only place of replication that waits for a disk.
//!
//! It lives from [`StoreThread::start`] until its queue is closed, executes writes in order, groups what has
//! queued up into one batch and one sync, and confirms each write. After a failed write it reports and ends: what
//! an fsync that failed has written is unknown, so nothing is retried. It also watches the room on the disk, each second
//! and between groups of writes.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use tandem_replication_core::{Write, WriteId};

use super::space::LOOK_INTERVAL;
use super::{SpaceChange, SpaceWatch, Store, StoreError};
use crate::measure::StoreMeter;
use crate::panics::guarded;

/// Writes waiting for the store thread. The replica keeps far fewer in flight; at the bound the caller is told.
const WRITE_QUEUE: usize = 64;
/// Writes grouped into one sync.
const GROUP: usize = 32;

/// What the store thread reports.
pub(crate) trait Confirm: Send + 'static {
    /// This write is done, durable if it asked for it.
    fn persisted(&self, write: WriteId);
    /// The disk is running full, or is no longer.
    fn space(&self, change: SpaceChange);
    /// The store is lost; nothing more will be confirmed.
    fn failed(&self, error: StoreError);
}

/// Handle of the store thread.
#[derive(Debug)]
pub(crate) struct StoreThread {
    queue: SyncSender<Write>,
    thread: JoinHandle<()>,
}

impl StoreThread {
    pub(crate) fn start(
        store: Store,
        space: SpaceWatch,
        meter: Arc<StoreMeter>,
        confirm: impl Confirm,
        started: Arc<dyn Fn() + Send + Sync>,
    ) -> io::Result<StoreThread> {
        let (queue, writes) = sync_channel(WRITE_QUEUE);
        let thread = Builder::new()
            .name("tandem-store".to_owned())
            .spawn(move || {
                started();
                let path = store.state_dir.clone();
                let ended = guarded(|| run(store, space, &writes, &meter, &confirm))
                    .unwrap_or_else(|detail| Err(StoreError::Panicked { path, detail }));
                if let Err(error) = ended {
                    tracing::error!(%error, "the store failed");
                    confirm.failed(error);
                }
            })?;
        Ok(StoreThread { queue, thread })
    }

    /// Queues a write. `false`: the thread has ended, or the bound is reached.
    pub(crate) fn write(&self, write: Write) -> bool {
        match self.queue.try_send(write) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Executes what is queued, syncs, and ends the thread.
    pub(crate) fn stop(self) {
        drop(self.queue);
        // It ends by itself, and has reported why.
        let _ = self.thread.join();
    }
}

fn run(
    mut store: Store,
    mut space: SpaceWatch,
    writes: &Receiver<Write>,
    meter: &StoreMeter,
    confirm: &impl Confirm,
) -> Result<(), StoreError> {
    let mut group = Vec::with_capacity(GROUP);
    let mut cleaning = true;
    loop {
        if let Some((free_bytes, change)) = space.look(Instant::now()) {
            meter.looked(free_bytes, change);
            if let Some(change) = change {
                confirm.space(change);
            }
        }
        // Rows that no longer count are removed while nothing else waits.
        let first = match writes.try_recv() {
            Ok(write) => write,
            Err(TryRecvError::Empty) if cleaning => {
                cleaning = store.clean()?;
                continue;
            }
            Err(TryRecvError::Empty) => match writes.recv_timeout(LOOK_INTERVAL) {
                Ok(write) => write,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            },
            Err(TryRecvError::Disconnected) => break,
        };
        group.push(first);
        group.extend(writes.try_iter().take(GROUP - 1));
        let begun = Instant::now();
        store.write(&group)?;
        if group.iter().any(|write| write.must_sync) {
            meter.synced(begun.elapsed());
        }
        meter.written(&group, store.syncs());
        for write in group.drain(..) {
            cleaning |= write.compact_to.is_some() || write.snapshot.is_some();
            confirm.persisted(write.id);
        }
        // Under load the queue is never empty; one bounded step a group keeps up with compaction.
        if cleaning {
            cleaning = store.clean()?;
        }
    }
    store.close()
}
