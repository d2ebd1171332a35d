//! Transactions: the four machines of RFC 3261 section 17 with the corrections of RFC 6026.
//!
//! A transaction is plain data inside its call's record, so it goes on at whichever node owns the pair: deadlines
//! are wall-clock, and the messages that may have to be sent again are part of it. [`TransactionRecord::step`] is a
//! function over that data; the transaction user acts on what it puts out.

mod derived;
mod invite_client;
mod invite_server;
mod key;
mod non_invite_client;
mod non_invite_server;
mod timers;

#[cfg(test)]
mod tests;

pub use invite_client::InviteClient;
pub use invite_server::InviteServer;
pub use key::{ClientKey, ServerKey};
pub use non_invite_client::NonInviteClient;
pub use non_invite_server::NonInviteServer;
pub use timers::{Retransmission, TimerConfig};

use bytes::Bytes;

use crate::flow::{Flow, FlowRecord};
use crate::message::{Message, Method};
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A message whose key is this transaction's.
    Received(&'a Message),
    /// Server: a response of the transaction user.
    Send(&'a Bytes),
    /// The deadline of [`TransactionRecord::poll_timeout`] has come; early calls do no harm.
    Timeout,
    TransportError,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Send {
        bytes: Bytes,
        /// The peer has been sent exactly this before: it reveals nothing new.
        retransmission: bool,
    },
    /// The received message is news to the transaction user.
    Deliver,
    /// No answer in time: the transaction user treats it as a 408 (RFC 3261 section 8.1.3.1), or as a missing ACK.
    TimedOut,
    /// The transport refused: the transaction user treats it as a 503 (RFC 3261 section 8.1.3.1).
    Failed,
    /// Always the last output.
    Terminated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    InviteClient,
    NonInviteClient,
    InviteServer,
    NonInviteServer,
}

/// One transaction as records carry it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransactionRecord {
    #[prost(message, required, tag = "1")]
    flow: FlowRecord,
    /// The request as sent or received.
    #[prost(bytes = "bytes", tag = "2")]
    request: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    key: Bytes,
    /// The transport needs no retransmission: timers A, D, E, G, I, J and K count as zero or never start.
    #[prost(bool, tag = "4")]
    reliable: bool,
    /// Absent only in a damaged record, which counts as terminated.
    #[prost(oneof = "Machine", tags = "5, 6, 7, 8")]
    machine: Option<Machine>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Machine {
    #[prost(message, tag = "5")]
    InviteClient(InviteClient),
    #[prost(message, tag = "6")]
    NonInviteClient(NonInviteClient),
    #[prost(message, tag = "7")]
    InviteServer(InviteServer),
    #[prost(message, tag = "8")]
    NonInviteServer(NonInviteServer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseClass {
    /// 1xx.
    Provisional,
    /// 2xx.
    Success,
    /// 3xx to 6xx.
    Failure,
}

impl TransactionRecord {
    /// Starts a client transaction: `out` gets the first `Send`. The method decides the kind; an ACK to a 2xx has
    /// no transaction and must not come here.
    pub fn client(
        request: &Message,
        flow: Flow,
        now: Timestamp,
        timers: &TimerConfig,
        out: &mut Vec<Output>,
    ) -> TransactionRecord {
        debug_assert!(
            request.is_request() && request.method() != Method::Ack,
            "no client transaction"
        );
        let bytes = request.bytes();
        let reliable = flow.transport.is_reliable();
        let context = invite_client::Context {
            request: bytes,
            reliable,
            now,
            timers,
        };
        let machine = match request.method() {
            Method::Invite => Machine::InviteClient(InviteClient::start(&context)),
            _ => Machine::NonInviteClient(NonInviteClient::start(&context)),
        };
        out.push(Output::Send {
            bytes: bytes.clone(),
            retransmission: false,
        });
        TransactionRecord {
            flow: flow.into(),
            request: bytes.clone(),
            key: ClientKey::of(request).as_bytes().clone(),
            reliable,
            machine: Some(machine),
        }
    }

    /// Starts a server transaction for a request that no other one matches. The request itself goes to the
    /// transaction user; an ACK starts none.
    pub fn server(request: &Message, flow: Flow) -> TransactionRecord {
        debug_assert!(
            request.is_request() && request.method() != Method::Ack,
            "no server transaction"
        );
        let machine = match request.method() {
            Method::Invite => Machine::InviteServer(InviteServer::start()),
            _ => Machine::NonInviteServer(NonInviteServer::start()),
        };
        TransactionRecord {
            flow: flow.into(),
            request: request.bytes().clone(),
            key: ServerKey::of(request).as_bytes().clone(),
            reliable: flow.transport.is_reliable(),
            machine: Some(machine),
        }
    }

    /// One transition. Inputs that mean nothing to the kind or state change nothing.
    pub fn step(
        &mut self,
        input: Input<'_>,
        now: Timestamp,
        timers: &TimerConfig,
        out: &mut Vec<Output>,
    ) {
        let reliable = self.reliable;
        let client = invite_client::Context {
            request: &self.request,
            reliable,
            now,
            timers,
        };
        let server = invite_server::Context {
            reliable,
            now,
            timers,
        };
        match &mut self.machine {
            Some(Machine::InviteClient(machine)) => {
                if let Some(event) = client_event(input) {
                    machine.step(event, &client, out);
                }
            }
            Some(Machine::NonInviteClient(machine)) => {
                if let Some(event) = client_event(input) {
                    machine.step(event, &client, out);
                }
            }
            Some(Machine::InviteServer(machine)) => {
                if let Some(event) = server_event(input) {
                    machine.step(event, &server, out);
                }
            }
            Some(Machine::NonInviteServer(machine)) => {
                if let Some(event) = server_event(input) {
                    machine.step(event, &server, out);
                }
            }
            None => {}
        }
    }

    pub fn poll_timeout(&self) -> Option<Timestamp> {
        match self.machine.as_ref()? {
            Machine::InviteClient(machine) => machine.poll_timeout(),
            Machine::NonInviteClient(machine) => machine.poll_timeout(),
            Machine::InviteServer(machine) => machine.poll_timeout(),
            Machine::NonInviteServer(machine) => machine.poll_timeout(),
        }
    }

    /// After a takeover: retransmission timers start over at T1 from `now`, because the peer may have heard
    /// nothing for a while; the deadlines at which the transaction gives up stay where they were.
    pub fn rearm(&mut self, now: Timestamp, timers: &TimerConfig) {
        match &mut self.machine {
            Some(Machine::InviteClient(machine)) => machine.rearm(now, timers),
            Some(Machine::NonInviteClient(machine)) => machine.rearm(now, timers),
            Some(Machine::InviteServer(machine)) => machine.rearm(now, timers),
            // Its only timer ends the transaction.
            Some(Machine::NonInviteServer(_)) | None => {}
        }
    }

    pub fn is_terminated(&self) -> bool {
        match &self.machine {
            Some(Machine::InviteClient(machine)) => machine.is_terminated(),
            Some(Machine::NonInviteClient(machine)) => machine.is_terminated(),
            Some(Machine::InviteServer(machine)) => machine.is_terminated(),
            Some(Machine::NonInviteServer(machine)) => machine.is_terminated(),
            None => true,
        }
    }

    /// For logs and tests.
    pub fn state_name(&self) -> &'static str {
        match &self.machine {
            Some(Machine::InviteClient(machine)) => machine.state_name(),
            Some(Machine::NonInviteClient(machine)) => machine.state_name(),
            Some(Machine::InviteServer(machine)) => machine.state_name(),
            Some(Machine::NonInviteServer(machine)) => machine.state_name(),
            None => "terminated",
        }
    }

    /// INVITE client: nothing has come back yet, so a CANCEL has to wait (RFC 3261 section 9.1).
    pub fn is_calling(&self) -> bool {
        match &self.machine {
            Some(Machine::InviteClient(machine)) => machine.is_calling(),
            Some(
                Machine::NonInviteClient(_)
                | Machine::InviteServer(_)
                | Machine::NonInviteServer(_),
            )
            | None => false,
        }
    }

    /// Server: no final response has been sent yet.
    pub fn awaits_response(&self) -> bool {
        match &self.machine {
            Some(Machine::InviteServer(machine)) => machine.is_proceeding(),
            Some(Machine::NonInviteServer(machine)) => machine.is_waiting(),
            Some(Machine::InviteClient(_) | Machine::NonInviteClient(_)) | None => false,
        }
    }

    pub fn kind(&self) -> Option<Kind> {
        match self.machine.as_ref()? {
            Machine::InviteClient(_) => Some(Kind::InviteClient),
            Machine::NonInviteClient(_) => Some(Kind::NonInviteClient),
            Machine::InviteServer(_) => Some(Kind::InviteServer),
            Machine::NonInviteServer(_) => Some(Kind::NonInviteServer),
        }
    }

    /// Client: where the request went. Server: where it came from.
    pub fn flow(&self) -> Flow {
        Flow::from(self.flow)
    }

    /// The request as sent or received.
    pub fn request(&self) -> &Bytes {
        &self.request
    }

    /// Server: the response a retransmitted request gets.
    pub fn last_response(&self) -> Option<&Bytes> {
        match self.machine.as_ref()? {
            Machine::InviteServer(machine) => machine.last_response(),
            Machine::NonInviteServer(machine) => machine.last_response(),
            Machine::InviteClient(_) | Machine::NonInviteClient(_) => None,
        }
    }

    pub fn client_key(&self) -> Option<ClientKey> {
        match self.machine.as_ref()? {
            Machine::InviteClient(_) | Machine::NonInviteClient(_) => {
                Some(ClientKey::from_record(self.key.clone()))
            }
            Machine::InviteServer(_) | Machine::NonInviteServer(_) => None,
        }
    }

    pub fn server_key(&self) -> Option<ServerKey> {
        match self.machine.as_ref()? {
            Machine::InviteServer(_) | Machine::NonInviteServer(_) => {
                Some(ServerKey::from_record(self.key.clone()))
            }
            Machine::InviteClient(_) | Machine::NonInviteClient(_) => None,
        }
    }

    /// The CANCEL of RFC 3261 section 9.1, to be sent in its own client transaction on the same flow. `None`
    /// unless this is an INVITE client transaction that has a provisional and no final response: before, it must
    /// wait; after, it has no effect.
    pub fn cancel(&self) -> Option<Bytes> {
        match self.machine.as_ref()? {
            Machine::InviteClient(machine) if machine.is_proceeding() => {
                derived::cancel(&self.request)
            }
            Machine::InviteClient(_)
            | Machine::NonInviteClient(_)
            | Machine::InviteServer(_)
            | Machine::NonInviteServer(_) => None,
        }
    }
}

impl ResponseClass {
    fn of(status: u16) -> ResponseClass {
        match status {
            ..=199 => ResponseClass::Provisional,
            200..=299 => ResponseClass::Success,
            300.. => ResponseClass::Failure,
        }
    }

    /// Of a response the transaction user has built.
    fn of_bytes(response: &[u8]) -> Option<ResponseClass> {
        let digits = response.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
        let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(ResponseClass::of(status))
    }
}

fn client_event(input: Input<'_>) -> Option<invite_client::Event<'_>> {
    match input {
        Input::Received(message) => {
            let class = ResponseClass::of(message.status()?);
            Some(invite_client::Event::Response(class, message))
        }
        Input::Send(_) => None,
        Input::Timeout => Some(invite_client::Event::Timeout),
        Input::TransportError => Some(invite_client::Event::TransportError),
    }
}

fn server_event(input: Input<'_>) -> Option<invite_server::Event<'_>> {
    match input {
        Input::Received(message) if !message.is_request() => None,
        Input::Received(message) => match message.method() {
            Method::Ack => Some(invite_server::Event::Ack),
            _ => Some(invite_server::Event::Request),
        },
        Input::Send(response) => {
            let class = ResponseClass::of_bytes(response)?;
            Some(invite_server::Event::Response(class, response))
        }
        Input::Timeout => Some(invite_server::Event::Timeout),
        Input::TransportError => Some(invite_server::Event::TransportError),
    }
}
