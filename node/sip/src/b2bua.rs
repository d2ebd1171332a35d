//! The back-to-back user agent: a function over a call's record.
//!
//! ```text
//!            INVITE                 2xx from a target            ACK
//!   (none) ----------> Calling ------------------> Answered ----------> Established
//!                         |                           |                      |
//!     CANCEL, refusal,    |           BYE, no ACK     |      BYE, lost party |
//!     no answer           +-----------------+---------+----------------------+
//!                                           v
//!                                         Ended  -- last transaction gone --> (none)
//! ```
//!
//! The phases are those of the caller's INVITE (RFC 3261 sections 13 to 15). Each leg has a dialog and transactions
//! of its own; an INVITE passing from one leg to the other is an exchange, the first one and every re-INVITE alike.
//! A step reads one input and leaves effects: messages, a changed media plan, a call detail record. Nothing here
//! knows a table, a log or a socket.
//!
//! Hunting: the next target is tried when one is silent, times out, or answers 408, 430 or 5xx other than 501, 505 and
//! 513 (those judge the message, which the next target would get unchanged), and only until the first provisional
//! response above 100 went to the caller.

mod attempts;
mod exchange;
mod finish;
mod headers;
mod media;
mod outgoing;
mod phase;
mod relay;
mod requests;
mod setup;

use bytes::Bytes;
use rand::rngs::StdRng;

use crate::cdr::CdrRecord;
use crate::command::{MediaPorts, TimerReason};
use crate::config::SipConfig;
use crate::counters::Counters;
use crate::flow::Flow;
use crate::message::{Message, Method};
use crate::record::{CallRecord, ExchangeState, LegState, Role, is_due};
use crate::time::Timestamp;
use crate::transaction::{Input as Stimulus, Kind, Output};

pub(crate) use media::{plan, ports};
pub(crate) use outgoing::{Identity, Refusal, refuse_statelessly};
pub(crate) use setup::{capabilities, create};

/// Methods a realm's Allow header names (RFC 3261 section 20.5).
pub(crate) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, MESSAGE";

/// What happens to a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input<'a> {
    /// A request of one of the call's transactions or dialogs.
    Request { message: &'a Message, source: Flow },
    /// A response to one of the call's client transactions.
    Response { message: &'a Message },
    /// At least one deadline of the record has come.
    Timeout,
    /// This node has become the owner of a record it did not write, or wrote in an earlier epoch.
    Takeover,
}

/// What a step may read and where it leaves its effects.
pub(crate) struct Context<'a> {
    pub config: &'a SipConfig,
    pub identity: Identity,
    pub now: Timestamp,
    pub rng: &'a mut StdRng,
    pub ports: &'a mut dyn MediaPorts,
    pub counters: &'a mut Counters,
    pub effects: Effects,
}

#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub sends: Vec<Outgoing>,
    /// The record must be replicated.
    pub changed: bool,
    /// The media plan must be given out again.
    pub media_changed: bool,
    /// Epoch and sequence are still to be filled in.
    pub cdr: Option<CdrRecord>,
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    pub bytes: Bytes,
    pub flow: Flow,
    pub shows: Shows,
}

/// What a message tells its receiver, which decides when it may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// Nothing new, but what it repeats or judges may not be committed yet.
    Known,
    /// A new state. 100 Trying is one: the caller stops repeating its INVITE, so from then on the call is ours to
    /// keep.
    New,
}

impl Effects {
    pub(crate) fn send(&mut self, bytes: Bytes, flow: Flow, shows: Shows) {
        self.changed |= shows == Shows::New;
        self.sends.push(Outgoing { bytes, flow, shows });
    }
}

/// One step of one call.
pub(crate) fn step(record: &mut CallRecord, input: Input<'_>, context: &mut Context<'_>) {
    match input {
        Input::Request { message, source } => requests::receive(record, message, source, context),
        Input::Response { message } => receive_response(record, message, context),
        Input::Timeout => time_out(record, context),
        Input::Takeover => take_over(record, context),
    }
    let busy = !record.transactions.is_empty();
    tidy(record);
    // Nothing shows that the last transaction of a call that is up has ended, but a standby that is not told keeps the
    // messages of all of them, and with them half of the record, for as long as the call lasts.
    context.effects.changed |= busy && record.transactions.is_empty();
    debug_assert!(invariants_hold(record), "{record:?}");
}

