//! Where the floating address is, and the work of bringing it to where it should be.

mod announce;
mod backoff;
mod engine;
mod source;
mod status;
#[cfg(test)]
mod tests;
mod views;

pub use engine::{AddressEngine, Command, OperationId, TimerReason};
pub use source::{Failure, FailureKind, ObservationId, Presence, Source, SourcePolicy};
pub use status::{AddressCounters, AddressPhase, AddressStatus, SourceStatus};

/// What a mover asks of the engine.
#[derive(Clone, Debug)]
pub struct AddressConfig {
    /// The sources that are watched, and which of them must agree.
    pub sources: Vec<SourcePolicy>,
    /// Neighbours learn the address from announcements (false in a VPC, where they do nothing).
    pub announces: bool,
}
