//! A call as plain data: the only representation of a call there is.
//!
//! The B2BUA is a function over it, the log carries it, the standby keeps it in the table it would serve from.
//! Field numbers are for ever: a new field takes a new number, a removed one leaves its number reserved. A reader
//! skips numbers it does not know, and a missing field reads as its default, so neighbours of a version understand
//! each other.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use prost::Message as _;

use crate::flow::{Flow, FlowRecord, RealmId};
use crate::time::Timestamp;
use crate::transaction::TransactionRecord;

/// Written into every record, for diagnosis only: compatibility rests on field numbers, not on comparing versions.
pub const RECORD_VERSION: u32 = 1;

/// Index of the caller's leg and of the caller's side of a stream.
pub const CALLER: usize = 0;
/// Index of the callee's side of a stream. Legs 1 and up are attempts; [`CallRecord::callee`] names the current one.
pub const CALLEE: usize = 1;

/// Unique and ordered: epoch in the upper half, a counter in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub u64);

impl CallKey {
    pub fn new(epoch: u64, counter: u32) -> CallKey {
        CallKey(epoch << 32 | u64::from(counter))
    }

    pub fn epoch(self) -> u64 {
        self.0 >> 32
    }
}

/// Tags 1..=15 take one byte on the wire and go to what every record has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CallRecord {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(fixed64, tag = "2")]
    pub key: u64,
    #[prost(enumeration = "Phase", tag = "3")]
    pub phase: i32,
    /// The caller, then one leg per attempt.
    #[prost(message, repeated, tag = "4")]
    pub legs: Vec<LegRecord>,
    /// Index of the attempt that is the callee.
    #[prost(uint32, tag = "5")]
    pub callee: u32,
    /// Drawn when the call arrived; what is left of it.
    #[prost(message, repeated, tag = "6")]
    pub targets_left: Vec<FlowRecord>,
    #[prost(message, repeated, tag = "7")]
    pub exchanges: Vec<ExchangeRecord>,
    #[prost(message, repeated, tag = "8")]
    pub transactions: Vec<CallTransaction>,
    /// One per media line, in order.
    #[prost(message, repeated, tag = "9")]
    pub streams: Vec<StreamRecord>,
    /// Last transaction id given.
    #[prost(uint32, tag = "10")]
    pub last_id: u32,
    #[prost(uint64, optional, tag = "11")]
    pub ring_deadline: Option<u64>,
    #[prost(uint64, optional, tag = "12")]
    pub maximum_deadline: Option<u64>,
    #[prost(message, required, tag = "13")]
    pub facts: Facts,
    /// A provisional response above 100 went to the caller: hunting is over.
    #[prost(bool, tag = "14")]
    pub shown: bool,
    /// The call detail record left in the batch that set this.
    #[prost(bool, tag = "15")]
    pub cdr_written: bool,
}

/// See the diagram above the `b2bua` module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    Calling = 0,
    Answered = 1,
    Established = 2,
    Ended = 3,
}

/// One side's dialog (RFC 3261 section 12), from the first message on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LegRecord {
    #[prost(uint32, tag = "1")]
    pub realm: u32,
    #[prost(enumeration = "LegState", tag = "2")]
    pub state: i32,
    #[prost(bytes = "bytes", tag = "3")]
    pub call_id: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub local_tag: Bytes,
    /// Empty until the peer's tag is known.
    #[prost(bytes = "bytes", tag = "5")]
    pub remote_tag: Bytes,
    /// Name and address without tag, as they stand in From and To.
    #[prost(bytes = "bytes", tag = "6")]
    pub local_address: Bytes,
    #[prost(bytes = "bytes", tag = "7")]
    pub remote_address: Bytes,
    #[prost(uint32, tag = "8")]
    pub local_sequence: u32,
    #[prost(uint32, optional, tag = "9")]
    pub remote_sequence: Option<u32>,
    #[prost(bytes = "bytes", tag = "10")]
    pub remote_target: Bytes,
    /// URIs with their parameters, in the order our requests use them.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub route_set: Vec<Bytes>,
    /// Where the peer's messages come from, or the target's address.
    #[prost(message, optional, tag = "12")]
    pub flow: Option<FlowRecord>,
    /// The Contact cannot be reached: requests go to `flow`.
    #[prost(bool, tag = "13")]
    pub behind_nat: bool,
    /// Origin of the descriptions we send on this leg.
    #[prost(uint64, tag = "14")]
    pub sdp_session: u64,
    #[prost(uint64, tag = "15")]
    pub sdp_version: u64,
    /// Of the last description sent, without its version: the version rises only with a change (RFC 3264 section 8).
    #[prost(fixed64, tag = "16")]
    pub sdp_fingerprint: u64,
    /// The peer's Allow list, if it sent one.
    #[prost(bytes = "bytes", optional, tag = "17")]
    pub allow: Option<Bytes>,
    /// A target that has sent nothing until then is given up.
    #[prost(uint64, optional, tag = "18")]
    pub silent_deadline: Option<u64>,
    /// After CANCEL the final response may stay away (RFC 3261 section 9.1).
    #[prost(uint64, optional, tag = "19")]
    pub cancel_deadline: Option<u64>,
    /// CANCEL must wait for a provisional response (RFC 3261 section 9.1).
    #[prost(bool, tag = "20")]
    pub cancel_wanted: bool,
    /// BYE must wait for the ACK of our 2xx (RFC 3261 section 15).
    #[prost(bool, tag = "21")]
    pub bye_wanted: bool,
    /// Answers we did not take: each was acknowledged and hung up.
    #[prost(message, repeated, tag = "22")]
    pub forks: Vec<ForkRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum LegState {
    /// No final answer yet.
    Early = 0,
    /// A dialog in the sense of RFC 3261 section 12.
    Confirmed = 1,
    /// Given up before an answer; an answer that still comes is hung up.
    Abandoned = 2,
    /// Refused, or hung up from either side.
    Gone = 3,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ForkRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub remote_tag: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub ack: Bytes,
    #[prost(message, optional, tag = "3")]
    pub flow: Option<FlowRecord>,
}

