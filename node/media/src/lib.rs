#![forbid(unsafe_code)]
//! The media core: which packet goes where, and why not.
//!
//! A session is a set of streams, a stream has two legs, and each leg owns an even port for media and the odd
//! one above it for RTCP. [`Sessions::handle_packet`] looks at one datagram and answers with a [`Verdict`]; it
//! allocates nothing, reads no clock and touches no socket. [`PortPool`] hands out the ports.
//!
//! What the caller side of the border calls a plan ([`StreamPlan`]) is the whole desired state of a stream, so
//! setting it twice changes nothing and a standby can hold it without ever seeing a packet.

mod counters;
mod demux;
mod latch;
mod leg;
mod plan;
mod pool;
mod port;
mod reception;
mod sessions;

pub use counters::{DropCounters, DropReason, Traffic};
pub use latch::SETTLE;
pub use leg::LegStatistics;
pub use plan::{
    DEFAULT_CLOCK_RATE, LegPlan, MAX_STREAMS, PlanError, SessionKey, Side, StreamKind, StreamPlan,
};
pub use pool::PortPool;
pub use port::{LocalPort, RealmNumber};
pub use reception::Reception;
pub use sessions::{
    Event, MAX_PENDING_EVENTS, SessionStatistics, Sessions, StreamStatistics, Totals, Verdict,
};
