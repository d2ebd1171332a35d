//! Call detail records: one per call that got as far as a second leg, written once, in the log entry that ends it.

/// Unique by (`epoch`, `sequence`). Times in Unix milliseconds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CdrRecord {
    /// Epoch of the owner under which the call ended.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// From 1 within an epoch, in order of call end.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Key of the call the record is about.
    #[prost(uint64, tag = "3")]
    pub call: u64,
    #[prost(string, tag = "4")]
    pub caller_call_id: String,
    #[prost(string, tag = "5")]
    pub callee_call_id: String,
    #[prost(string, tag = "6")]
    pub from: String,
    #[prost(string, tag = "7")]
    pub to: String,
    #[prost(string, tag = "8")]
    pub from_realm: String,
    #[prost(string, tag = "9")]
    pub to_realm: String,
    /// Address of the last target tried.
    #[prost(string, tag = "10")]
    pub target: String,
    #[prost(uint64, tag = "11")]
    pub start: u64,
    #[prost(uint64, optional, tag = "12")]
    pub ringing: Option<u64>,
    #[prost(uint64, optional, tag = "13")]
    pub answer: Option<u64>,
    #[prost(uint64, tag = "14")]
    pub end: u64,
    /// From answer to end; zero without an answer.
    #[prost(uint64, tag = "15")]
    pub duration_millis: u64,
    #[prost(enumeration = "CdrStatus", tag = "16")]
    pub status: i32,
    /// Final response to the caller's INVITE: 200 for an answered call.
    #[prost(uint32, tag = "17")]
    pub code: u32,
    #[prost(enumeration = "EndedBy", tag = "18")]
    pub ended_by: i32,
    /// Why the call ended, in a word or two.
    #[prost(string, tag = "19")]
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum CdrStatus {
    Completed = 0,
    Failed = 1,
    Cancelled = 2,
    NoAnswer = 3,
}

impl CdrStatus {
    pub fn text(self) -> &'static str {
        match self {
            CdrStatus::Completed => "Completed",
            CdrStatus::Failed => "Failed",
            CdrStatus::Cancelled => "Cancelled",
            CdrStatus::NoAnswer => "NoAnswer",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum EndedBy {
    Caller = 0,
    Callee = 1,
    /// A timer or a bound of ours.
    Border = 2,
}

impl EndedBy {
    pub fn text(self) -> &'static str {
        match self {
            EndedBy::Caller => "caller",
            EndedBy::Callee => "callee",
            EndedBy::Border => "border",
        }
    }
}

/// Everything that ends a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    CallerHungUp,
    CalleeHungUp,
    CallerCancelled,
    /// The last target refused, or the first one whose refusal counts.
    Refused,
    /// No target answered at all.
    Unreachable,
    RingTimeout,
    MaximumDuration,
    /// A 2xx of ours was never acknowledged.
    NotAcknowledged,
    /// A party did not know its dialog any more, or did not answer in it.
    PartyLost,
    /// A description that cannot be relayed came back in the answer.
    UnusableAnswer,
}

impl EndCause {
    pub fn ended_by(self) -> EndedBy {
        match self {
            EndCause::CallerHungUp | EndCause::CallerCancelled => EndedBy::Caller,
            EndCause::CalleeHungUp | EndCause::Refused => EndedBy::Callee,
            EndCause::Unreachable
            | EndCause::RingTimeout
            | EndCause::MaximumDuration
            | EndCause::NotAcknowledged
            | EndCause::PartyLost
            | EndCause::UnusableAnswer => EndedBy::Border,
        }
    }

    /// An answered call is completed, however it ended.
    pub fn status(self, answered: bool) -> CdrStatus {
        if answered {
            return CdrStatus::Completed;
        }
        match self {
            EndCause::CallerCancelled => CdrStatus::Cancelled,
            EndCause::RingTimeout => CdrStatus::NoAnswer,
            EndCause::CallerHungUp
            | EndCause::CalleeHungUp
            | EndCause::Refused
            | EndCause::Unreachable
            | EndCause::MaximumDuration
            | EndCause::NotAcknowledged
            | EndCause::PartyLost
            | EndCause::UnusableAnswer => CdrStatus::Failed,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            EndCause::CallerHungUp => "caller hung up",
            EndCause::CalleeHungUp => "callee hung up",
            EndCause::CallerCancelled => "caller cancelled",
            EndCause::Refused => "refused",
            EndCause::Unreachable => "unreachable",
            EndCause::RingTimeout => "no answer",
            EndCause::MaximumDuration => "maximum duration",
            EndCause::NotAcknowledged => "answer not acknowledged",
            EndCause::PartyLost => "party lost",
            EndCause::UnusableAnswer => "unusable answer",
        }
    }
}
