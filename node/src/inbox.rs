//! The engine's one queue: everything that happens to a node, in order.
//!
//! Datagrams are the only input the outside controls, so only they are admitted against a bound; all
//! others are limited where they arise (proposals in flight, ports, one status per change) and must
//! not be lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use tandem_sip::flow::RealmId;

/// Datagrams waiting for the engine; the next one is dropped and counted. SIP over UDP retransmits,
/// and at the bound the newest is the one that its sender will repeat first.
const DATAGRAMS_WAITING: usize = 8_192;

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Input {
    Datagram {
        realm: RealmId,
        source: SocketAddr,
        bytes: Bytes,
    },
    Replication(tandem_replication::Event),
    Media(tandem_datapath::MediaEvent),
    Stop,
}

/// The receiving end; owned by the engine.
#[derive(Debug)]
pub(crate) struct Inbox {
    inputs: mpsc::Receiver<Input>,
    shared: Arc<Shared>,
}

/// The sending end; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    inputs: mpsc::Sender<Input>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

/// What a wait on the inbox ended with.
#[derive(Debug)]
pub(crate) enum Received {
    Input(Input),
    TimedOut,
    /// Every sender is gone: nothing can happen any more.
    Closed,
}

pub(crate) fn inbox() -> (Sender, Inbox) {
    let (sender, inputs) = mpsc::channel();
    let shared = Arc::new(Shared::default());
    (
        Sender {
            inputs: sender,
            shared: Arc::clone(&shared),
        },
        Inbox { inputs, shared },
    )
}

impl Sender {
    /// Queues an input that must not be lost. False when the engine has ended.
    pub(crate) fn push(&self, input: Input) -> bool {
        self.inputs.send(input).is_ok()
    }

    /// Queues a datagram unless too many are waiting. False when the engine has ended.
    pub(crate) fn offer(&self, realm: RealmId, source: SocketAddr, bytes: Bytes) -> bool {
        if self.shared.waiting.fetch_add(1, Ordering::Relaxed) >= DATAGRAMS_WAITING {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.push(Input::Datagram {
            realm,
            source,
            bytes,
        })
    }
}

impl Inbox {
    pub(crate) fn receive(&self, timeout: Duration) -> Received {
        match self.inputs.recv_timeout(timeout) {
            Ok(input) => Received::Input(self.admit(input)),
            Err(mpsc::RecvTimeoutError::Timeout) => Received::TimedOut,
            Err(mpsc::RecvTimeoutError::Disconnected) => Received::Closed,
        }
    }

    pub(crate) fn try_receive(&self) -> Option<Input> {
        self.inputs.try_recv().ok().map(|input| self.admit(input))
    }

    /// Datagrams dropped at the bound since start.
    pub(crate) fn datagrams_dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn admit(&self, input: Input) -> Input {
        if matches!(input, Input::Datagram { .. }) {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        input
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn datagrams_are_bounded_and_other_inputs_are_not() {
        let (sender, inbox) = inbox();
        let source = "192.0.2.1:5060".parse().unwrap();
        for _ in 0..DATAGRAMS_WAITING + 3 {
            assert!(sender.offer(RealmId(0), source, Bytes::new()));
        }
        assert_eq!(inbox.datagrams_dropped(), 3);
        assert!(sender.push(Input::Stop));
        let mut received = 0;
        while let Some(Input::Datagram { .. }) = inbox.try_receive() {
            received += 1;
        }
        assert_eq!(received, DATAGRAMS_WAITING);
        assert!(sender.offer(RealmId(0), source, Bytes::new()));
        assert_eq!(inbox.datagrams_dropped(), 3, "room again");
    }
}
