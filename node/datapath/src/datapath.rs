//! The data path as its callers see it, and the bookkeeping of sockets and sessions over the relay threads.

use crate::{
    MediaEvent,
    error::SetError,
    gate::Gate,
    relay::{CONTROL_DEPTH, Command, Relay, WAKE_TOKEN, token, watch},
    socket,
    statistics::{self, RelayStatistics, Stats},
};
use anyhow::{Context, bail, ensure};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags},
    eventfd::{EfdFlags, EventFd},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroUsize,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use tandem_media::{LocalPort, PlanError, RealmNumber, SessionKey, SessionStatistics, StreamPlan};

/// How long a relay may take to answer a request for statistics before it counts as down.
const STATISTICS_WAIT: Duration = Duration::from_secs(1);

/// One side of the border: where its media sockets are bound.
#[derive(Clone, Debug)]
pub struct MediaRealm {
    pub realm: RealmNumber,
    /// May be an address that is not on this host.
    pub bind: IpAddr,
    pub ports: RangeInclusive<u16>,
}

/// Sizes of the data path.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub relay_threads: NonZeroUsize,
    /// SO_RCVBUF of each socket in bytes.
    pub receive_buffer: usize,
}

impl Default for Options {
    /// One relay thread; buffers for the second that a busy host may keep it from running.
    fn default() -> Options {
        Options {
            relay_threads: NonZeroUsize::MIN,
            receive_buffer: 1 << 18,
        }
    }
}

/// The userspace relay. Dropping it stops the threads and closes the sockets.
#[derive(Debug)]
pub struct Datapath {
    relays: Vec<Handle>,
    control: Mutex<Control>,
}

/// A relay thread from outside.
#[derive(Debug)]
struct Handle {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
    epoll: Arc<Epoll>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Control {
    realms: BTreeMap<RealmNumber, MediaRealm>,
    sessions: BTreeMap<SessionKey, Installed>,
    holders: BTreeMap<LocalPort, SessionKey>,
    /// Every socket ever bound: one that no session uses stays bound and watched, so that what a phone still sends
    /// to it is read and dropped rather than kept for the next call.
    sockets: BTreeMap<LocalPort, Bound>,
    receive_buffer: usize,
}

#[derive(Debug)]
struct Installed {
    streams: Vec<StreamPlan>,
    relay: usize,
}

#[derive(Debug)]
struct Bound {
    socket: Arc<UdpSocket>,
    relay: usize,
}

impl Datapath {
    /// Starts the relay with the default [`Options`].
    ///
    /// `events` runs on the relay threads and must not wait, least of all for a caller of this type.
    pub fn start(
        realms: Vec<MediaRealm>,
        gate: Arc<Gate>,
        events: impl Fn(MediaEvent) + Send + Sync + 'static,
    ) -> anyhow::Result<Datapath> {
        Datapath::start_with(Options::default(), realms, gate, events)
    }

