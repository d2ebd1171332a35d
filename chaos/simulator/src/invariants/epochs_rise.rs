//! Contract 5: epochs only rise, and whoever serves does so under an owner entry of its own.

use std::time::Duration;

use super::{Invariant, Sighting, require};

#[derive(Debug, Default)]
pub(super) struct EpochsRise {
    newest: Option<(u64, usize)>,
}

impl Invariant for EpochsRise {
    fn name(&self) -> &'static str {
        "epochs rise"
    }

    fn see(&mut self, sighting: &Sighting<'_>, _now: Duration) -> Result<(), String> {
        let &Sighting::Activated {
            node, epoch, owner, ..
        } = sighting
        else {
            return Ok(());
        };
        require(owner == Some((node, epoch)), || {
            format!("node {node} serves in epoch {epoch}, but the owner is {owner:?} (node, epoch)")
        })?;
        let before = self.newest.replace((epoch, node));
        // The same node may serve again in its epoch, behind a barrier.
        require(before.is_none_or(|before| before <= (epoch, node)), || {
            format!("node {node} serves in epoch {epoch} after {before:?} (epoch, node)")
        })?;
        require(
            before.is_none_or(|(earlier, owner)| earlier < epoch || owner == node),
            || format!("epoch {epoch} is served by {node} and by {before:?}"),
        )
    }
}
