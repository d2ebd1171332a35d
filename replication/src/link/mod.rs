//! The peer link: QUIC with mutual TLS between the nodes of a pair.
//!
//! Each node dials every other one and uses the connection it opened only to send; what it receives comes over
//! the connections others opened. So both directions fail and heal on their own, and there is no question of
//! which of two crossing connections to keep. Nothing here decides anything: messages may be lost, Raft repeats
//! them.
//!
//! * [`outgoing`]: one task a peer, dials and sends.
//! * [`incoming`]: accepts, checks who speaks, passes messages to the mailbox.
//! * [`siphon`], [`certificates`]: death certificates, which come from guards by plain UDP to the same port.

mod certificates;
mod counters;
mod frame;
pub(crate) mod fuzzing;
mod incoming;
mod outgoing;
mod siphon;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use quinn::{AsyncUdpSocket, Endpoint, Runtime as _, TokioRuntime};
use tandem_replication_core::{Envelope, MessageClass, ReplicaId, Slot};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use counters::LinkCounters;
pub use tls::TlsError;

use certificates::Intake;
use counters::Counters;
use incoming::Acceptor;
use outgoing::Outgoing;
use siphon::Siphon;
use tls::QuicConfig;

use crate::certificate::Verifier;
use crate::mailbox::Mailbox;
use crate::pki::Credentials;

/// How long a shutdown waits for peers to learn of it, and again for quinn to let go of the socket.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the link did not start.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The keys do not make a TLS configuration.
    #[error("the pair's keys are not usable: {0}")]
    Tls(#[from] TlsError),
    /// The address is not available.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// What was to be bound.
        address: SocketAddr,
        /// Why it was not.
        source: io::Error,
    },
}

/// The link of one node to its peers.
#[derive(Debug)]
pub(crate) struct Link {
    peers: BTreeMap<Slot, Outgoing>,
    counters: Arc<Counters>,
    running: Mutex<Option<Running>>,
}

/// What ends with [`Link::stop`].
#[derive(Debug)]
struct Running {
    endpoint: Endpoint,
    tasks: Vec<JoinHandle<()>>,
    /// quinn's; gone once the address is free.
    socket: Weak<dyn AsyncUdpSocket>,
}

/// Where a node listens and whom it talks to.
#[derive(Debug)]
pub(crate) struct LinkSettings {
    pub(crate) own: Slot,
    pub(crate) listen: SocketAddr,
    pub(crate) peers: BTreeMap<Slot, SocketAddr>,
}

impl Link {
    /// Binds the address and starts dialling.
    pub(crate) fn start(
        settings: &LinkSettings,
        credentials: Credentials,
        mailbox: &Arc<Mailbox>,
        runtime: &Handle,
    ) -> Result<Link, LinkError> {
        let verifier = Verifier::new(credentials.roots.clone()).map_err(TlsError::from)?;
        let QuicConfig {
            endpoint: config,
            server,
            client,
        } = QuicConfig::new(credentials)?;
        let bound = |source| LinkError::Bind {
            address: settings.listen,
            source,
        };
        let socket = UdpSocket::bind(settings.listen).map_err(bound)?;
        let _entered = runtime.enter();
        let socket = TokioRuntime.wrap_udp_socket(socket).map_err(bound)?;
        let open_socket = Arc::downgrade(&socket);
        let counters = Arc::new(Counters::default());
        let (intake, verification) = Intake::new(
            settings.own,
            &settings.peers,
            verifier,
            Arc::clone(mailbox),
            Arc::clone(&counters),
        );
        let socket = Arc::new(Siphon::new(socket, move |from, datagram: &[u8]| {
            intake.offer(from, datagram);
        }));
        let runtime_of_quinn = Arc::new(TokioRuntime);
        let mut endpoint =
            Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime_of_quinn)
                .map_err(bound)?;
        endpoint.set_default_client_config(client);

        let mut tasks = vec![runtime.spawn(verification.run())];
        let mut peers = BTreeMap::new();
        let mut dialers = BTreeMap::new();
        for (slot, address) in &settings.peers {
            let (outgoing, dialer) = Outgoing::new(
                *slot,
                *address,
                endpoint.clone(),
                Arc::clone(mailbox),
                Arc::clone(&counters),
            );
            tasks.push(runtime.spawn(dialer.run()));
            dialers.insert(*slot, outgoing.alive());
            peers.insert(*slot, outgoing);
        }
        let (mailbox, counted) = (Arc::clone(mailbox), Arc::clone(&counters));
        let acceptor = Acceptor::new(settings.own, mailbox, counted, dialers);
        tasks.push(runtime.spawn(acceptor.run(endpoint.clone())));
        let running = Mutex::new(Some(Running {
            endpoint,
            tasks,
            socket: open_socket,
        }));
        Ok(Link {
            peers,
            counters,
            running,
        })
    }

    /// Queues a message. Returns whether it is on its way; it may still get lost.
    pub(crate) fn send(&self, to: ReplicaId, message: Envelope, class: MessageClass) -> bool {
        let Some(peer) = self.peers.get(&to.slot()) else {
            return false;
        };
        match class {
            MessageClass::Datagram => peer.datagram(message),
            MessageClass::Stream => peer.stream(message),
            MessageClass::Snapshot => peer.snapshot(to, message),
        }
    }

    pub(crate) fn is_connected(&self, peer: Slot) -> bool {
        self.peers.get(&peer).is_some_and(Outgoing::is_connected)
    }

    pub(crate) fn counters(&self) -> LinkCounters {
        self.counters.totals()
    }

    /// Closes every connection, tells the peers, and gives the address back.
    pub(crate) fn stop(&self, runtime: &Handle) {
        let running = self
            .running
            .lock()
            .expect("no holder of this lock panics")
            .take();
        let Some(Running {
            endpoint,
            tasks,
            socket,
        }) = running
        else {
            return;
        };
        endpoint.close(0u32.into(), b"shutting down");
        for task in tasks {
            task.abort();
        }
        let (done, closed) = std::sync::mpsc::sync_channel(1);
        runtime.spawn(async move {
            // The close frames leave from the endpoint's own task; without an answer they are repeated.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
            drop(endpoint);
            let released = async {
                while socket.strong_count() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, released).await;
            let _ = done.send(());
        });
        // A runtime that is itself going down drops the task, which ends the wait.
        let _ = closed.recv_timeout(CLOSE_TIMEOUT * 3);
    }
}
