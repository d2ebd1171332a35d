//! INVITE client transaction (RFC 3261 section 17.1.1 as changed by RFC 6026 section 7.2).

use bytes::Bytes;

use super::derived;
use super::timers::{Retransmission, TimerConfig, earliest};
use super::{Output, ResponseClass};
use crate::message::Message;
use crate::time::Timestamp;

/// ```text
///                      |INVITE from TU
///    Timer A fires     |INVITE sent      Timer B fires
///    Reset A,          V                 or Transport Err.
///    INVITE sent +-----------+           inform TU
///      +---------|           |--------------------------+
///      |         |  Calling  |                          |
///      +-------->|           |-----------+              |
///   300-699      +-----------+ 2xx       |              |
///   ACK sent      |  | 1xx     2xx to TU |              |
///   resp. to TU   |  | 1xx to TU         |              |
///  +--------------+  V                   |              |
///  |             +-----------+           |              |
///  |             |           |---+ 1xx   |              |
///  |             |Proceeding |   | to TU |              |
///  |             |           |<--+       |              |
///  |             +-----------+ 2xx       |              |
///  |   300-699     |       | 2xx to TU   |              |
///  |   ACK sent    |       +-------------+--+           |
///  |   resp. to TU |                        |           |
///  |               V                        V           |
///  |             +-----------+        +-----------+     |
///  +------------>|           |--+     |           |--+  |
///     300-699    | Completed |  |     | Accepted  |  |2xx
///     ACK sent   |           |<-+     |           |<-+to TU
///                +-----------+        +-----------+     |
///      Timer D fires,  |                    | Timer M   |
///      or Transport Err|                    | fires     |
///      inform TU       V                    V           |
///                +--------------------------------+     |
///                |           Terminated           |<----+
///                +--------------------------------+
/// ```
/// (RFC 6026 figure 1.) An absent state is Terminated.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InviteClient {
    #[prost(oneof = "State", tags = "1, 2, 3, 4")]
    state: Option<State>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum State {
    #[prost(message, tag = "1")]
    Calling(Calling),
    #[prost(message, tag = "2")]
    Proceeding(Proceeding),
    #[prost(message, tag = "3")]
    Completed(Completed),
    #[prost(message, tag = "4")]
    Accepted(Accepted),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Calling {
    /// Timer A.
    #[prost(message, optional, tag = "1")]
    retransmission: Option<Retransmission>,
    /// Timer B.
    #[prost(uint64, tag = "2")]
    give_up_at: u64,
}

/// No timer runs here: how long a call may ring is the transaction user's matter (timer C).
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Proceeding {}

#[derive(Clone, PartialEq, prost::Message)]
struct Completed {
    #[prost(bytes = "bytes", tag = "1")]
    ack: Bytes,
    /// Timer D.
    #[prost(uint64, tag = "2")]
    until: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Accepted {
    /// Timer M.
    #[prost(uint64, tag = "1")]
    until: u64,
}

pub(super) struct Context<'a> {
    pub(super) request: &'a Bytes,
    pub(super) reliable: bool,
    pub(super) now: Timestamp,
    pub(super) timers: &'a TimerConfig,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    Response(ResponseClass, &'a Message),
    Timeout,
    TransportError,
}

impl InviteClient {
    pub(super) fn start(context: &Context<'_>) -> InviteClient {
        let Context {
            now,
            timers,
            reliable,
            ..
        } = *context;
        let calling = Calling {
            retransmission: Retransmission::start(now, timers, reliable),
            give_up_at: (now + timers.give_up()).as_millis(),
        };
        InviteClient {
            state: Some(State::Calling(calling)),
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
            State::Calling(calling) => {
                let retransmission = calling.retransmission.map(|schedule| schedule.at());
                earliest(retransmission, Some(Timestamp(calling.give_up_at)))
            }
            State::Proceeding(Proceeding {}) => None,
            State::Completed(completed) => Some(Timestamp(completed.until)),
            State::Accepted(accepted) => Some(Timestamp(accepted.until)),
        }
    }

