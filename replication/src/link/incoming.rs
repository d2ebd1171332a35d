//! Receiving from peers.
//!
//! One task accepts, one task serves each connection, one each of its streams; all end with the endpoint. A peer
//! has one connection: a newer one replaces the older, so there are never more tasks than slots and streams allow.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quinn::{Connection, Endpoint, Incoming, ReadToEndError, RecvStream, VarInt};
use rustls::pki_types::CertificateDer;
use tandem_replication_core::{
    ENVELOPE_VERSION, Envelope, EnvelopeError, PeerMessage, ReplicaId, Slot,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::counters::Counters;
use super::frame::{self, FrameError, StreamKind};
use crate::mailbox::{Mailbox, Received};
use crate::pki::slot_of;

/// Handshakes in progress; attempts beyond are ignored and counted, and come again. A pair needs two. Also bounds
/// the attempts quinn keeps until they are looked at.
pub(super) const HANDSHAKES: usize = 32;

const REFUSED: VarInt = VarInt::from_u32(1);
const REPLACED: VarInt = VarInt::from_u32(2);
const MALFORMED: VarInt = VarInt::from_u32(3);

/// Accepts connections of the pair's other nodes.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) own: Slot,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) counters: Arc<Counters>,
    connections: Mutex<BTreeMap<Slot, Connection>>,
    /// Who dials a peer; told that it is there.
    dialers: BTreeMap<Slot, Arc<Notify>>,
}

impl Acceptor {
    pub(super) fn new(
        own: Slot,
        mailbox: Arc<Mailbox>,
        counters: Arc<Counters>,
        dialers: BTreeMap<Slot, Arc<Notify>>,
    ) -> Acceptor {
        Acceptor {
            own,
            mailbox,
            counters,
            connections: Mutex::default(),
            dialers,
        }
    }

    pub(super) async fn run(self, endpoint: Endpoint) {
        let acceptor = Arc::new(self);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        while let Some(incoming) = endpoint.accept().await {
            // RFC 9000 section 8.1.2: whoever does not receive at its address gets no state here.
            if !incoming.remote_address_validated() && incoming.may_retry() {
                // It may retry, so this cannot fail.
                let _ = incoming.retry();
                continue;
            }
            let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
                acceptor.counters.refused.add();
                incoming.ignore();
                continue;
            };
            let acceptor = Arc::clone(&acceptor);
            tokio::spawn(async move { acceptor.accept(incoming, permit).await });
        }
    }

    async fn accept(&self, incoming: Incoming, handshake: OwnedSemaphorePermit) {
        let address = incoming.remote_address();
        // rustls has verified the certificate by the pair's CA when this succeeds.
        let connection = match incoming.await {
            Ok(connection) => connection,
            Err(error) => {
                self.counters.refused.add();
                tracing::warn!(%address, %error, "connection refused");
                return;
            }
        };
        let Some(peer) = certified_slot(&connection).filter(|slot| *slot != self.own) else {
            self.counters.refused.add();
            tracing::warn!(%address, "connection refused: its certificate names no peer");
            connection.close(REFUSED, b"certificate names no peer");
            return;
        };
        drop(handshake);
        self.counters.accepted.add();
        tracing::debug!(%peer, %address, "peer connected");
        self.replace(peer, connection.clone());
        if let Some(dialer) = self.dialers.get(&peer) {
            dialer.notify_one();
        }
        self.serve(peer, &connection).await;
    }

    fn replace(&self, peer: Slot, connection: Connection) {
        let mut connections = self
            .connections
            .lock()
            .expect("no holder of this lock panics");
        if let Some(former) = connections.insert(peer, connection) {
            former.close(REPLACED, b"replaced");
        }
    }

    async fn serve(&self, peer: Slot, connection: &Connection) {
        let reader = Reader {
            peer,
            mailbox: Arc::clone(&self.mailbox),
            counters: Arc::clone(&self.counters),
            complained: Arc::new(AtomicBool::new(false)),
        };
        let datagrams = async {
            while let Ok(datagram) = connection.read_datagram().await {
                let bytes = datagram.len();
                if reader.take(Envelope::decode(datagram), bytes).is_err() {
                    self.counters.malformed.add();
                }
            }
        };
        // The transport's limit on concurrent streams bounds this set.
        let streams = async {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok(stream) = connection.accept_uni().await {
                while tasks.try_join_next().is_some() {}
                let reader = reader.clone();
                let connection = connection.clone();
                tasks.spawn(async move {
                    if let Err(error) = reader.read(stream).await {
                        reader.counters.malformed.add();
                        tracing::warn!(peer = %reader.peer, %error, "malformed stream; closing its connection");
                        connection.close(MALFORMED, b"malformed stream");
                    }
                });
            }
        };
        tokio::join!(datagrams, streams);
    }
}

