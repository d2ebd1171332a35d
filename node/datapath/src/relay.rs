//! One relay thread: it waits for sockets and commands, and is alone with its sessions.

use crate::{
    MediaEvent,
    gate::{Gate, boottime},
    mmsg::Batch,
    statistics::{RelayCounters, RelayStatistics},
};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::EventFd,
    },
};
use std::{
    collections::HashMap,
    io,
    net::UdpSocket,
    ops::ControlFlow,
    os::fd::AsFd,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender},
    },
};
use tandem_media::{
    LocalPort, RealmNumber, SessionKey, SessionStatistics, Sessions, StreamPlan, Verdict,
};
use tracing::{debug, error};

/// Commands on their way to a relay. When it is full the caller waits; the relay waits for nobody, so that is short.
pub(crate) const CONTROL_DEPTH: usize = 1_024;
/// Commands carried out before packets get their turn again.
const COMMANDS_PER_TURN: usize = 64;
/// Sockets reported by one wait.
const EVENTS_PER_TURN: usize = 256;
/// The epoll token of the eventfd; a socket's token is below it, see [`token`].
pub(crate) const WAKE_TOKEN: u64 = u64::MAX;

/// Receives media events on a relay thread. It must not wait: packets stand still meanwhile.
pub(crate) type EventSink = Arc<dyn Fn(MediaEvent) + Send + Sync>;

#[derive(Debug)]
pub(crate) enum Command {
    /// Serve these sockets, which are in the epoll set already.
    Attach(Vec<(LocalPort, Arc<UdpSocket>)>),
    Detach(LocalPort),
    Set(SessionKey, Vec<StreamPlan>),
    Remove(SessionKey),
    Statistics(SyncSender<RelayStatistics>),
    Session(SessionKey, SyncSender<Option<SessionStatistics>>),
    Stop,
}

/// The name of a socket in the epoll set.
pub(crate) fn token(local: LocalPort) -> u64 {
    u64::from(local.realm.0) << 16 | u64::from(local.port)
}

fn port_of(token: u64) -> LocalPort {
    LocalPort {
        // Both truncations undo `token`.
        realm: RealmNumber((token >> 16) as u16),
        port: token as u16,
    }
}

pub(crate) struct Relay {
    epoll: Arc<Epoll>,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    gate: Arc<Gate>,
    events: EventSink,
    sockets: HashMap<LocalPort, Arc<UdpSocket>>,
    sessions: Sessions,
    batch: Batch,
    counters: RelayCounters,
}

impl Relay {
    pub(crate) fn new(
        epoll: Arc<Epoll>,
        wake: Arc<EventFd>,
        commands: Receiver<Command>,
        gate: Arc<Gate>,
        events: EventSink,
    ) -> Relay {
        Relay {
            epoll,
            wake,
            commands,
            gate,
            events,
            sockets: HashMap::new(),
            sessions: Sessions::new(),
            batch: Batch::new(),
            counters: RelayCounters::default(),
        }
    }

