//! Contract 1: at most one node emits packets from the floating address.

use std::time::Duration;

use super::{Invariant, Sighting, require};

#[derive(Debug, Default)]
pub(super) struct SingleOwner {
    /// The newest epoch under which a node has been seen serving, and which node.
    newest: Option<(u64, usize)>,
}

impl Invariant for SingleOwner {
    fn name(&self) -> &'static str {
        "single owner"
    }

    fn see(&mut self, sighting: &Sighting<'_>, _now: Duration) -> Result<(), String> {
        match *sighting {
            Sighting::Serving { nodes } => {
                self.newest = self
                    .newest
                    .max(nodes.iter().map(|(node, epoch)| (*epoch, *node)).max());
                require(nodes.len() <= 1, || {
                    format!("two may serve at once (node, epoch): {nodes:?}")
                })
            }
            Sighting::Emitted { node, epoch } => {
                let newest = self.newest.get_or_insert((epoch, node));
                require(epoch >= newest.0, || {
                    format!(
                        "node {node} emitted in epoch {epoch} after {newest:?} (epoch, node) served"
                    )
                })
            }
            _ => Ok(()),
        }
    }
}
