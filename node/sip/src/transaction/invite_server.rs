//! INVITE server transaction (RFC 3261 section 17.2.1 as changed by RFC 6026 section 7.1).

use bytes::Bytes;

use super::timers::{Retransmission, TimerConfig, earliest};
use super::{Output, ResponseClass};
use crate::time::Timestamp;

/// ```text
///                                    |INVITE
///                                    |pass INV to TU
///                 INVITE             V send 100 if TU won't in 200 ms
///                 send response+------------+
///                     +--------|            |--------+ 101-199 from TU
///                     |        |            |        | send response
///                     +------->|            |<-------+
///                              | Proceeding |
///                              |            |--------+ Transport Err.
///                              |            |        | Inform TU
///                              |            |<-------+
///                              +------------+
///                 300-699 from TU |    |2xx from TU
///                 send response   |    |send response
///                  +--------------+    +------------+
///                  |                                |
/// INVITE           V          Timer G fires         |
/// send response +-----------+ send response         |
///      +--------|           |--------+              |
///      |        |           |        |              |
///      +------->| Completed |<-------+      INVITE  |  Transport Err.
///               |           |               -       V  Inform TU
///      +--------|           |----+          +-----------+
///      |        +-----------+    | ACK      |           |---+ 2xx from TU
///      |          ^   |          | -        |           |   | send response
///      |          +---+          |       +--|  Accepted |<--+
///      | Transport Err.          V       |  |           |
///      | Inform TU         +-----------+ |  |           |---+ ACK
///      |                   |           | +->+-----------+   | to TU
///      |                   | Confirmed |        |   ^-------+
///      | Timer H fires     |           |        |
///      | inform TU         +-----------+        | Timer L fires
///      |                         | Timer I      |
///      V                         V fires        V
///    +-----------------------------------------------+
///    |                  Terminated                   |
///    +-----------------------------------------------+
/// ```
/// (RFC 6026 figure 2.) An absent state is Terminated. The 100 is sent by the transaction user, at once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InviteServer {
    #[prost(oneof = "State", tags = "1, 2, 3, 4")]
    state: Option<State>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum State {
    #[prost(message, tag = "1")]
    Proceeding(Proceeding),
    #[prost(message, tag = "2")]
    Completed(Completed),
    #[prost(message, tag = "3")]
    Confirmed(Lingering),
    #[prost(message, tag = "4")]
    Accepted(Accepted),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Proceeding {
    /// The last provisional response.
    #[prost(bytes = "bytes", optional, tag = "1")]
    response: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Completed {
    #[prost(bytes = "bytes", tag = "1")]
    response: Bytes,
    /// Timer G.
    #[prost(message, optional, tag = "2")]
    retransmission: Option<Retransmission>,
    /// Timer H.
    #[prost(uint64, tag = "3")]
    give_up_at: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Lingering {
    /// Timer I.
    #[prost(uint64, tag = "1")]
    until: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Accepted {
    #[prost(bytes = "bytes", tag = "1")]
    response: Bytes,
    /// Timer L.
    #[prost(uint64, tag = "2")]
    until: u64,
}

pub(super) struct Context<'a> {
    pub(super) reliable: bool,
    pub(super) now: Timestamp,
    pub(super) timers: &'a TimerConfig,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    /// The request again.
    Request,
    Ack,
    Response(ResponseClass, &'a Bytes),
    Timeout,
    TransportError,
}

impl InviteServer {
    pub(super) fn start() -> InviteServer {
        InviteServer {
            state: Some(State::Proceeding(Proceeding { response: None })),
        }
    }

    pub(super) fn step(&mut self, event: Event<'_>, context: &Context<'_>, out: &mut Vec<Output>) {
        let Some(state) = self.state.take() else {
            return;
        };
        self.state = state.step(event, context, out);
        if self.state.is_none() {
            out.push(Output::Terminated);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Timestamp> {
        match self.state.as_ref()? {
            State::Proceeding(_) => None,
            State::Completed(completed) => {
                let retransmission = completed.retransmission.map(|schedule| schedule.at());
                earliest(retransmission, Some(Timestamp(completed.give_up_at)))
            }
            State::Confirmed(lingering) => Some(Timestamp(lingering.until)),
            State::Accepted(accepted) => Some(Timestamp(accepted.until)),
        }
    }

    pub(super) fn rearm(&mut self, now: Timestamp, timers: &TimerConfig) {
        match &mut self.state {
            Some(State::Completed(completed)) => {
                completed.retransmission = completed
                    .retransmission
                    .and_then(|_| Retransmission::start(now, timers, false));
            }
            Some(State::Proceeding(_) | State::Confirmed(_) | State::Accepted(_)) | None => {}
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.state.is_none()
    }

    pub(super) fn state_name(&self) -> &'static str {
        match &self.state {
            Some(State::Proceeding(_)) => "proceeding",
            Some(State::Completed(_)) => "completed",
            Some(State::Confirmed(_)) => "confirmed",
            Some(State::Accepted(_)) => "accepted",
            None => "terminated",
        }
    }

    pub(super) fn is_proceeding(&self) -> bool {
        matches!(self.state, Some(State::Proceeding(_)))
    }

    pub(super) fn last_response(&self) -> Option<&Bytes> {
        match self.state.as_ref()? {
            State::Proceeding(proceeding) => proceeding.response.as_ref(),
            State::Completed(completed) => Some(&completed.response),
            State::Confirmed(_) => None,
            State::Accepted(accepted) => Some(&accepted.response),
        }
    }
}

impl State {
    fn step(self, event: Event<'_>, context: &Context<'_>, out: &mut Vec<Output>) -> Option<State> {
        use ResponseClass::{Failure, Provisional, Success};
        match (self, event) {
            (State::Proceeding(proceeding), Event::Request) => {
                if let Some(response) = &proceeding.response {
                    send(response, true, out);
                }
                Some(State::Proceeding(proceeding))
            }
            (State::Proceeding(_), Event::Response(Provisional, response)) => {
                send(response, false, out);
                Some(State::Proceeding(Proceeding {
                    response: Some(response.clone()),
                }))
            }
            (State::Proceeding(_), Event::Response(Success, response)) => {
                send(response, false, out);
                Some(State::Accepted(Accepted::start(response, context)))
            }
            (State::Proceeding(_), Event::Response(Failure, response)) => {
                send(response, false, out);
                Some(State::Completed(Completed::start(response, context)))
            }
            (State::Completed(completed), Event::Request) => {
                send(&completed.response, true, out);
                Some(State::Completed(completed))
            }
            (State::Completed(_), Event::Ack) => Lingering::start(context).map(State::Confirmed),
            (State::Completed(completed), Event::Timeout) => completed.timeout(context, out),
            (State::Confirmed(lingering), Event::Timeout) => {
                (context.now < Timestamp(lingering.until)).then_some(State::Confirmed(lingering))
            }
            // RFC 6026 section 7.1: the TU gets every ACK and retransmits the 2xx itself.
            (state @ State::Accepted(_), Event::Ack) => {
                out.push(Output::Deliver);
                Some(state)
            }
            (State::Accepted(accepted), Event::Response(Success, response)) => {
                send(response, accepted.response == *response, out);
                Some(State::Accepted(Accepted {
                    response: response.clone(),
                    ..accepted
                }))
            }
            (State::Accepted(accepted), Event::Timeout) => {
                (context.now < Timestamp(accepted.until)).then_some(State::Accepted(accepted))
            }
            // RFC 6026 section 7.1: a transport error no longer ends the transaction.
            (
                state @ (State::Proceeding(_) | State::Completed(_) | State::Accepted(_)),
                Event::TransportError,
            ) => {
                out.push(Output::Failed);
                Some(state)
            }
            // Absorbed: ACKs without a final response, requests repeated after the exchange is over, responses
            // after the final one.
            (state @ State::Proceeding(_), Event::Ack | Event::Timeout)
            | (state @ State::Completed(_), Event::Response(Provisional | Success | Failure, _))
            | (
                state @ State::Confirmed(_),
                Event::Request | Event::Ack | Event::TransportError | Event::Response(..),
            )
            | (
                state @ State::Accepted(_),
                Event::Request | Event::Response(Provisional | Failure, _),
            ) => Some(state),
        }
    }
}

impl Accepted {
    fn start(response: &Bytes, context: &Context<'_>) -> Accepted {
        let until = (context.now + context.timers.give_up()).as_millis();
        Accepted {
            response: response.clone(),
            until,
        }
    }
}

impl Lingering {
    /// `None` over a reliable transport, where nothing can come again.
    fn start(context: &Context<'_>) -> Option<Lingering> {
        let wait = context.timers.linger(context.reliable);
        let until = (context.now + wait).as_millis();
        (!wait.is_zero()).then_some(Lingering { until })
    }
}

impl Completed {
    fn start(response: &Bytes, context: &Context<'_>) -> Completed {
        let Context {
            now,
            timers,
            reliable,
        } = *context;
        Completed {
            response: response.clone(),
            retransmission: Retransmission::start(now, timers, reliable),
            give_up_at: (now + timers.give_up()).as_millis(),
        }
    }

    fn timeout(mut self, context: &Context<'_>, out: &mut Vec<Output>) -> Option<State> {
        if Timestamp(self.give_up_at) <= context.now {
            out.push(Output::TimedOut);
            return None;
        }
        if let Some(schedule) = self
            .retransmission
            .filter(|schedule| schedule.is_due(context.now))
        {
            out.push(Output::Send {
                bytes: self.response.clone(),
                retransmission: true,
            });
            self.retransmission = Some(schedule.next(context.now, context.timers.t2));
        }
        Some(State::Completed(self))
    }
}

fn send(response: &Bytes, retransmission: bool, out: &mut Vec<Output>) {
    out.push(Output::Send {
        bytes: response.clone(),
        retransmission,
    });
}
