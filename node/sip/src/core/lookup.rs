//! The index over the call table. It follows from the records alone, so a standby has it ready.

use bytes::Bytes;

use crate::record::{CALLER, CallRecord};
use crate::transaction::{ClientKey, ServerKey};

/// The ways a message finds its call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lookup {
    /// A response, by the branch of our request.
    Client(ClientKey),
    /// A repeat, or the ACK of a refusal.
    Server(ServerKey),
    /// A request inside a dialog: Call-ID and our tag.
    Dialog(Bytes, Bytes),
    /// A second copy of a caller's INVITE (RFC 3261 section 8.2.2.2): Call-ID, the caller's tag and CSeq.
    Merged(Bytes, Bytes, u32),
}

impl Lookup {
    /// Every way that leads to a record.
    pub(super) fn all_of(record: &CallRecord) -> Vec<Lookup> {
        let mut lookups = Vec::with_capacity(record.transactions.len() + record.legs.len() + 1);
        for transaction in &record.transactions {
            lookups.extend(transaction.machine.client_key().map(Lookup::Client));
            lookups.extend(transaction.machine.server_key().map(Lookup::Server));
        }
        for leg in &record.legs {
            lookups.push(Lookup::Dialog(leg.call_id.clone(), leg.local_tag.clone()));
        }
        let caller = record.legs.get(CALLER);
        let exchange = record
            .exchanges
            .iter()
            .find(|exchange| exchange.from_leg as usize == CALLER);
        if let (Some(caller), Some(exchange)) = (caller, exchange) {
            lookups.push(Lookup::Merged(
                caller.call_id.clone(),
                caller.remote_tag.clone(),
                exchange.server_sequence,
            ));
        }
        lookups
    }
}