/// An INVITE on its way through us, the first one or a later one, and its three-way handshake on both sides.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExchangeRecord {
    /// Transaction on the side that asked.
    #[prost(uint32, tag = "1")]
    pub server: u32,
    /// Transaction on the side that is asked; changes with each attempt.
    #[prost(uint32, tag = "2")]
    pub client: u32,
    #[prost(uint32, tag = "3")]
    pub from_leg: u32,
    #[prost(uint32, tag = "4")]
    pub to_leg: u32,
    #[prost(enumeration = "ExchangeState", tag = "5")]
    pub state: i32,
    /// The INVITE came without an offer, so the 2xx carries it and the ACK the answer (RFC 3261 section 13.2.1).
    #[prost(bool, tag = "6")]
    pub late_offer: bool,
    #[prost(uint32, tag = "7")]
    pub server_sequence: u32,
    #[prost(uint32, tag = "8")]
    pub client_sequence: u32,
    /// The 2xx we sent, until its ACK comes (RFC 3261 section 13.3.1.4).
    #[prost(bytes = "bytes", tag = "9")]
    pub accepted: Bytes,
    #[prost(uint64, optional, tag = "10")]
    pub retransmit_at: Option<u64>,
    /// Milliseconds.
    #[prost(uint64, tag = "11")]
    pub retransmit_interval: u64,
    #[prost(uint64, optional, tag = "12")]
    pub acknowledge_deadline: Option<u64>,
    /// The ACK we sent, for repeated 2xx (RFC 3261 section 13.2.2.4).
    #[prost(bytes = "bytes", tag = "13")]
    pub ack: Bytes,
    #[prost(message, optional, tag = "14")]
    pub ack_flow: Option<FlowRecord>,
    /// Streams before this exchange: what it added goes when it fails.
    #[prost(uint32, tag = "15")]
    pub streams_before: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ExchangeState {
    /// Waiting for a final response.
    Pending = 0,
    /// 2xx passed on, its ACK not seen.
    Accepted = 1,
    /// Acknowledged.
    Confirmed = 2,
    /// Refused, or no longer wanted.
    Failed = 3,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CallTransaction {
    /// Unique in the record, from 1.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(uint32, tag = "2")]
    pub leg: u32,
    #[prost(enumeration = "Role", tag = "3")]
    pub role: i32,
    /// For [`Role::Relay`]: the transaction on the other side.
    #[prost(uint32, tag = "4")]
    pub partner: u32,
    #[prost(message, required, tag = "5")]
    pub machine: TransactionRecord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Role {
    /// INVITE of an [`ExchangeRecord`].
    Exchange = 0,
    /// Ends by itself: BYE, CANCEL, and requests we refused.
    Alone = 1,
    /// INFO or MESSAGE passed through.
    Relay = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StreamRecord {
    #[prost(message, required, tag = "1")]
    pub caller: StreamLegRecord,
    #[prost(message, required, tag = "2")]
    pub callee: StreamLegRecord,
    /// Negotiated and not rejected.
    #[prost(bool, tag = "3")]
    pub active: bool,
}

impl StreamRecord {
    pub fn leg(&self, side: usize) -> &StreamLegRecord {
        if side == CALLER {
            &self.caller
        } else {
            &self.callee
        }
    }

    pub fn leg_mut(&mut self, side: usize) -> &mut StreamLegRecord {
        if side == CALLER {
            &mut self.caller
        } else {
            &mut self.callee
        }
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct StreamLegRecord {
    /// Our port; zero while none is allocated.
    #[prost(uint32, tag = "1")]
    pub port: u32,
    #[prost(message, optional, tag = "2")]
    pub remote_rtp: Option<AddressRecord>,
    #[prost(message, optional, tag = "3")]
    pub remote_rtcp: Option<AddressRecord>,
    /// Source the relay locked on (RFC 7362).
    #[prost(message, optional, tag = "4")]
    pub latched: Option<AddressRecord>,
    /// The peer wants to receive.
    #[prost(bool, tag = "5")]
    pub send: bool,
    /// The peer may send.
    #[prost(bool, tag = "6")]
    pub receive: bool,
}

/// A socket address as 128 bits, IPv4 in its mapped form: every bit pattern is an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct AddressRecord {
    #[prost(fixed64, tag = "1")]
    high: u64,
    #[prost(fixed64, tag = "2")]
    low: u64,
    #[prost(uint32, tag = "3")]
    port: u32,
}

impl From<SocketAddr> for AddressRecord {
    fn from(address: SocketAddr) -> AddressRecord {
        let bits = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        }
        .to_bits();
        AddressRecord {
            high: (bits >> 64) as u64,
            low: bits as u64,
            port: u32::from(address.port()),
        }
    }
}

impl From<AddressRecord> for SocketAddr {
    fn from(record: AddressRecord) -> SocketAddr {
        let bits = u128::from(record.high) << 64 | u128::from(record.low);
        SocketAddr::from((Ipv6Addr::from_bits(bits).to_canonical(), record.port as u16))
    }
}

/// What the call detail record will say.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Facts {
    /// Unix milliseconds: INVITE received, first ringing, answer, end.
    #[prost(uint64, tag = "1")]
    pub start: u64,
    #[prost(uint64, optional, tag = "2")]
    pub ringing: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub answer: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub end: Option<u64>,
    /// URIs of the caller's From and of its Request-URI.
    #[prost(bytes = "bytes", tag = "5")]
    pub from: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    pub to: Bytes,
}

impl CallRecord {
    pub fn call_key(&self) -> CallKey {
        CallKey(self.key)
    }

    /// Index of the attempt that is the callee.
    pub fn callee(&self) -> usize {
        self.callee as usize
    }

    /// Which side of a stream a leg uses.
    pub fn side(leg: usize) -> usize {
        if leg == CALLER { CALLER } else { CALLEE }
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<CallRecord, prost::DecodeError> {
        CallRecord::decode(bytes)
    }

    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(self.encode_to_vec())
    }

    pub fn transaction(&self, id: u32) -> Option<&CallTransaction> {
        self.transactions
            .iter()
            .find(|transaction| transaction.id == id)
    }

    pub fn transaction_mut(&mut self, id: u32) -> Option<&mut CallTransaction> {
        self.transactions
            .iter_mut()
            .find(|transaction| transaction.id == id)
    }

    /// Nothing will be sent or answered any more: the record can go.
    pub fn is_finished(&self) -> bool {
        self.phase() == Phase::Ended
            && self.transactions.is_empty()
            && self
                .exchanges
                .iter()
                .all(|exchange| exchange.acknowledge_deadline.is_none())
    }

    pub fn realm_of(&self, leg: usize) -> RealmId {
        RealmId(self.legs.get(leg).map_or(0, |leg| leg.realm as u16))
    }
}

impl LegRecord {
    pub fn realm_id(&self) -> RealmId {
        RealmId(self.realm as u16)
    }

    /// The peer's own address, whatever its Contact says.
    pub fn peer_flow(&self) -> Option<Flow> {
        self.flow.as_ref().map(Flow::from)
    }
}

/// A deadline field that has come.
pub(crate) fn is_due(deadline: Option<u64>, now: Timestamp) -> bool {
    deadline.is_some_and(|deadline| deadline <= now.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The record as a later version might write it: fields this version does not know.
    #[derive(Clone, PartialEq, prost::Message)]
    struct LaterRecord {
        #[prost(uint32, tag = "1")]
        version: u32,
        #[prost(fixed64, tag = "2")]
        key: u64,
        #[prost(enumeration = "Phase", tag = "3")]
        phase: i32,
        #[prost(string, tag = "900")]
        mood: String,
        #[prost(message, optional, tag = "901")]
        more: Option<AddressRecord>,
    }

    #[test]
    fn fields_of_a_later_version_are_skipped() {
        let later = LaterRecord {
            version: 2,
            key: 5,
            phase: Phase::Established.into(),
            mood: "calm".into(),
            more: Some(AddressRecord::from(SocketAddr::from((
                [192, 0, 2, 1],
                5060,
            )))),
        };
        let record = CallRecord::from_bytes(&later.encode_to_vec()).unwrap();
        assert_eq!(
            (record.version, record.key, record.phase()),
            (2, 5, Phase::Established)
        );
    }

    #[test]
    fn an_unknown_phase_of_a_later_version_reads_as_the_default() {
        let later = LaterRecord {
            phase: 77,
            ..LaterRecord::default()
        };
        assert_eq!(
            CallRecord::from_bytes(&later.encode_to_vec())
                .unwrap()
                .phase(),
            Phase::Calling
        );
    }

    #[test]
    fn addresses_survive() {
        for text in ["192.0.2.1:5060", "[2001:db8::1]:65535", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(AddressRecord::from(address)), address);
        }
    }

    #[test]
    fn keys_rise_with_the_epoch() {
        assert!(CallKey::new(2, 0) > CallKey::new(1, u32::MAX));
        assert_eq!(CallKey::new(7, 9).epoch(), 7);
    }
}
