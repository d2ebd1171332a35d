//! What the node does on replication's own threads: their scheduling, and the worker's sign of life.

use std::fmt;
use std::sync::Arc;

use tandem_replication_core::ReplicaId;

/// That the Raft thread lives, and what would have to be certified if it died now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// This replica.
    pub replica: ReplicaId,
    /// The term it leads; 0 if it does not lead.
    pub epoch: u64,
}

/// None of them may block. The default does nothing.
#[derive(Clone)]
pub struct Hooks {
    /// On the Raft thread, once, before the first tick.
    pub started: Arc<dyn Fn() + Send + Sync>,
    /// On the store thread, once, before the first write.
    pub store_started: Arc<dyn Fn() + Send + Sync>,
    /// On the Raft thread, at least once a tick, and at once when this replica begins or ceases to lead.
    pub pulse: Arc<dyn Fn(Pulse) + Send + Sync>,
}

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks {
            started: Arc::new(|| {}),
            store_started: Arc::new(|| {}),
            pulse: Arc::new(|_| {}),
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
