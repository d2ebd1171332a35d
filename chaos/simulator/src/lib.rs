//! A deterministic simulator of a Tandem pair: the real cores, everything around them in virtual time.
//!
//! One seed is one run. A run is a [`Scenario`] played in a world that has two nodes and a witness (each a replica, and
//! on the nodes an engine and an address engine), their disks and clocks, a network, an EC2 or LAN fabric and phones.
//! Invariants watch, one file each. Nothing here is concurrent and nothing reads a clock, so a seed that fails fails
//! again: [`run`] it with a trace.
#![forbid(unsafe_code)]

mod clock;
mod disk;
mod fabric;
mod invariants;
mod lanes;
mod run;
mod safeguard;
mod scenarios;
mod table;
mod trace;
mod world;

pub use fabric::FabricKind;
pub use invariants::Violation;
pub use run::{Outcome, run};
pub use safeguard::Safeguard;
pub use scenarios::{SCENARIOS, Scenario, scenario};
pub use world::Counts;

use tandem_replication_core::Slot;

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const WITNESS: usize = 2;
pub(crate) const NODES: [usize; 3] = [A, B, WITNESS];
pub(crate) const SLOTS: [Slot; 3] = [Slot::A, Slot::B, Slot::Witness];
