//! The shell of the failover cores: movers, and the task that drives one.
//!
//! - [`Mover`] is how an address gets here or goes away; [`L2Mover`] does it on a LAN, the EC2 mover lives in
//!   its own crate so that nothing else waits for the AWS client.
//! - [`spawn`] starts the one task that owns the address engine and a mover.
//! - [`LocalAddresses`] is the kernel's side, shared by all movers; [`remove_addresses`] is what the guard
//!   needs of it.
#![forbid(unsafe_code)]

mod announce;
mod clock;
mod driver;
mod frames;
mod l2;
mod local;
mod mover;
mod netlink;
mod report;
mod watch;

pub use clock::boottime;
pub use driver::{AddressTask, Healer, Settings, spawn};
pub use l2::L2Mover;
pub use local::{LocalAddresses, remove_addresses};
pub use mover::{Change, Mover, MoverError};
pub use report::log_transition;
