//! The witness is never ahead of a healthy standby, so the standby can always be elected at once.

use std::time::Duration;

use super::{Invariant, Sighting, require};

#[derive(Debug, Default)]
pub(super) struct WitnessBehind;

impl Invariant for WitnessBehind {
    fn name(&self) -> &'static str {
        "witness never ahead of a healthy standby"
    }

    fn see(&mut self, sighting: &Sighting<'_>, _now: Duration) -> Result<(), String> {
        let Sighting::Calm { witness, standby } = *sighting else {
            return Ok(());
        };
        require(witness <= standby, || {
            format!("the witness has synced {witness}, the standby {standby}")
        })
    }
}
