//! Counters of packets taken and packets refused.

/// Packets and their bytes (UDP payload).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// Why a packet was not forwarded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DropReason {
    /// No session has the port it came to.
    UnknownPort,
    /// Not from the source that holds the latch.
    Foreign,
    /// The leg it came from is on hold.
    NotReceiving,
    /// The leg it would go to is on hold.
    NotSending,
    /// The other peer has neither signalled an address nor sent anything.
    NoDestination,
    Stun,
    Dtls,
    /// Neither RTP, RTCP, STUN nor DTLS.
    Unknown,
    /// RTP or RTCP that does not hold together.
    Malformed,
    /// Media on the RTCP port, or anything on the RTCP port of a raw stream.
    WrongPort,
}

impl DropReason {
    /// In the order of the declaration, which is also the order of the counters.
    pub const ALL: [DropReason; 10] = [
        DropReason::UnknownPort,
        DropReason::Foreign,
        DropReason::NotReceiving,
        DropReason::NotSending,
        DropReason::NoDestination,
        DropReason::Stun,
        DropReason::Dtls,
        DropReason::Unknown,
        DropReason::Malformed,
        DropReason::WrongPort,
    ];

    /// The value of the `reason` label.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::UnknownPort => "unknown_port",
            DropReason::Foreign => "foreign",
            DropReason::NotReceiving => "not_receiving",
            DropReason::NotSending => "not_sending",
            DropReason::NoDestination => "no_destination",
            DropReason::Stun => "stun",
            DropReason::Dtls => "dtls",
            DropReason::Unknown => "unknown",
            DropReason::Malformed => "malformed",
            DropReason::WrongPort => "wrong_port",
        }
    }
}

/// One counter per [`DropReason`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl DropCounters {
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.0)
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_reason_has_its_own_counter_and_name() {
        let mut names = BTreeSet::new();
        for (place, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            assert!(names.insert(reason.name()));
            let mut counters = DropCounters::default();
            counters.count(reason);
            assert_eq!((counters.of(reason), counters.total()), (1, 1));
        }
    }
}
