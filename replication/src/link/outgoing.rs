//! Sending to one peer.
//!
//! One task a peer, from start to shutdown: dial, serve the connection until it fails, dial again, for ever. The
//! three kinds of traffic run beside each other, so a heartbeat never waits for an append, nor an append for a
//! snapshot. Dropping the task at any point loses messages, which Raft repeats.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, SendDatagramError, WriteError};
use tandem_replication_core::{Envelope, ReplicaId, Slot};
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use super::counters::Counters;
use super::frame::{self, StreamKind};
use crate::mailbox::{Mailbox, Report};
use crate::pki::server_name;

/// Datagrams waiting for a peer's task; at the bound new ones are dropped and counted. Two ticks' worth would do.
const DATAGRAM_QUEUE: usize = 256;
/// Appends and their answers waiting likewise; when some are dropped, Raft is told and probes.
const STREAM_QUEUE: usize = 1024;
/// Snapshots waiting likewise; when one is dropped, Raft is told.
const SNAPSHOT_QUEUE: usize = 2;

/// How long a handshake may take. Its own retransmissions back off, so a fresh attempt is better than a long one.
const DIAL_TIMEOUT: Duration = Duration::from_millis(750);
/// Pause after the first failed attempt; doubles with each.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long the receiver of a snapshot may take to acknowledge all of it.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(120);

/// Where messages for one peer go. Never blocks.
#[derive(Debug)]
pub(super) struct Outgoing {
    datagrams: Sender<Envelope>,
    stream: Sender<Envelope>,
    snapshots: Sender<(ReplicaId, Envelope)>,
    connected: Arc<AtomicBool>,
    counters: Arc<Counters>,
    alive: Arc<Notify>,
}

/// The receiving ends of an [`Outgoing`]'s queues.
#[derive(Debug)]
struct Queues {
    datagrams: Receiver<Envelope>,
    stream: Receiver<Envelope>,
    snapshots: Receiver<(ReplicaId, Envelope)>,
}

/// One peer's sending task.
#[derive(Debug)]
pub(super) struct Dialer {
    peer: Slot,
    address: SocketAddr,
    endpoint: Endpoint,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    connected: Arc<AtomicBool>,
    /// Told when the peer has connected to us: then it is there to be dialled.
    alive: Arc<Notify>,
    queues: Queues,
}

/// Why a connection is no longer used.
#[derive(Debug, thiserror::Error)]
enum LinkLost {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the peer does not take datagrams")]
    NoDatagrams,
    #[error("shutting down")]
    Stopped,
}

impl Outgoing {
    /// Both ends of a peer's queues.
    pub(super) fn new(
        peer: Slot,
        address: SocketAddr,
        endpoint: Endpoint,
        mailbox: Arc<Mailbox>,
        counters: Arc<Counters>,
    ) -> (Outgoing, Dialer) {
        let (datagrams, datagram_queue) = channel(DATAGRAM_QUEUE);
        let (stream, stream_queue) = channel(STREAM_QUEUE);
        let (snapshots, snapshot_queue) = channel(SNAPSHOT_QUEUE);
        let connected = Arc::new(AtomicBool::new(false));
        let alive = Arc::new(Notify::new());
        let queues = Queues {
            datagrams: datagram_queue,
            stream: stream_queue,
            snapshots: snapshot_queue,
        };
        let outgoing = Outgoing {
            datagrams,
            stream,
            snapshots,
            connected: Arc::clone(&connected),
            counters: Arc::clone(&counters),
            alive: Arc::clone(&alive),
        };
        (
            outgoing,
            Dialer {
                peer,
                address,
                endpoint,
                mailbox,
                counters,
                connected,
                alive,
                queues,
            },
        )
    }

