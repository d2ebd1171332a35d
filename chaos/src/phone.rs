//! Telephones of our own: they place and take calls, speak, listen, and report what each call went
//! through.
//!
//! A [`Phone`] is one user agent with many calls. It owns one task, which owns the SIP socket and
//! every call's machine; the task ends when the [`Phone`] is dropped. Speech has threads of its own
//! ([`media`]).

mod call;
mod dialog;
pub mod listener;
pub mod media;
mod message;
mod retransmission;
mod sdp;
pub mod voice;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rsip::{Method, Request, SipMessage};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::clock::boottime;
use crate::host::namespace::Namespace;
use call::{Call, Command, Line};
pub use call::{CallReport, CallState};
use media::Media;
use message::Identity;
use voice::{CallIndex, Party, Voices};

/// Orders waiting for the phone's task; whoever gives more waits.
const ORDERS: usize = 64;

/// Calls of one phone; an INVITE beyond is answered 486, an order to dial beyond is refused.
pub const MAX_CALLS: usize = 2_000;

/// Longest UDP datagram.
const DATAGRAM: usize = 65_536;

/// Where sockets are made: a host's network, or this process's own.
pub trait Network: Send + Sync {
    /// Binds a UDP socket.
    fn bind(&self, address: SocketAddr) -> io::Result<UdpSocket>;
}

impl Network for Namespace {
    fn bind(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        self.run_in(|| UdpSocket::bind(address))?
    }
}

/// How a phone is set up.
#[derive(Debug, Clone)]
pub struct PhoneSettings {
    pub party: Party,
    /// Address of the SIP socket.
    pub sip: SocketAddr,
    /// Where calls are sent.
    pub proxy: SocketAddr,
    /// RTP port of call 0; each call has the even port after its predecessor's.
    pub first_media_port: u16,
    /// Seed of tags and branches.
    pub seed: u64,
    pub voices: Voices,
    /// How long a callee lets it ring.
    pub answer_after: Duration,
    /// Calls that a callee lets ring until told to answer.
    pub held: BTreeSet<CallIndex>,
}

#[derive(Debug)]
enum Order {
    Dial(CallIndex),
    Answer(CallIndex),
    HangUp(CallIndex),
}

/// One user agent.
#[derive(Debug)]
pub struct Phone {
    orders: mpsc::Sender<Order>,
    calls: watch::Receiver<BTreeMap<CallIndex, CallReport>>,
    media: Arc<Media>,
}

/// The phone's task has ended: its socket failed.
#[derive(Debug, thiserror::Error)]
#[error("the phone is gone: its SIP socket failed")]
pub struct PhoneGone;

impl Phone {
    /// Binds the SIP socket and starts. Call it inside a tokio runtime.
    pub fn start(settings: PhoneSettings, network: Arc<dyn Network>) -> io::Result<Phone> {
        let socket = network.bind(settings.sip)?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let media = Arc::new(Media::start(settings.party, settings.voices.clone())?);
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (published, calls) = watch::channel(BTreeMap::new());
        let task = Task {
            settings,
            network,
            socket,
            media: Arc::clone(&media),
            calls: BTreeMap::new(),
            by_call_id: BTreeMap::new(),
            published,
        };
        tokio::spawn(task.run(inbox));
        Ok(Phone {
            orders,
            calls,
            media,
        })
    }

    /// Places a call.
    pub async fn dial(&self, index: CallIndex) -> Result<(), PhoneGone> {
        self.order(Order::Dial(index)).await
    }

    /// Answers a call that rings.
    pub async fn answer(&self, index: CallIndex) -> Result<(), PhoneGone> {
        self.order(Order::Answer(index)).await
    }

    /// Ends an established call.
    pub async fn hang_up(&self, index: CallIndex) -> Result<(), PhoneGone> {
        self.order(Order::HangUp(index)).await
    }

    async fn order(&self, order: Order) -> Result<(), PhoneGone> {
        self.orders.send(order).await.map_err(|_| PhoneGone)
    }

    /// Every call as it stands.
    pub fn calls(&self) -> BTreeMap<CallIndex, CallReport> {
        self.calls.borrow().clone()
    }