/// What one connection brings.
#[derive(Clone)]
struct Reader {
    peer: Slot,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    /// Whether the peer's version was complained of: once a connection.
    complained: Arc<AtomicBool>,
}

impl Reader {
    /// Reads to the end. An error is a breach of the format; a stream that ends early is none.
    async fn read(&self, mut stream: RecvStream) -> Result<(), FrameError> {
        let mut kind = [0; 1];
        if stream.read_exact(&mut kind).await.is_err() {
            return Ok(());
        }
        match StreamKind::from_byte(kind[0]) {
            Some(StreamKind::Messages) => self.read_messages(stream).await,
            Some(StreamKind::Snapshot) => self.read_snapshot(stream).await,
            None => Err(FrameError::UnknownStream(kind[0])),
        }
    }

    async fn read_messages(&self, mut stream: RecvStream) -> Result<(), FrameError> {
        loop {
            match frame::read_frame(&mut stream).await {
                Ok(Some(bytes)) => {
                    let length = bytes.len();
                    self.take(Envelope::decode(bytes), length)?;
                }
                Ok(None) | Err(FrameError::Read(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_snapshot(&self, mut stream: RecvStream) -> Result<(), FrameError> {
        let bytes = match stream.read_to_end(frame::SNAPSHOT_LIMIT).await {
            Ok(bytes) => bytes,
            Err(ReadToEndError::TooLong) => return Err(FrameError::SnapshotTooLong),
            Err(ReadToEndError::Read(_)) => return Ok(()),
        };
        let length = bytes.len();
        let decoded =
            tokio::task::spawn_blocking(move || Envelope::decode(Bytes::from(bytes))).await;
        match decoded {
            Ok(envelope) => self.take(envelope, length),
            // The runtime is shutting down.
            Err(_) => Ok(()),
        }
    }

    /// Passes an envelope on if its sender is who the certificate says. One of another version is dropped, and the
    /// connection stays: it would only be made again.
    fn take(
        &self,
        envelope: Result<Envelope, EnvelopeError>,
        bytes: usize,
    ) -> Result<(), FrameError> {
        let envelope = match envelope.map_err(FrameError::from) {
            Ok(envelope) => envelope,
            Err(error) => {
                let Some(version) = error.other_version() else {
                    return Err(error);
                };
                self.counters.other_version.add();
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        peer = %self.peer,
                        version,
                        ours = ENVELOPE_VERSION,
                        "the peer's build speaks another version; what it says is dropped"
                    );
                }
                return Ok(());
            }
        };
        let sender = match &envelope.message {
            PeerMessage::Raft(message) => ReplicaId::try_from(message.from).map(ReplicaId::slot),
            PeerMessage::Hello(hello) => Ok(hello.slot),
        };
        if sender != Ok(self.peer) {
            self.counters.wrong_sender.add();
            tracing::debug!(peer = %self.peer, ?sender, "message with a false sender dropped");
            return Ok(());
        }
        match self.mailbox.message(Received { envelope, bytes }) {
            Ok(()) => self.counters.received.add(),
            Err(_) => self.counters.dropped_mailbox_full.add(),
        }
        Ok(())
    }
}

fn certified_slot(connection: &Connection) -> Option<Slot> {
    let identity = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    slot_of(identity.first()?).ok()?
}