    /// Told by whoever accepts this peer's connections.
    pub(super) fn alive(&self) -> Arc<Notify> {
        Arc::clone(&self.alive)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Each returns whether the message is on its way.
    pub(super) fn datagram(&self, message: Envelope) -> bool {
        self.queue(&self.datagrams, message)
    }

    pub(super) fn stream(&self, message: Envelope) -> bool {
        self.queue(&self.stream, message)
    }

    pub(super) fn snapshot(&self, to: ReplicaId, message: Envelope) -> bool {
        self.queue(&self.snapshots, (to, message))
    }

    fn queue<T>(&self, queue: &Sender<T>, item: T) -> bool {
        if !self.is_connected() {
            self.counters.dropped_unconnected.add();
            return false;
        }
        let queued = queue.try_send(item).is_ok();
        if !queued {
            self.counters.dropped_full.add();
        }
        queued
    }
}

impl Dialer {
    pub(super) async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.dial().await {
                Ok(connection) => {
                    backoff = BACKOFF_MIN;
                    self.up(&connection);
                    let lost = self.serve(&connection).await;
                    connection.close(0u32.into(), b"");
                    self.down(&lost);
                    if matches!(lost, LinkLost::Stopped) {
                        return;
                    }
                }
                Err(error) => {
                    self.counters.dial_failures.add();
                    tracing::debug!(peer = %self.peer, address = %self.address, error, "not connected");
                    tokio::select! {
                        () = sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
                        // Once for each connection it makes, so no faster than it dials.
                        () = self.alive.notified() => backoff = BACKOFF_MIN,
                    }
                }
            }
        }
    }

    async fn dial(&self) -> Result<Connection, String> {
        // TLS checks that the peer's certificate names the slot that was meant to be dialled.
        let connecting = self
            .endpoint
            .connect(self.address, &server_name(self.peer))
            .map_err(|error| error.to_string())?;
        match timeout(DIAL_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    fn up(&mut self, connection: &Connection) {
        // What was queued while the last connection was failing is stale.
        while self.queues.datagrams.try_recv().is_ok() {}
        while self.queues.stream.try_recv().is_ok() {}
        self.counters.connected.add();
        self.connected.store(true, Ordering::Relaxed);
        tracing::info!(peer = %self.peer, address = %connection.remote_address(), "connected to peer");
        self.mailbox.report(Report::PeerUp(self.peer));
    }

    fn down(&mut self, lost: &LinkLost) {
        self.connected.store(false, Ordering::Relaxed);
        self.counters.disconnected.add();
        tracing::info!(peer = %self.peer, reason = %lost, "connection to peer lost");
        while let Ok((to, _)) = self.queues.snapshots.try_recv() {
            self.counters.snapshots_failed.add();
            self.mailbox.report(Report::SnapshotSent { to, ok: false });
        }
        self.mailbox.report(Report::PeerDown(self.peer));
    }

    async fn serve(&mut self, connection: &Connection) -> LinkLost {
        let Queues {
            datagrams,
            stream,
            snapshots,
        } = &mut self.queues;
        let (overflow, overflowed) = channel(STREAM_QUEUE);
        tokio::select! {
            error = connection.closed() => error.into(),
            lost = send_datagrams(connection, datagrams, &overflow, &self.counters) => lost,
            lost = send_stream(connection, stream, overflowed, &self.counters) => lost,
            lost = send_snapshots(connection, snapshots, &self.mailbox, &self.counters) => lost,
        }
    }
}

async fn send_datagrams(
    connection: &Connection,
    queue: &mut Receiver<Envelope>,
    overflow: &Sender<Envelope>,
    counters: &Counters,
) -> LinkLost {
    while let Some(message) = queue.recv().await {
        match connection.send_datagram(message.encode()) {
            Ok(()) => counters.datagrams_sent.add(),
            Err(SendDatagramError::TooLarge) => {
                if overflow.try_send(message).is_err() {
                    counters.dropped_full.add();
                }
            }
            Err(SendDatagramError::ConnectionLost(error)) => return error.into(),
            Err(SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled) => {
                return LinkLost::NoDatagrams;
            }
        }
    }
    LinkLost::Stopped
}

async fn send_stream(
    connection: &Connection,
    queue: &mut Receiver<Envelope>,
    mut overflowed: Receiver<Envelope>,
    counters: &Counters,
) -> LinkLost {
    let mut stream = match connection.open_uni().await {
        Ok(stream) => stream,
        Err(error) => return error.into(),
    };
    if let Err(error) = stream.write_all(&[StreamKind::Messages.byte()]).await {
        return error.into();
    }
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            message = overflowed.recv() => message,
        };
        let Some(message) = message else {
            return LinkLost::Stopped;
        };
        let Some(frame) = frame::frame(&message.encode()) else {
            counters.dropped_oversize.add();
            continue;
        };
        if let Err(error) = stream.write_chunk(frame).await {
            return error.into();
        }
        counters.frames_sent.add();
    }
}

async fn send_snapshots(
    connection: &Connection,
    queue: &mut Receiver<(ReplicaId, Envelope)>,
    mailbox: &Mailbox,
    counters: &Counters,
) -> LinkLost {
    while let Some((to, message)) = queue.recv().await {
        let report = SnapshotReport {
            to,
            ok: false,
            mailbox,
            counters,
        };
        let sent = timeout(SNAPSHOT_TIMEOUT, send_snapshot(connection, message)).await;
        report.done(matches!(sent, Ok(true)));
    }
    LinkLost::Stopped
}

/// Sends one snapshot on a stream of its own; true once the peer has acknowledged the last byte.
async fn send_snapshot(connection: &Connection, message: Envelope) -> bool {
    // Encoding a table of hundreds of megabytes would hold up the other tasks of this thread.
    let Ok(encoded) = tokio::task::spawn_blocking(move || message.encode()).await else {
        return false;
    };
    if encoded.len() > frame::SNAPSHOT_LIMIT {
        tracing::error!(
            bytes = encoded.len(),
            limit = frame::SNAPSHOT_LIMIT,
            "snapshot too large to send"
        );
        return false;
    }
    let Ok(mut stream) = connection.open_uni().await else {
        return false;
    };
    // Appends that are under way go first.
    let queued = stream.set_priority(-1).is_ok()
        && stream
            .write_all(&[StreamKind::Snapshot.byte()])
            .await
            .is_ok()
        && stream.write_chunk(encoded).await.is_ok()
        && stream.finish().is_ok();
    queued && matches!(stream.stopped().await, Ok(None))
}

/// Reports a snapshot's outcome exactly once, also when the task is dropped half-way with its connection.
struct SnapshotReport<'a> {
    to: ReplicaId,
    ok: bool,
    mailbox: &'a Mailbox,
    counters: &'a Counters,
}

impl SnapshotReport<'_> {
    fn done(mut self, ok: bool) {
        self.ok = ok;
    }
}

impl Drop for SnapshotReport<'_> {
    fn drop(&mut self) {
        let counter = if self.ok {
            &self.counters.snapshots_sent
        } else {
            &self.counters.snapshots_failed
        };
        counter.add();
        self.mailbox.report(Report::SnapshotSent {
            to: self.to,
            ok: self.ok,
        });
    }
}
