//! Receiving from peers.
//!
//! One task accepts, one task serves each connection, one each of its streams; all end with the endpoint. A peer
//! has one connection: a newer one replaces the older, so there are never more tasks than slots and streams allow.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quinn::{Connection, Endpoint, Incoming, ReadToEndError, RecvStream, VarInt};
use rustls::pki_types::CertificateDer;
use tandem_replication_core::eraftpb::Message;
use tandem_replication_core::{ReplicaId, Slot};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
}

impl Acceptor {
    pub(super) fn new(own: Slot, mailbox: Arc<Mailbox>, counters: Arc<Counters>) -> Acceptor {
        Acceptor {
            own,
            mailbox,
            counters,
            connections: Mutex::default(),
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
        let datagrams = async {
            while let Ok(datagram) = connection.read_datagram().await {
                if self.take(peer, &datagram).is_err() {
                    self.counters.malformed.add();
                }
            }
        };
        // The transport's limit on concurrent streams bounds this set.
        let streams = async {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok(stream) = connection.accept_uni().await {
                while tasks.try_join_next().is_some() {}
                let reader = Reader {
                    peer,
                    mailbox: Arc::clone(&self.mailbox),
                    counters: Arc::clone(&self.counters),
                };
                let connection = connection.clone();
                tasks.spawn(async move {
                    if let Err(error) = reader.read(stream).await {
                        reader.counters.malformed.add();
                        tracing::warn!(%peer, %error, "malformed stream; closing its connection");
                        connection.close(MALFORMED, b"malformed stream");
                    }
                });
            }
        };
        tokio::join!(datagrams, streams);
    }

    fn take(&self, peer: Slot, datagram: &Bytes) -> Result<(), FrameError> {
        deliver(
            peer,
            frame::decode(datagram)?,
            datagram.len(),
            &self.mailbox,
            &self.counters,
        );
        Ok(())
    }
}

/// One stream's task.
struct Reader {
    peer: Slot,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
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
                Ok(Some(bytes)) => self.deliver(frame::decode(&bytes)?, bytes.len()),
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
        let decoded = tokio::task::spawn_blocking(move || frame::decode(&Bytes::from(bytes))).await;
        match decoded {
            Ok(message) => self.deliver(message?, length),
            // The runtime is shutting down.
            Err(_) => return Ok(()),
        }
        Ok(())
    }

    fn deliver(&self, message: Message, bytes: usize) {
        deliver(self.peer, message, bytes, &self.mailbox, &self.counters);
    }
}

/// Passes a message on if its sender is who the certificate says.
fn deliver(peer: Slot, message: Message, bytes: usize, mailbox: &Mailbox, counters: &Counters) {
    if ReplicaId::try_from(message.from).map(ReplicaId::slot) != Ok(peer) {
        counters.wrong_sender.add();
        tracing::debug!(%peer, from = message.from, "message with a false sender dropped");
        return;
    }
    match mailbox.message(Received { message, bytes }) {
        Ok(()) => counters.received.add(),
        Err(_) => counters.dropped_mailbox_full.add(),
    }
}

fn certified_slot(connection: &Connection) -> Option<Slot> {
    let identity = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    slot_of(identity.first()?).ok()?
}
