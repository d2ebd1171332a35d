//! Non-INVITE server transaction (RFC 3261 section 17.2.2).

use bytes::Bytes;

use super::invite_server::{Context, Event};
use super::{Output, ResponseClass};
use crate::time::Timestamp;

/// ```text
///                                  |Request received
///                                  |pass to TU
///                                  V
///                            +-----------+
///                            |           |
///                            | Trying    |-------------+
///                            |           |             |
///                            +-----------+             |200-699 from TU
///                                  |                   |send response
///                                  |1xx from TU        |
///                                  |send response      |
///                                  |                   |
///               Request            V      1xx from TU  |
///               send response+-----------+send response|
///                   +--------|           |--------+    |
///                   |        | Proceeding|        |    |
///                   +------->|           |<-------+    |
///            +<--------------|           |             |
///            |Trnsprt Err    +-----------+             |
///            |Inform TU            |                   |
///            |                     |                   |
///            |                     |200-699 from TU    |
///            |                     |send response      |
///            |  Request            V                   |
///            |  send response+-----------+             |
///            |      +--------|           |             |
///            |      |        | Completed |<------------+
///            |      +------->|           |
///            +<--------------|           |
///            |Trnsprt Err    +-----------+
///            |Inform TU            |
///            |                     |Timer J fires
///            |                     |-
///            |                     |
///            |                     V
///            |               +-----------+
///            |               |           |
///            +-------------->| Terminated|
///                            |           |
///                            +-----------+
/// ```
/// (RFC 3261 figure 8.) An absent state is Terminated.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NonInviteServer {
    #[prost(oneof = "State", tags = "1, 2, 3")]
    state: Option<State>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum State {
    #[prost(message, tag = "1")]
    Trying(Trying),
    #[prost(message, tag = "2")]
    Proceeding(Proceeding),
    #[prost(message, tag = "3")]
    Completed(Completed),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Trying {}

#[derive(Clone, PartialEq, prost::Message)]
struct Proceeding {
    #[prost(bytes = "bytes", tag = "1")]
    response: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Completed {
    #[prost(bytes = "bytes", tag = "1")]
    response: Bytes,
    /// Timer J.
    #[prost(uint64, tag = "2")]
    until: u64,
}

impl NonInviteServer {
    pub(super) fn start() -> NonInviteServer {
        NonInviteServer {
            state: Some(State::Trying(Trying {})),
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
            State::Trying(Trying {}) | State::Proceeding(_) => None,
            State::Completed(completed) => Some(Timestamp(completed.until)),
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.state.is_none()
    }

    pub(super) fn state_name(&self) -> &'static str {
        match &self.state {
            Some(State::Trying(_)) => "trying",
            Some(State::Proceeding(_)) => "proceeding",
            Some(State::Completed(_)) => "completed",
            None => "terminated",
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, Some(State::Trying(_) | State::Proceeding(_)))
    }

    pub(super) fn last_response(&self) -> Option<&Bytes> {
        match self.state.as_ref()? {
            State::Trying(Trying {}) => None,
            State::Proceeding(proceeding) => Some(&proceeding.response),
            State::Completed(completed) => Some(&completed.response),
        }
    }
}

impl State {
    fn step(self, event: Event<'_>, context: &Context<'_>, out: &mut Vec<Output>) -> Option<State> {
        use ResponseClass::{Failure, Provisional, Success};
        match (self, event) {
            (State::Trying(_) | State::Proceeding(_), Event::Response(Provisional, response)) => {
                send(response, false, out);
                Some(State::Proceeding(Proceeding {
                    response: response.clone(),
                }))
            }
            (
                State::Trying(_) | State::Proceeding(_),
                Event::Response(Success | Failure, response),
            ) => {
                send(response, false, out);
                let wait = context.timers.timer_j(context.reliable);
                let until = (context.now + wait).as_millis();
                let completed = Completed {
                    response: response.clone(),
                    until,
                };
                (!wait.is_zero()).then_some(State::Completed(completed))
            }
            // Retransmissions are discarded until there is something to answer them with.
            (state @ State::Trying(_), Event::Request) => Some(state),
            (State::Proceeding(proceeding), Event::Request) => {
                send(&proceeding.response, true, out);
                Some(State::Proceeding(proceeding))
            }
            (State::Completed(completed), Event::Request) => {
                send(&completed.response, true, out);
                Some(State::Completed(completed))
            }
            // RFC 3261 section 17.2.2: other final responses "MUST be discarded while in the Completed state".
            (state @ State::Completed(_), Event::Response(Provisional | Success | Failure, _)) => {
                Some(state)
            }
            (State::Completed(completed), Event::Timeout) => {
                (context.now < Timestamp(completed.until)).then_some(State::Completed(completed))
            }
            (state @ (State::Trying(_) | State::Proceeding(_)), Event::Timeout) => Some(state),
            // Nothing was sent yet.
            (state @ State::Trying(_), Event::TransportError) => Some(state),
            (State::Proceeding(_) | State::Completed(_), Event::TransportError) => {
                out.push(Output::Failed);
                None
            }
            (
                state @ (State::Trying(_) | State::Proceeding(_) | State::Completed(_)),
                Event::Ack,
            ) => Some(state),
        }
    }
}

fn send(response: &Bytes, retransmission: bool, out: &mut Vec<Output>) {
    out.push(Output::Send {
        bytes: response.clone(),
        retransmission,
    });
}
