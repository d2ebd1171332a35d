//! Attempts that are given up: CANCEL, and what to do with answers that come all the same.

use super::exchange::{PATIENCE, refused};
use super::finish::end;
use super::outgoing::{Heading, built, request, start_client};
use super::{Context, Shows, setup};
use crate::cdr::EndCause;
use crate::flow::{Flow, FlowRecord};
use crate::message::{Message, Method};
use crate::record::{CallRecord, ExchangeState, ForkRecord, LegState, Role, is_due};

/// Gives silent targets up and tries the next one.
pub(super) fn target_silent(record: &mut CallRecord, context: &mut Context<'_>) {
    let silent: Vec<usize> = due_legs(record, |leg| is_due(leg.silent_deadline, context.now));
    for leg in silent {
        if record
            .legs
            .get(leg)
            .is_none_or(|leg| leg.state() != LegState::Early)
            || leg != record.callee()
        {
            continue;
        }
        context.effects.changed = true;
        abandon(record, leg, context);
        if setup::attempt_next(record, context).is_err() {
            end(record, EndCause::Unreachable, 408, context);
        }
    }
}

fn due_legs(
    record: &mut CallRecord,
    due: impl Fn(&crate::record::LegRecord) -> bool,
) -> Vec<usize> {
    let legs = record
        .legs
        .iter_mut()
        .enumerate()
        .filter(|(_, leg)| due(leg));
    legs.map(|(index, leg)| {
        leg.silent_deadline = None;
        index
    })
    .collect()
}

/// Gives an attempt up: CANCEL now or with the first provisional response (RFC 3261 section 9.1).
pub(super) fn abandon(record: &mut CallRecord, leg: usize, context: &mut Context<'_>) {
    for exchange in &mut record.exchanges {
        if exchange.to_leg as usize == leg && exchange.state() != ExchangeState::Confirmed {
            exchange.client = 0;
        }
    }
    if let Some(leg) = record.legs.get_mut(leg) {
        leg.set_state(LegState::Abandoned);
        leg.silent_deadline = None;
    }
    cancel(record, leg, context);
}

/// Asks a leg to drop its INVITE.
pub(super) fn cancel(record: &mut CallRecord, leg: usize, context: &mut Context<'_>) {
    let Some(transaction) = open_invite(record, leg) else {
        return leave_abandoned(record, leg);
    };
    let (bytes, flow) = (transaction.machine.cancel(), transaction.machine.flow());
    let deadline = (context.now + context.config.timers.t1 * PATIENCE).0;
    let Some(leg_record) = record.legs.get_mut(leg) else {
        return;
    };
    leg_record.cancel_deadline.get_or_insert(deadline);
    context.effects.changed = true;
    match bytes {
        Some(bytes) => {
            leg_record.cancel_wanted = false;
            start_client(record, leg, Role::Alone, bytes, flow, context);
        }
        None => leg_record.cancel_wanted = true,
    }
}

pub(super) fn send_wanted_cancel(record: &mut CallRecord, leg: usize, context: &mut Context<'_>) {
    if record.legs.get(leg).is_some_and(|leg| leg.cancel_wanted) {
        cancel(record, leg, context);
    }
}

/// RFC 3261 section 9.1: without a final response within 64*T1 the client "SHOULD then consider the original
/// transaction cancelled and SHOULD destroy the client transaction".
pub(super) fn cancel_unanswered(record: &mut CallRecord, context: &mut Context<'_>) {
    let now = context.now;
    let due: Vec<usize> = record
        .legs
        .iter()
        .enumerate()
        .filter(|(_, leg)| is_due(leg.cancel_deadline, now))
        .map(|(index, _)| index)
        .collect();
    context.effects.changed = true;
    for leg in due {
        let client = open_invite(record, leg).map(|transaction| transaction.id);
        record
            .transactions
            .retain(|transaction| Some(transaction.id) != client);
        leave_abandoned(record, leg);
        let waiting = record.exchanges.iter().position(|exchange| {
            Some(exchange.client) == client && exchange.state() == ExchangeState::Pending
        });
        if let Some(index) = waiting {
            refused(record, index, 487, None, EndCause::PartyLost, context);
        }
    }
}

/// The INVITE of ours on a leg that has no final response. Earlier ones may linger beside it (RFC 6026).
fn open_invite(record: &CallRecord, leg: usize) -> Option<&crate::record::CallTransaction> {
    record.transactions.iter().find(|transaction| {
        transaction.leg as usize == leg
            && transaction.role() == Role::Exchange
            && (transaction.machine.is_calling() || transaction.machine.cancel().is_some())
    })
}

pub(super) fn leave_abandoned(record: &mut CallRecord, leg: usize) {
    if let Some(leg) = record.legs.get_mut(leg) {
        leg.cancel_wanted = false;
        leg.cancel_deadline = None;
        if leg.state() == LegState::Abandoned {
            leg.set_state(LegState::Gone);
        }
    }
}

/// A 2xx nobody waits for: another fork answered, or the call was over before. RFC 3261 section 13.2.2.4: it is
/// acknowledged and hung up. When its dialog is the leg's own, the leg's BYE does the second part.
pub(super) fn hang_up_fork(
    record: &mut CallRecord,
    index: usize,
    response: &Message,
    context: &mut Context<'_>,
) {
    let Some(leg) = record.legs.get(index) else {
        return;
    };
    let tag = response.to_tag().unwrap_or_default();
    if let Some(fork) = leg.forks.iter().find(|fork| fork.remote_tag == tag) {
        if let Some(flow) = &fork.flow {
            context
                .effects
                .send(fork.ack.clone(), Flow::from(flow), Shows::Known);
        }
        return;
    }
    if leg.forks.len() >= context.config.limits.forks {
        context.counters.forks_dropped += 1;
        return;
    }
    let own_dialog = !leg.remote_tag.is_empty() && leg.remote_tag == tag;
    let mut dialog = leg.clone();
    dialog.learn_from_response(response);
    dialog.local_sequence += 1;
    let Some(flow) = dialog.next_hop() else {
        return;
    };
    let ack = request(
        &dialog,
        &Heading::new(Method::Ack, response.cseq().0),
        context,
    );
    let Some(ack) = built(ack, context) else {
        return;
    };
    context.effects.send(ack.clone(), flow, Shows::New);
    if !own_dialog {
        let bye = request(
            &dialog,
            &Heading::new(Method::Bye, dialog.local_sequence),
            context,
        );
        if let Some(bye) = built(bye, context) {
            start_client(record, index, Role::Alone, bye, flow, context);
        }
        context.counters.forks_hung_up += 1;
    }
    if let Some(leg) = record.legs.get_mut(index) {
        let fork = ForkRecord {
            remote_tag: dialog.remote_tag,
            ack,
            flow: Some(FlowRecord::from(flow)),
        };
        leg.forks.push(fork);
    }
}
