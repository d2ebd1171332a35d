//! Totals of the peer link.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// One total.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$documentation:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        /// Totals since start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct LinkCounters {
            $($(#[$documentation])* pub $name: u64,)*
        }

        impl Counters {
            pub(super) fn totals(&self) -> LinkCounters {
                LinkCounters { $($name: self.$name.total(),)* }
            }
        }
    };
}

counters! {
    /// Messages handed to a connection as datagrams.
    datagrams_sent,
    /// Messages handed to a connection's stream.
    frames_sent,
    /// Snapshots the peer has acknowledged to the last byte.
    snapshots_sent,
    /// Snapshots that did not get through.
    snapshots_failed,
    /// Messages not sent because the peer was not connected.
    dropped_unconnected,
    /// Messages not sent because the peer's queue was full.
    dropped_full,
    /// Messages not sent because they exceed the frame limit.
    dropped_oversize,
    /// Messages received and passed on.
    received,
    /// Messages received and not passed on: the Raft thread's mailbox was full.
    dropped_mailbox_full,
    /// Messages refused: their sender is not the slot in the connection's certificate.
    wrong_sender,
    /// Frames and datagrams refused: not an encoded message, or beyond the limit.
    malformed,
    /// Envelopes refused: the peer's build speaks another version.
    other_version,
    /// Outgoing connections made.
    connected,
    /// Outgoing connections lost.
    disconnected,
    /// Attempts to connect that failed.
    dial_failures,
    /// Incoming connections accepted.
    accepted,
    /// Incoming connections refused: no certificate of the pair, not one of a peer's slot, or too many at once.
    refused,
    /// Death certificates that a node of the pair has signed; what became of them is counted by the replica.
    certificates_verified,
    /// Datagrams that are neither QUIC nor laid out as a peer's death certificate.
    certificates_malformed,
    /// Death certificates refused: not signed by a node of this pair for its own slot.
    certificates_forged,
    /// Death certificates not looked at: too many in a second.
    certificates_limited,
    /// Death certificates dropped because a queue was full.
    certificates_dropped,
}
