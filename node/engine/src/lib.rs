//! The node without its sockets: where SIP, media, replication and failover meet.
//!
//! The cores never import each other; this crate is the one place that translates between them, and like them it has
//! no socket, no clock and no thread. [`Engine`] takes what the shell received and leaves [`Command`]s for it, so the
//! code that decides what may be revealed, and when, is the code that the simulator runs.
//!
//! ```text
//! datagram ─▶ Sip (transaction, dialog, B2BUA) ─▶ its commands
//!   Replicate, Cdr ─▶ one log entry a batch: Propose ─▶ the log ─▶ Applied ─▶ release the held sends
//!   Send Now ──────▶ Send                     Send Committed ─▶ held until then ─▶ Send
//!   Media ─────────▶ Media
//! ```
//!
//! On a standby the same engine applies committed records into the same table, so taking over opens the gate and
//! arms timers, nothing else.
#![forbid(unsafe_code)]

mod cdr_id;
mod command;
mod counters;
mod engine;
mod held;
mod ports;
mod table;
#[cfg(test)]
mod tests;

pub use cdr_id::{CdrId, InvalidCdrId};
pub use command::{Batch, Command, Committed, Now};
pub use counters::Counters;
pub use engine::{Engine, Settings};
pub use table::{media_event, plans, session};

/// The names of a slot in the words of failover.
pub fn failover_slot(slot: tandem_replication_core::Slot) -> tandem_failover_core::Slot {
    match slot {
        tandem_replication_core::Slot::A => tandem_failover_core::Slot::A,
        tandem_replication_core::Slot::B => tandem_failover_core::Slot::B,
        tandem_replication_core::Slot::Witness => tandem_failover_core::Slot::Witness,
    }
}
