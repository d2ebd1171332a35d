//! The EC2 mover: the floating addresses are secondary private addresses of the owner's network interface.
//!
//! Kept apart from the other movers because the AWS client is by far the most expensive thing to build;
//! behind the `Mover` trait nothing else waits for it or sees its types.
//!
//! What EC2 gives and does not give (docs: "EC2"):
//! - one call moves all addresses, or none of them; an Elastic IP follows its private address;
//! - it has no compare-and-swap: the last writer wins, so only the holder of the current epoch writes, and
//!   nobody ever unassigns;
//! - its answers may be stale, so an answered call is not yet a moved address.
#![forbid(unsafe_code)]

mod api;
mod client;
mod failure;
mod mover;
mod settings;
#[cfg(test)]
mod tests;

pub use mover::Ec2Mover;
pub use settings::{Ec2Settings, SettingsError};
