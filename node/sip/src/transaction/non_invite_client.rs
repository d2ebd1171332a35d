//! Non-INVITE client transaction (RFC 3261 section 17.1.2).

use super::invite_client::{Context, Event};
use super::timers::{Retransmission, TimerConfig, earliest};
use super::{Output, ResponseClass};
use crate::time::Timestamp;

/// ```text
///                                   |Request from TU
///                                   |send request
///               Timer E             V
///               send request  +-----------+
///                   +---------|           |-------------------+
///                   |         |  Trying   |  Timer F          |
///                   +-------->|           |  or Transport Err.|
///                             +-----------+  inform TU        |
///                200-699         |  |                         |
///                resp. to TU     |  |1xx                      |
///                +---------------+  |resp. to TU              |
///                |                  |                         |
///                |   Timer E        V       Timer F           |
///                |   send req +-----------+ or Transport Err. |
///                |  +---------|           | inform TU         |
///                |  |         |Proceeding |------------------>|
///                |  +-------->|           |-----+             |
///                |            +-----------+     |1xx          |
///                |              |      ^        |resp to TU   |
///                | 200-699      |      +--------+             |
///                | resp. to TU  |                             |
///                |              V                             |
///                |            +-----------+                   |
///                |            |           |                   |
///                |            | Completed |                   |
///                +----------->|           |                   |
///                             +-----------+                   |
///                              ^   |                          |
///                              |   | Timer K                  |
///                              +---+ -                        |
///                                   V                         |
///                             +-----------+                   |
///                             |           |                   |
///                             | Terminated|<------------------+
///                             |           |
///                             +-----------+
/// ```
/// (RFC 3261 figure 6.) An absent state is Terminated.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NonInviteClient {
    #[prost(oneof = "State", tags = "1, 2, 3")]
    state: Option<State>,
}

#[derive(Clone, Copy, PartialEq, prost::Oneof)]
enum State {
    #[prost(message, tag = "1")]
    Trying(Waiting),
    #[prost(message, tag = "2")]
    Proceeding(Waiting),
    #[prost(message, tag = "3")]
    Completed(Completed),
}

/// Trying and Proceeding carry the same timers.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Waiting {
    /// Timer E.
    #[prost(message, optional, tag = "1")]
    retransmission: Option<Retransmission>,
    /// Timer F.
    #[prost(uint64, tag = "2")]
    give_up_at: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Completed {
    /// Timer K.
    #[prost(uint64, tag = "1")]
    until: u64,
}

impl NonInviteClient {
    pub(super) fn start(context: &Context<'_>) -> NonInviteClient {
        let Context {
            now,
            timers,
            reliable,
            ..
        } = *context;
        let waiting = Waiting {
            retransmission: Retransmission::start(now, timers, reliable),
            give_up_at: (now + timers.give_up()).as_millis(),
        };
        NonInviteClient {
            state: Some(State::Trying(waiting)),
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
            State::Trying(waiting) | State::Proceeding(waiting) => {
                let retransmission = waiting.retransmission.map(|schedule| schedule.at());
                earliest(retransmission, Some(Timestamp(waiting.give_up_at)))
            }
            State::Completed(completed) => Some(Timestamp(completed.until)),
        }
    }

    pub(super) fn rearm(&mut self, now: Timestamp, timers: &TimerConfig) {
        match &mut self.state {
            Some(State::Trying(waiting) | State::Proceeding(waiting)) => {
                waiting.retransmission = waiting
                    .retransmission
                    .and_then(|_| Retransmission::start(now, timers, false));
            }
            Some(State::Completed(_)) | None => {}
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
}

impl State {
    fn step(self, event: Event<'_>, context: &Context<'_>, out: &mut Vec<Output>) -> Option<State> {
        use ResponseClass::{Failure, Provisional, Success};
        match (self, event) {
            (
                State::Trying(waiting) | State::Proceeding(waiting),
                Event::Response(Provisional, _),
            ) => {
                out.push(Output::Deliver);
                Some(State::Proceeding(waiting))
            }
            (State::Trying(_) | State::Proceeding(_), Event::Response(Success | Failure, _)) => {
                out.push(Output::Deliver);
                let wait = context.timers.linger(context.reliable);
                let until = (context.now + wait).as_millis();
                (!wait.is_zero()).then_some(State::Completed(Completed { until }))
            }
            (State::Trying(waiting), Event::Timeout) => {
                let limit = context.timers.t2;
                waiting
                    .timeout(context, |schedule| schedule.next(context.now, limit), out)
                    .map(State::Trying)
            }
            // RFC 3261 section 17.1.2.2: in Proceeding "timer E MUST be reset to fire in T2 seconds".
            (State::Proceeding(waiting), Event::Timeout) => waiting
                .timeout(
                    context,
                    |_| Retransmission::after(context.now, context.timers.t2),
                    out,
                )
                .map(State::Proceeding),
            (State::Trying(_) | State::Proceeding(_), Event::TransportError) => {
                out.push(Output::Failed);
                None
            }

            // Response retransmissions are absorbed.
            (state @ State::Completed(_), Event::Response(Provisional | Success | Failure, _)) => {
                Some(state)
            }
            (State::Completed(completed), Event::Timeout) => {
                (context.now < Timestamp(completed.until)).then_some(State::Completed(completed))
            }
            (state @ State::Completed(_), Event::TransportError) => Some(state),
        }
    }
}

impl Waiting {
    fn timeout(
        mut self,
        context: &Context<'_>,
        next: impl FnOnce(Retransmission) -> Retransmission,
        out: &mut Vec<Output>,
    ) -> Option<Waiting> {
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
            self.retransmission = Some(next(schedule));
        }
        Some(self)
    }
}