    pub(super) fn rearm(&mut self, now: Timestamp, timers: &TimerConfig) {
        match &mut self.state {
            Some(State::Calling(calling)) => {
                calling.retransmission = calling
                    .retransmission
                    .and_then(|_| Retransmission::start(now, timers, false));
            }
            Some(State::Proceeding(_) | State::Completed(_) | State::Accepted(_)) | None => {}
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.state.is_none()
    }

    pub(super) fn state_name(&self) -> &'static str {
        match &self.state {
            Some(State::Calling(_)) => "calling",
            Some(State::Proceeding(_)) => "proceeding",
            Some(State::Completed(_)) => "completed",
            Some(State::Accepted(_)) => "accepted",
            None => "terminated",
        }
    }

    pub(super) fn is_calling(&self) -> bool {
        matches!(self.state, Some(State::Calling(_)))
    }

    pub(super) fn is_proceeding(&self) -> bool {
        matches!(self.state, Some(State::Proceeding(_)))
    }
}

impl State {
    fn step(self, event: Event<'_>, context: &Context<'_>, out: &mut Vec<Output>) -> Option<State> {
        use ResponseClass::{Failure, Provisional, Success};
        match (self, event) {
            (State::Calling(_) | State::Proceeding(_), Event::Response(Provisional, _)) => {
                out.push(Output::Deliver);
                Some(State::Proceeding(Proceeding {}))
            }
            (State::Calling(_) | State::Proceeding(_), Event::Response(Success, _)) => {
                out.push(Output::Deliver);
                let until = (context.now + context.timers.give_up()).as_millis();
                Some(State::Accepted(Accepted { until }))
            }
            (State::Calling(_) | State::Proceeding(_), Event::Response(Failure, response)) => {
                complete(response, context, out)
            }
            (State::Calling(calling), Event::Timeout) => calling.timeout(context, out),
            (State::Calling(_), Event::TransportError) => {
                out.push(Output::Failed);
                None
            }
            // Nothing was sent that could fail, and no timer runs.
            (state @ State::Proceeding(_), Event::Timeout | Event::TransportError) => Some(state),

            (State::Completed(completed), Event::Response(Failure, _)) => {
                out.push(Output::Send {
                    bytes: completed.ack.clone(),
                    retransmission: true,
                });
                Some(State::Completed(completed))
            }
            (state @ State::Completed(_), Event::Response(Provisional | Success, _)) => Some(state),
            (State::Completed(completed), Event::Timeout) => {
                (context.now < Timestamp(completed.until)).then_some(State::Completed(completed))
            }
            (State::Completed(_), Event::TransportError) => {
                out.push(Output::Failed);
                None
            }

            // RFC 6026 section 7.2: 2xx retransmissions and 2xx from other branches go to the TU, which sends the
            // ACK; everything else is stray.
            (state @ State::Accepted(_), Event::Response(Success, _)) => {
                out.push(Output::Deliver);
                Some(state)
            }
            (state @ State::Accepted(_), Event::Response(Provisional | Failure, _)) => Some(state),
            (State::Accepted(accepted), Event::Timeout) => {
                (context.now < Timestamp(accepted.until)).then_some(State::Accepted(accepted))
            }
            (state @ State::Accepted(_), Event::TransportError) => Some(state),
        }
    }
}

impl Calling {
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
                bytes: context.request.clone(),
                retransmission: true,
            });
            // Timer A doubles without a cap (RFC 3261 section 17.1.1.2); timer B ends it.
            let next = schedule.next(context.now, context.timers.give_up());
            self.retransmission = Some(next);
        }
        Some(State::Calling(self))
    }
}

/// 300-699: acknowledge and stay to acknowledge retransmissions (RFC 3261 section 17.1.1.2).
fn complete(response: &Message, context: &Context<'_>, out: &mut Vec<Output>) -> Option<State> {
    out.push(Output::Deliver);
    let ack = derived::ack(context.request, response)?;
    out.push(Output::Send {
        bytes: ack.clone(),
        retransmission: false,
    });
    let wait = context.timers.timer_d(context.reliable);
    let until = (context.now + wait).as_millis();
    (!wait.is_zero()).then_some(State::Completed(Completed { ack, until }))
}
