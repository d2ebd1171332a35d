#![deny(unsafe_code)]
//! The packet path: bound sockets, relay threads and the gate that decides whether anything may leave.
//!
//! Threads: each relay thread (named `media-N`) lives from [`Datapath::start`] until the [`Datapath`] is dropped. It
//! owns its sessions alone, so no lock is taken between receiving a packet and sending it. Callers talk to it
//! through a bounded channel and an eventfd. System calls that Rust's safe wrappers do not offer are in `mmsg`.

mod datapath;
mod error;
mod gate;
mod mmsg;
mod relay;
mod socket;
mod statistics;

pub use datapath::{Datapath, MediaRealm, Options};
pub use error::SetError;
pub use gate::{Gate, boottime};
pub use statistics::{Sample, SampleKind, Stats};
pub use tandem_media::{Event as MediaEvent, SessionKey, SessionStatistics};