    /// Waits until all of `calls` are as `wanted`, at most `limit`; returns those that are not.
    pub async fn await_calls(
        &self,
        calls: &[CallIndex],
        limit: Duration,
        wanted: impl Fn(&CallReport) -> bool,
    ) -> Vec<CallIndex> {
        let missing = |reports: &BTreeMap<CallIndex, CallReport>| -> Vec<CallIndex> {
            let is_wanted = |index: &&CallIndex| reports.get(index).is_some_and(&wanted);
            calls
                .iter()
                .filter(|index| !is_wanted(index))
                .copied()
                .collect()
        };
        let mut watched = self.calls.clone();
        let all = watched.wait_for(|reports| missing(reports).is_empty());
        // Whether the time passed or the phone is gone, the list says what is missing.
        let _ = tokio::time::timeout(limit, all).await;
        missing(&self.calls.borrow())
    }

    /// The phone's streams.
    pub fn media(&self) -> &Media {
        &self.media
    }
}

struct Task {
    settings: PhoneSettings,
    network: Arc<dyn Network>,
    socket: tokio::net::UdpSocket,
    media: Arc<Media>,
    calls: BTreeMap<CallIndex, Call>,
    by_call_id: BTreeMap<String, CallIndex>,
    published: watch::Sender<BTreeMap<CallIndex, CallReport>>,
}