    /// Starts the relay. No socket is bound before a session needs it.
    pub fn start_with(
        options: Options,
        realms: Vec<MediaRealm>,
        gate: Arc<Gate>,
        events: impl Fn(MediaEvent) + Send + Sync + 'static,
    ) -> anyhow::Result<Datapath> {
        let mut known = BTreeMap::new();
        for realm in realms {
            let number = realm.realm;
            let ports = &realm.ports;
            ensure!(!ports.is_empty(), "media realm {} has no ports", number.0);
            if known.insert(number, realm).is_some() {
                bail!("media realm {} is given twice", number.0);
            }
        }
        socket::raise_file_limit(known.values().map(|r| r.ports.len() as u64).sum());
        let events = Arc::new(events);
        let relays = (0..options.relay_threads.get())
            .map(|place| {
                Handle::spawn(place, |epoll, wake, commands| {
                    Relay::new(epoll, wake, commands, gate.clone(), events.clone())
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Datapath {
            relays,
            control: Mutex::new(Control {
                realms: known,
                sessions: BTreeMap::new(),
                holders: BTreeMap::new(),
                sockets: BTreeMap::new(),
                receive_buffer: options.receive_buffer,
            }),
        })
    }

    /// Makes this the state of a session's media; the sockets it needs are bound when this returns. Setting the same
    /// plan again costs a comparison. No streams means [`Datapath::remove`].
    pub fn set(&self, key: SessionKey, streams: Vec<StreamPlan>) -> Result<(), SetError> {
        if streams.is_empty() {
            self.remove(key);
            return Ok(());
        }
        let mut control = self.control();
        if control
            .sessions
            .get(&key)
            .is_some_and(|known| known.streams == streams)
        {
            return Ok(());
        }
        StreamPlan::check(&streams)?;
        control.check_ports(key, &streams)?;
        let relay = control.relay_for(key, &streams, self.relays.len());
        self.provide_sockets(&mut control, relay, &streams)?;
        self.command(relay, Command::Set(key, streams.clone()))?;
        control.install(key, Installed { streams, relay });
        Ok(())
    }

    /// Ends a session's media; unknown keys are fine. Its sockets stay for the next session.
    pub fn remove(&self, key: SessionKey) {
        let mut control = self.control();
        if let Some(installed) = control.uninstall(key) {
            // A relay that has stopped relays nothing any more.
            let _stopped = self.command(installed.relay, Command::Remove(key));
        }
    }

    /// Counters for monitoring. Waits for each relay to answer, at most a second for each.
    pub fn stats(&self) -> Stats {
        let answers: Vec<Option<RelayStatistics>> = (0..self.relays.len())
            .map(|relay| self.ask(relay, Command::Statistics))
            .collect();
        statistics::samples(&answers)
    }

    /// Counters of one session: packets each way, loss, jitter, last activity. `None` for an unknown session or when
    /// its relay does not answer within a second. Ask before [`Datapath::remove`].
    pub fn session(&self, key: SessionKey) -> Option<SessionStatistics> {
        let relay = self.control().sessions.get(&key)?.relay;
        self.ask(relay, |reply| Command::Session(key, reply))
            .flatten()
    }

    /// The last packet taken from any peer of the session, in CLOCK_BOOTTIME; as [`Datapath::session`].
    pub fn last_activity(&self, key: SessionKey) -> Option<Duration> {
        self.session(key)?.last_activity
    }

    /// Binds what is missing of the plan's sockets and brings all of them to one relay.
    fn provide_sockets(
        &self,
        control: &mut Control,
        relay: usize,
        streams: &[StreamPlan],
    ) -> Result<(), SetError> {
        let mut attached = Vec::new();
        let mut outcome = Ok(());
        for local in streams.iter().flat_map(StreamPlan::ports) {
            match self.provide_socket(control, relay, local) {
                Ok(None) => {}
                Ok(Some(socket)) => attached.push((local, socket)),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        // Those bound before a failure are kept for the next session.
        if !attached.is_empty() {
            self.command(relay, Command::Attach(attached))?;
        }
        outcome
    }

    /// The socket, when the relay does not have it yet.
    fn provide_socket(
        &self,
        control: &mut Control,
        relay: usize,
        local: LocalPort,
    ) -> Result<Option<Arc<UdpSocket>>, SetError> {
        let address = control.address_of(local)?;
        let failed = |source| SetError::Bind { address, source };
        let target = self.relays.get(relay).ok_or(SetError::Stopped)?;
        if let Some(bound) = control.sockets.get_mut(&local) {
            if bound.relay == relay {
                return Ok(None);
            }
            watch(&target.epoll, &bound.socket, token(local)).map_err(failed)?;
            if let Some(before) = self.relays.get(bound.relay) {
                before
                    .epoll
                    .delete(&bound.socket)
                    .map_err(|e| failed(e.into()))?;
                self.command(bound.relay, Command::Detach(local))?;
            }
            bound.relay = relay;
            return Ok(Some(bound.socket.clone()));
        }
        let socket = Arc::new(socket::open(address, control.receive_buffer).map_err(failed)?);
        watch(&target.epoll, &socket, token(local)).map_err(failed)?;
        let bound = Bound {
            socket: socket.clone(),
            relay,
        };
        control.sockets.insert(local, bound);
        Ok(Some(socket))
    }

    fn command(&self, relay: usize, command: Command) -> Result<(), SetError> {
        let handle = self.relays.get(relay).ok_or(SetError::Stopped)?;
        handle.command(command)
    }

    /// Sends a relay a question and waits for its answer.
    fn ask<A>(&self, relay: usize, question: impl FnOnce(SyncSender<A>) -> Command) -> Option<A> {
        let (reply, answer) = sync_channel(1);
        self.command(relay, question(reply)).ok()?;
        answer.recv_timeout(STATISTICS_WAIT).ok()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        // Every change of the bookkeeping is complete before anything that can panic.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        for relay in &mut self.relays {
            // A relay that is gone needs no stopping, and one that panicked has said so on its own.
            let _gone = relay.command(Command::Stop);
            let _panicked = relay.thread.take().map(JoinHandle::join);
        }
    }
}

impl Handle {
    fn spawn(
        place: usize,
        build: impl FnOnce(Arc<Epoll>, Arc<EventFd>, Receiver<Command>) -> Relay,
    ) -> anyhow::Result<Handle> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags).context("eventfd")?;
        watch(&epoll, &wake, WAKE_TOKEN).context("epoll_ctl")?;
        let (epoll, wake) = (Arc::new(epoll), Arc::new(wake));
        let (commands, received) = sync_channel(CONTROL_DEPTH);
        let relay = build(epoll.clone(), wake.clone(), received);
        let thread = thread::Builder::new()
            .name(format!("media-{place}"))
            .spawn(move || relay.run())
            .context("cannot start a media relay thread")?;
        Ok(Handle {
            commands,
            wake,
            epoll,
            thread: Some(thread),
        })
    }

    fn command(&self, command: Command) -> Result<(), SetError> {
        self.commands.send(command).map_err(|_| SetError::Stopped)?;
        // Fails only when the eventfd already counts to its limit, and then the relay is awake.
        let _awake = self.wake.write(1);
        Ok(())
    }
}

impl Control {
    /// Each port must be free or this session's own.
    fn check_ports(&self, key: SessionKey, streams: &[StreamPlan]) -> Result<(), SetError> {
        for local in streams.iter().flat_map(StreamPlan::ports) {
            self.address_of(local)?;
            if self
                .holders
                .get(&local)
                .is_some_and(|holder| *holder != key)
            {
                return Err(PlanError::PortTaken(local).into());
            }
        }
        Ok(())
    }

    fn address_of(&self, local: LocalPort) -> Result<SocketAddr, SetError> {
        let realm = self
            .realms
            .get(&local.realm)
            .ok_or(SetError::UnknownRealm(local))?;
        if !realm.ports.contains(&local.port) {
            return Err(SetError::OutsideRange(local));
        }
        Ok(SocketAddr::new(realm.bind, local.port))
    }

    /// A session stays where it is; a new one goes where its first socket is, or else by its key.
    fn relay_for(&self, key: SessionKey, streams: &[StreamPlan], relays: usize) -> usize {
        if let Some(installed) = self.sessions.get(&key) {
            return installed.relay;
        }
        streams
            .iter()
            .flat_map(StreamPlan::ports)
            .find_map(|local| self.sockets.get(&local).map(|bound| bound.relay))
            // The remainder is below the number of relays, which is a usize.
            .unwrap_or((key.0 % relays.max(1) as u64) as usize)
    }

    fn install(&mut self, key: SessionKey, installed: Installed) {
        self.uninstall(key);
        for local in installed.streams.iter().flat_map(StreamPlan::ports) {
            self.holders.insert(local, key);
        }
        self.sessions.insert(key, installed);
    }

    fn uninstall(&mut self, key: SessionKey) -> Option<Installed> {
        let installed = self.sessions.remove(&key)?;
        for local in installed.streams.iter().flat_map(StreamPlan::ports) {
            self.holders.remove(&local);
        }
        Some(installed)
    }
}