    pub(crate) fn run(mut self) {
        let mut ready = [EpollEvent::empty(); EVENTS_PER_TURN];
        loop {
            let count = match self.epoll.wait(&mut ready, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    error!(%errno, "the media relay cannot wait for packets and stops");
                    return;
                }
            };
            for event in ready.iter().take(count) {
                if event.data() == WAKE_TOKEN {
                    if self.obey().is_break() {
                        return;
                    }
                } else {
                    self.relay(port_of(event.data()));
                }
            }
            while let Some(event) = self.sessions.next_event() {
                debug!(?event, "media event");
                (self.events)(event);
            }
        }
    }

    fn obey(&mut self) -> ControlFlow<()> {
        // Reading resets the eventfd. It can only fail for having been reset already.
        let _reset = self.wake.read();
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else {
                return ControlFlow::Continue(());
            };
            self.carry_out(command)?;
        }
        // There may be more. The write fails only when the eventfd is full of wakes, which wakes as well.
        let _again = self.wake.write(1);
        ControlFlow::Continue(())
    }

    fn carry_out(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Attach(sockets) => self.sockets.extend(sockets),
            Command::Detach(local) => {
                self.sockets.remove(&local);
            }
            Command::Set(key, streams) => {
                if let Err(error) = self.sessions.set(key, streams) {
                    error!(key = key.0, %error, "a plan that had been checked was refused");
                }
            }
            Command::Remove(key) => self.sessions.remove(key),
            // Whoever asked may have given up waiting.
            Command::Statistics(reply) => {
                let _gone = reply.try_send(self.statistics());
            }
            Command::Session(key, reply) => {
                let _gone = reply.try_send(self.sessions.statistics(key));
            }
            Command::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn statistics(&self) -> RelayStatistics {
        RelayStatistics {
            counters: self.counters,
            totals: *self.sessions.totals(),
            sessions: self.sessions.len(),
            sockets: self.sockets.len(),
        }
    }

    /// Relays one batch of what waits at a port. The wait is level-triggered: what is left comes up again after the
    /// other ports had their turn.
    fn relay(&mut self, local: LocalPort) {
        let Some(socket) = self.sockets.get(&local) else {
            // Entered the epoll set before its command arrived here, or left it in this very turn.
            return;
        };
        let count = match self.batch.receive(socket.as_fd()) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                self.counters.receive_errors += 1;
                return;
            }
        };
        self.counters.received += count as u64;
        // A node that may not send must not learn either: its latches come from the one that may.
        if !self.gate.is_open() {
            self.counters.closed_at_receipt += count as u64;
            return;
        }
        let now = boottime();
        let mut leaving = None;
        for place in 0..count {
            let Some((source, packet)) = self.batch.packet(place) else {
                self.counters.oversized += 1;
                continue;
            };
            match self.sessions.handle_packet(local, source, packet, now) {
                Verdict::Forward { from, to } => {
                    if leaving.is_some_and(|port| port != from) {
                        self.flush(leaving);
                    }
                    leaving = Some(from);
                    self.batch.queue(place, to);
                }
                Verdict::Drop(_) => {}
            }
        }
        self.flush(leaving);
    }

    /// Sends what is queued from this port. A packet that the kernel refuses is counted and skipped.
    fn flush(&mut self, from: Option<LocalPort>) {
        let queued = self.batch.queued();
        let Some(socket) = from.and_then(|port| self.sockets.get(&port)) else {
            // Without a port nothing is queued; a port without a socket was detached in this turn.
            self.batch.clear_queue();
            return;
        };
        let mut done = 0;
        while done < queued {
            if !self.gate.is_open() {
                self.counters.closed_at_send += (queued - done) as u64;
                break;
            }
            match self.batch.send_from(done, socket.as_fd()) {
                Ok(sent) => {
                    self.counters.sent.packets += sent as u64;
                    self.counters.sent.bytes += self.batch.queued_bytes(done, sent);
                    // Never zero for a batch that is not empty; the maximum keeps the loop finite all the same.
                    done += sent.max(1);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.counters.send_errors.count(&error);
                    done += 1;
                }
            }
        }
        self.batch.clear_queue();
    }
}

/// Adds a socket to an epoll set; the kernel reports it until it has been read empty.
pub(crate) fn watch(epoll: &Epoll, fd: impl AsFd, token: u64) -> io::Result<()> {
    let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
    epoll.add(fd, event).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use nix::sys::epoll::EpollCreateFlags;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn tokens_name_ports() {
        for (realm, port) in [(0, 0), (0, 65_535), (65_535, 65_535), (3, 20_000)] {
            let local = LocalPort {
                realm: RealmNumber(realm),
                port,
            };
            assert_eq!(port_of(token(local)), local);
            assert_ne!(token(local), WAKE_TOKEN);
        }
    }

    /// Contract 1: the lease may run out between receiving a batch and sending it. Without the check in `flush`
    /// the packet arrives.
    #[test]
    fn a_gate_that_closes_after_receipt_still_blocks() {
        let local = LocalPort {
            realm: RealmNumber(1),
            port: 2,
        };
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let phone = UdpSocket::bind("127.0.0.1:0").unwrap();
        let gate = Arc::new(Gate::new());
        gate.open_until(u64::MAX);
        let (_commands, received) = sync_channel(1);
        let mut relay = Relay::new(
            Arc::new(Epoll::new(EpollCreateFlags::empty()).unwrap()),
            Arc::new(EventFd::new().unwrap()),
            received,
            gate.clone(),
            Arc::new(|_| {}),
        );
        relay.sockets.insert(local, socket.clone());
        let packet_waits = |relay: &mut Relay| {
            phone
                .send_to(b"media", socket.local_addr().unwrap())
                .unwrap();
            assert_eq!(relay.batch.receive(socket.as_fd()).unwrap(), 1);
            relay.batch.queue(0, phone.local_addr().unwrap());
        };

        packet_waits(&mut relay);
        gate.close();
        relay.flush(Some(local));
        assert_eq!(
            (relay.counters.closed_at_send, relay.counters.sent.packets),
            (1, 0)
        );
        phone.set_nonblocking(true).unwrap();
        let error = phone.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);

        gate.open_until(u64::MAX);
        packet_waits(&mut relay);
        relay.flush(Some(local));
        assert_eq!(
            (relay.counters.closed_at_send, relay.counters.sent.packets),
            (1, 1)
        );
        assert_eq!(relay.counters.sent.bytes, 5);
    }
}