impl Task {
    /// Ends when the [`Phone`] is dropped or the socket fails.
    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let deadline = self.calls.values().filter_map(Call::poll_timeout).min();
            let wait = deadline.map_or(Duration::MAX, |at| at.saturating_sub(boottime()));
            // Far in the future when no timer runs; both other branches interrupt it.
            let wake = Instant::now() + wait.min(Duration::from_secs(3_600));
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(order) => self.handle_order(order).await,
                    None => return,
                },
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, source)) => self.handle_datagram(&buffer[..length], source).await,
                    // A port-unreachable report from a host that is just being cut off: the timers
                    // care.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    Err(error) => {
                        tracing::warn!(%error, "SIP socket of a phone failed");
                        return;
                    }
                },
                () = tokio::time::sleep_until(wake) => self.handle_timeouts().await,
            }
        }
    }

    async fn handle_order(&mut self, order: Order) {
        let now = boottime();
        match order {
            Order::Dial(index) => self.dial(index, now).await,
            Order::Answer(index) => {
                if let Some(call) = self.calls.get_mut(&index) {
                    call.answer(now);
                }
                self.execute(index).await;
            }
            Order::HangUp(index) => {
                if let Some(call) = self.calls.get_mut(&index) {
                    call.hang_up(now);
                }
                self.execute(index).await;
            }
        }
    }

    async fn dial(&mut self, index: CallIndex, now: Duration) {
        if self.calls.contains_key(&index) || self.calls.len() >= MAX_CALLS {
            return tracing::warn!(%index, "refused to dial");
        }
        match self.open_line(index) {
            Ok(line) => {
                let call = Call::dial(line, self.random(index), now);
                self.insert(index, call).await;
            }
            Err(error) => tracing::warn!(%index, %error, "no RTP socket"),
        }
    }

    async fn handle_datagram(&mut self, datagram: &[u8], source: SocketAddr) {
        let now = boottime();
        let (message, identity) = match message::parse(datagram) {
            Ok(parsed) => parsed,
            Err(error) => return tracing::debug!(%source, %error, "unreadable SIP"),
        };
        let known = self.by_call_id.get(&identity.call_id).copied();
        let call = known.and_then(|index| self.calls.get_mut(&index));
        match (message, call) {
            (SipMessage::Request(request), Some(call)) => {
                call.handle_request(&request, &identity, source, now);
            }
            (SipMessage::Response(response), Some(call)) => {
                call.handle_response(&response, &identity, now);
            }
            (SipMessage::Request(request), None) => {
                return self
                    .handle_new_request(request, &identity, source, now)
                    .await;
            }
            (SipMessage::Response(_), None) => {
                return tracing::debug!(%source, "response to a call never placed");
            }
        }
        if let Some(index) = known {
            self.execute(index).await;
        }
    }

    async fn handle_new_request(
        &mut self,
        request: Request,
        identity: &Identity,
        source: SocketAddr,
        now: Duration,
    ) {
        let status = match request.method {
            Method::Invite if identity.to_tag.is_none() => {
                match self.take_call(request.clone(), identity, source, now).await {
                    Ok(()) => return,
                    Err(status) => status,
                }
            }
            // RFC 3261 section 17.1.1.3: an ACK is never answered.
            Method::Ack => return,
            Method::Options => 200,
            Method::Invite | Method::Bye | Method::Cancel | Method::Update => 481,
            _ => 501,
        };
        let bytes = message::response(
            &request,
            source,
            status,
            "stateless",
            Vec::new(),
            Vec::new(),
        );
        self.send(&bytes, source).await;
    }

    async fn take_call(
        &mut self,
        request: Request,
        identity: &Identity,
        source: SocketAddr,
        now: Duration,
    ) -> Result<(), u16> {
        let called = request.uri.user().and_then(CallIndex::from_called_number);
        let index = called
            .filter(|_| self.settings.party == Party::Callee)
            .ok_or(404_u16)?;
        if self.calls.contains_key(&index) || self.calls.len() >= MAX_CALLS {
            return Err(486);
        }
        let line = self.open_line(index).map_err(|error| {
            tracing::warn!(%index, %error, "no RTP socket");
            500_u16
        })?;
        let held = self.settings.held.contains(&index);
        let answer_at = (!held).then(|| now + self.settings.answer_after);
        let call = Call::ring(
            line,
            self.random(index),
            request,
            identity,
            source,
            answer_at,
        )
        .ok_or(400_u16)?;
        self.insert(index, call).await;
        Ok(())
    }

    async fn handle_timeouts(&mut self) {
        let now = boottime();
        let due = |call: &Call| call.poll_timeout().is_some_and(|at| at <= now);
        let due: Vec<CallIndex> = self
            .calls
            .iter()
            .filter(|(_, call)| due(call))
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            if let Some(call) = self.calls.get_mut(&index) {
                call.handle_timeout(now);
            }
            self.execute(index).await;
        }
    }

    /// Binding blocks for some ten microseconds; a call is set up once.
    fn open_line(&self, index: CallIndex) -> io::Result<Line> {
        let port = u32::from(self.settings.first_media_port) + 2 * index.0;
        let port = u16::try_from(port).map_err(|_| io::ErrorKind::AddrNotAvailable)?;
        let media = SocketAddr::new(self.settings.sip.ip(), port);
        self.media.open(index, self.network.bind(media)?)?;
        Ok(Line {
            index,
            here: self.settings.sip,
            media,
            proxy: self.settings.proxy,
        })
    }

    fn random(&self, index: CallIndex) -> StdRng {
        let party = u64::from(self.settings.party == Party::Callee);
        StdRng::seed_from_u64(
            self.settings.seed ^ (u64::from(index.0) << 1 | party).rotate_left(32),
        )
    }

    async fn insert(&mut self, index: CallIndex, call: Call) {
        self.by_call_id.insert(call.call_id().to_owned(), index);
        self.calls.insert(index, call);
        self.execute(index).await;
    }

    /// Carries out what a call commands, then publishes how it stands.
    async fn execute(&mut self, index: CallIndex) {
        while let Some(command) = self.calls.get_mut(&index).and_then(Call::next_command) {
            match command {
                Command::Send { bytes, to } => self.send(&bytes, to).await,
                Command::Talk { remote } => self.media.talk(index, remote),
                Command::Hush => self.media.hush(index),
            }
        }
        if let Some(call) = self.calls.get(&index) {
            let report = call.report().clone();
            self.published.send_modify(|calls| {
                calls.insert(index, report);
            });
        }
    }

    async fn send(&self, bytes: &[u8], to: SocketAddr) {
        // What cannot be sent is lost as on the wire; the retransmission timers are the remedy.
        if let Err(error) = self.socket.send_to(bytes, to).await {
            tracing::debug!(%to, %error, "SIP message not sent");
        }
    }
}