/// What became of an input given to a transaction.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    delivered: bool,
    timed_out: bool,
    failed: bool,
}

fn advance(
    record: &mut CallRecord,
    id: u32,
    stimulus: Stimulus<'_>,
    context: &mut Context<'_>,
) -> Outcome {
    let mut outputs = Vec::new();
    let Some(transaction) = record.transaction_mut(id) else {
        return Outcome::default();
    };
    transaction
        .machine
        .step(stimulus, context.now, &context.config.timers, &mut outputs);
    let flow = transaction.machine.flow();
    dispatch(outputs, flow, context)
}

fn dispatch(outputs: Vec<Output>, flow: Flow, context: &mut Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    for output in outputs {
        match output {
            Output::Send {
                bytes,
                retransmission,
            } => {
                let shows = if retransmission {
                    Shows::Known
                } else {
                    Shows::New
                };
                context.effects.send(bytes, flow, shows);
            }
            Output::Deliver => outcome.delivered = true,
            Output::TimedOut => outcome.timed_out = true,
            Output::Failed => outcome.failed = true,
            // The machine remembers; `tidy` takes it out.
            Output::Terminated => {}
        }
    }
    outcome
}

fn receive_response(record: &mut CallRecord, response: &Message, context: &mut Context<'_>) {
    let key = Some(crate::transaction::ClientKey::of(response));
    let Some((id, role, leg)) = record
        .transactions
        .iter()
        .find(|transaction| transaction.machine.client_key() == key)
        .map(|transaction| (transaction.id, transaction.role(), transaction.leg as usize))
    else {
        context.counters.responses_stray += 1;
        return;
    };
    if !advance(record, id, Stimulus::Received(response), context).delivered {
        return;
    }
    match role {
        Role::Exchange => exchange::response(record, id, leg, response, context),
        Role::Relay => relay::response(record, id, response, context),
        Role::Alone => {}
    }
}

/// The client transaction ended without a final response.
fn give_up(record: &mut CallRecord, id: u32, outcome: Outcome, context: &mut Context<'_>) {
    let Some(transaction) = record.transaction(id) else {
        return;
    };
    let (role, kind, leg) = (
        transaction.role(),
        transaction.machine.kind(),
        transaction.leg as usize,
    );
    match kind {
        Some(Kind::InviteClient | Kind::NonInviteClient) => {}
        // Nobody acknowledged our refusal (timer H), or our response could not be sent: nothing follows from it.
        Some(Kind::InviteServer | Kind::NonInviteServer) | None => return,
    }
    // RFC 3261 section 8.1.3.1: a timeout is treated as 408, a transport error as 503.
    let status = if outcome.failed { 503 } else { 408 };
    match role {
        Role::Exchange => exchange::unanswered(record, id, leg, status, context),
        Role::Relay => relay::unanswered(record, id, status, context),
        Role::Alone => {}
    }
}

fn time_out(record: &mut CallRecord, context: &mut Context<'_>) {
    let now = context.now;
    let due: Vec<u32> = record
        .transactions
        .iter()
        .filter(|transaction| {
            transaction
                .machine
                .poll_timeout()
                .is_some_and(|deadline| deadline <= now)
        })
        .map(|transaction| transaction.id)
        .collect();
    for id in due {
        let outcome = advance(record, id, Stimulus::Timeout, context);
        if outcome.timed_out || outcome.failed {
            give_up(record, id, outcome, context);
        }
    }
    for reason in due_reasons(record, now) {
        match reason {
            TimerReason::Transaction => {}
            TimerReason::AcceptedRetransmission => exchange::repeat_accepted(record, context),
            TimerReason::AcknowledgementMissing => exchange::not_acknowledged(record, context),
            TimerReason::TargetSilent => attempts::target_silent(record, context),
            TimerReason::CancelUnanswered => attempts::cancel_unanswered(record, context),
            TimerReason::Ring => finish::no_answer(record, context),
            TimerReason::MaximumDuration => finish::too_long(record, context),
        }
    }
}

