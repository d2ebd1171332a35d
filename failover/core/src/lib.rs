//! Who owns the floating address, and where that address is: two pure machines.
//!
//! - [`Ownership`] turns what the replication says (leader, owner entry applied, lease) into the order of a
//!   takeover: commit, activate, open the gate, desire the address; and the reverse, at once, on any loss.
//! - [`AddressEngine`] brings the world in line with the desired place of the address and keeps it there,
//!   level-triggered: claim, verify by every required source, repair drift, announce, for ever.
//!
//! Both take `now` (CLOCK_BOOTTIME since boot) as an argument, leave side effects as commands and say
//! through `poll_timeout` when they want to be called again.
#![forbid(unsafe_code)]

pub mod address;
pub mod ownership;
mod types;

pub use address::{AddressConfig, AddressEngine, AddressStatus};
pub use ownership::Ownership;
pub use types::{Desired, Epoch, Event, Slot, Transition};
