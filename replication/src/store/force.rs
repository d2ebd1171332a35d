//! The second half of a forced takeover, at the next start: the store of one incarnation becomes that of a later
//! one, the only voter.
//!
//! ```text
//! birth says the new incarnation  ->  log and membership changed  ->  identity says the new incarnation
//! ```
//! After a crash in between the next start goes on from there.

use std::path::Path;

use tandem_replication_core::ReplicaId;

use super::error::StoreError;
use super::{Mode, Store, identity};

/// Does what is left to do if an operator has decided that this store's next incarnation `id` is the pair.
pub(crate) fn finish_forced_takeover(
    state_dir: &Path,
    id: ReplicaId,
    mode: &Mode,
) -> Result<(), StoreError> {
    let found = match identity::stored_identity(state_dir)? {
        Some(found) if found.slot() == id.slot() && found < id => found,
        Some(_) | None => return Ok(()),
    };
    let (mut store, restored) = Store::open_with(state_dir, found, mode)?;
    if let Some(write) = restored.forced(id) {
        store.write(&[write])?;
    }
    drop(store);
    identity::create(state_dir, id)?;
    tracing::warn!(%found, %id, "a forced takeover is done: this store is the pair");
    Ok(())
}