/// Every timer of a call: the one table.
pub(crate) fn timers(record: &CallRecord) -> impl Iterator<Item = (Timestamp, TimerReason)> {
    let transactions = record.transactions.iter().filter_map(|transaction| {
        Some((
            transaction.machine.poll_timeout()?,
            TimerReason::Transaction,
        ))
    });
    let exchanges = record.exchanges.iter().flat_map(|exchange| {
        [
            (exchange.retransmit_at, TimerReason::AcceptedRetransmission),
            (
                exchange.acknowledge_deadline,
                TimerReason::AcknowledgementMissing,
            ),
        ]
    });
    let legs = record.legs.iter().flat_map(|leg| {
        [
            (leg.silent_deadline, TimerReason::TargetSilent),
            (leg.cancel_deadline, TimerReason::CancelUnanswered),
        ]
    });
    let call = [
        (record.ring_deadline, TimerReason::Ring),
        (record.maximum_deadline, TimerReason::MaximumDuration),
    ];
    let fields = exchanges.chain(legs).chain(call);
    transactions.chain(fields.filter_map(|(deadline, reason)| Some((Timestamp(deadline?), reason))))
}

/// What is due beside transactions, earliest first and each reason once: its handler looks at every holder.
fn due_reasons(record: &CallRecord, now: Timestamp) -> Vec<TimerReason> {
    let mut due: Vec<(Timestamp, TimerReason)> = timers(record)
        .filter(|(deadline, _)| is_due(Some(deadline.0), now))
        .collect();
    due.sort_unstable();
    let mut reasons = Vec::new();
    for (_, reason) in due {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons
}

/// Retransmissions start anew, and what the old owner may have held back is shown: everything in the record is
/// committed.
fn take_over(record: &mut CallRecord, context: &mut Context<'_>) {
    let timers = context.config.timers;
    for transaction in &mut record.transactions {
        transaction.machine.rearm(context.now, &timers);
        // A provisional response is not repeated by a timer (RFC 3261 section 17.2.1), and the one that was held
        // would be lost.
        let provisional = transaction.machine.last_response().filter(|response| {
            response.starts_with(b"SIP/2.0 1")
                && transaction.machine.kind() == Some(Kind::InviteServer)
        });
        if let Some(response) = provisional.cloned() {
            context
                .effects
                .send(response, transaction.machine.flow(), Shows::Known);
        }
    }
    for exchange in &mut record.exchanges {
        if exchange.state() == ExchangeState::Accepted {
            exchange.retransmit_at = Some(context.now.0);
            exchange.retransmit_interval = crate::time::millis(timers.t1);
        }
    }
    let silent = context.now + context.config.call_timers.target_silent;
    for leg in &mut record.legs {
        // The old owner may have heard from the target without having replicated a mere 100.
        leg.silent_deadline = leg.silent_deadline.map(|deadline| deadline.max(silent.0));
    }
}

fn tidy(record: &mut CallRecord) {
    record
        .transactions
        .retain(|transaction| !transaction.machine.is_terminated());
    let transactions = &record.transactions;
    let is_open = |id: u32| transactions.iter().any(|transaction| transaction.id == id);
    record.exchanges.retain(|exchange| match exchange.state() {
        ExchangeState::Pending | ExchangeState::Accepted => true,
        ExchangeState::Confirmed | ExchangeState::Failed => {
            is_open(exchange.server) || is_open(exchange.client)
        }
    });
}

fn invariants_hold(record: &CallRecord) -> bool {
    let ended = record.phase() == crate::record::Phase::Ended;
    let pending = record
        .exchanges
        .iter()
        .any(|exchange| exchange.state() == ExchangeState::Pending);
    let early = record
        .legs
        .iter()
        .skip(1)
        .any(|leg| leg.state() == LegState::Early);
    // A call detail record exists exactly when the call is over, and an ended call waits for nobody's decision.
    record.cdr_written == ended
        && (!ended
            || (!pending && !early && record.streams.is_empty() && record.ring_deadline.is_none()))
}

/// The method as this side allows it.
fn is_supported(method: Method<'_>) -> bool {
    match method {
        Method::Invite
        | Method::Ack
        | Method::Bye
        | Method::Cancel
        | Method::Options
        | Method::Info
        | Method::Message => true,
        Method::Register
        | Method::Prack
        | Method::Update
        | Method::Subscribe
        | Method::Notify
        | Method::Refer
        | Method::Publish
        | Method::Other(_) => false,
    }
}
