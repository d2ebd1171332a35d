//! How well a peer's RTP arrives: RFC 3550 appendix A.1 (sequence numbers), A.3 (loss) and A.8 (jitter).

use crate::demux::RtpHeader;
use std::{num::NonZeroU32, time::Duration};

/// RFC 3550 appendix A.1: a jump of at least this many packets is not loss but another stream.
const MAX_DROPOUT: u16 = 3_000;
/// RFC 3550 appendix A.1: a packet this far behind is late rather than from another stream.
const MAX_MISORDER: u16 = 100;
/// RFC 3550 appendix A.8 keeps the jitter times 16.
const JITTER_SHIFT: u32 = 4;

/// Reception statistics of one leg. They continue over a change of SSRC.
///
/// Unlike RFC 3550 appendix A.1 there is no probation of a new source: the latch has already chosen it.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Reception {
    source: Option<Source>,
    expected_before: u64,
    received: u64,
    out_of_order: u64,
    duplicates: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Source {
    ssrc: u32,
    base: u16,
    highest: u16,
    cycles: u32,
    /// The number that would confirm a jump.
    after_jump: Option<u16>,
    transit: u32,
    jitter: u32,
    clock_rate: NonZeroU32,
}

impl Reception {
    pub(crate) fn record(&mut self, header: RtpHeader, clock_rate: NonZeroU32, now: Duration) {
        let transit = arrival(now, clock_rate).wrapping_sub(header.timestamp);
        let source = match self.source.as_mut() {
            Some(source) if source.ssrc == header.ssrc && source.clock_rate == clock_rate => source,
            Some(_) | None => return self.begin(header, clock_rate, transit),
        };
        match header.sequence.wrapping_sub(source.highest) {
            0 => {
                self.duplicates += 1;
                return;
            }
            1..MAX_DROPOUT => {
                if header.sequence < source.highest {
                    source.cycles = source.cycles.wrapping_add(1);
                }
                source.highest = header.sequence;
            }
            behind if behind > u16::MAX - MAX_MISORDER => self.out_of_order += 1,
            _jump => {
                // Two packets in sequence after the jump: the peer restarted without a new SSRC.
                if source.after_jump == Some(header.sequence) {
                    return self.begin(header, clock_rate, transit);
                }
                source.after_jump = Some(header.sequence.wrapping_add(1));
                return;
            }
        }
        source.after_jump = None;
        self.received += 1;
        let difference = transit.wrapping_sub(source.transit).cast_signed();
        source.transit = transit;
        // RFC 3550 appendix A.8, the integer form.
        let decay = source.jitter.saturating_add(1 << (JITTER_SHIFT - 1)) >> JITTER_SHIFT;
        source.jitter = source
            .jitter
            .saturating_add(difference.unsigned_abs())
            .saturating_sub(decay);
    }

    fn begin(&mut self, header: RtpHeader, clock_rate: NonZeroU32, transit: u32) {
        self.expected_before = self.expected();
        self.received += 1;
        self.source = Some(Source {
            ssrc: header.ssrc,
            base: header.sequence,
            highest: header.sequence,
            cycles: 0,
            after_jump: None,
            transit,
            jitter: 0,
            clock_rate,
        });
    }

    /// Packets that the sequence numbers promise.
    pub fn expected(&self) -> u64 {
        let current = self.source.map_or(0, |source| {
            let highest = (u64::from(source.cycles) << 16) + u64::from(source.highest);
            highest.saturating_sub(u64::from(source.base)) + 1
        });
        self.expected_before + current
    }

    /// RFC 3550 appendix A.3, never below zero: packets from before the first one seen can outnumber the lost.
    pub fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.received)
    }

    /// Packets counted against the expected ones; without duplicates.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Packets that came after one with a higher number.
    pub fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    /// Packets with the number of the one before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// The current interarrival jitter.
    pub fn jitter(&self) -> Duration {
        self.source.map_or(Duration::ZERO, |source| {
            let ticks = u64::from(source.jitter >> JITTER_SHIFT);
            let rate = u64::from(source.clock_rate.get());
            Duration::from_micros(ticks * 1_000_000 / rate)
        })
    }
}

/// The arrival time in timestamp units; only differences matter, so it may wrap.
fn arrival(now: Duration, clock_rate: NonZeroU32) -> u32 {
    const NANOS_PER_SECOND: u64 = 1_000_000_000;
    let rate = u64::from(clock_rate.get());
    let whole = now.as_secs().wrapping_mul(rate);
    let part = u64::from(now.subsec_nanos()) * rate / NANOS_PER_SECOND;
    // Truncation is the wrap.
    whole.wrapping_add(part) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::DEFAULT_CLOCK_RATE;
    use proptest::prelude::{any, proptest};

    fn header(sequence: u16, ssrc: u32) -> RtpHeader {
        RtpHeader {
            sequence,
            timestamp: u32::from(sequence) * 160,
            ssrc,
        }
    }

    fn receive(sequences: &[u16]) -> Reception {
        let mut reception = Reception::default();
        for sequence in sequences {
            reception.record(header(*sequence, 1), DEFAULT_CLOCK_RATE, Duration::ZERO);
        }
        reception
    }

    #[test]
    fn loss_order_and_duplicates() {
        // (sequence numbers, expected, lost, out of order, duplicates)
        let cases: [(&[u16], u64, u64, u64, u64); 7] = [
            (&[], 0, 0, 0, 0),
            (&[7, 8, 9], 3, 0, 0, 0),
            (&[7, 9, 10], 4, 1, 0, 0),
            (&[7, 9, 8, 10], 4, 0, 1, 0),
            (&[7, 8, 8, 9], 3, 0, 0, 1),
            (&[65_534, 65_535, 0, 2], 5, 1, 0, 0),
            // A jump is believed with the second packet after it; the first is counted nowhere.
            (&[7, 8, 30_000, 30_001, 30_002], 4, 0, 0, 0),
        ];
        for (sequences, expected, lost, out_of_order, duplicates) in cases {
            let reception = receive(sequences);
            assert_eq!(reception.expected(), expected, "{sequences:?}");
            assert_eq!(reception.lost(), lost, "{sequences:?}");
            assert_eq!(reception.out_of_order(), out_of_order, "{sequences:?}");
            assert_eq!(reception.duplicates(), duplicates, "{sequences:?}");
        }
    }

    #[test]
    fn a_new_source_continues_the_totals() {
        let mut reception = receive(&[1, 3]);
        for sequence in [900, 901, 903] {
            reception.record(header(sequence, 2), DEFAULT_CLOCK_RATE, Duration::ZERO);
        }
        assert_eq!((reception.expected(), reception.lost()), (7, 2));
    }

    #[test]
    fn jitter_is_zero_on_a_regular_stream_and_follows_an_irregular_one() {
        let mut regular = Reception::default();
        let mut irregular = Reception::default();
        for number in 0..500u16 {
            let sent = Duration::from_millis(20) * u32::from(number);
            let late = Duration::from_millis(10) * u32::from(number % 2);
            regular.record(header(number, 1), DEFAULT_CLOCK_RATE, sent);
            irregular.record(header(number, 1), DEFAULT_CLOCK_RATE, sent + late);
        }
        assert_eq!(regular.jitter(), Duration::ZERO);
        // The transit time changes by 10 ms at each packet, which is where the estimate converges.
        let millis = irregular.jitter().as_secs_f64() * 1_000.0;
        assert!((9.0..=10.5).contains(&millis), "{millis} ms");
    }

    proptest! {
        #[test]
        fn never_panics(
            packets in proptest::collection::vec((any::<u16>(), any::<u32>(), 0u32..3, any::<u64>()), 0..100),
            clock_rate in 1u32..,
        ) {
            let clock_rate = NonZeroU32::new(clock_rate).expect("from one upwards");
            let mut reception = Reception::default();
            for (sequence, timestamp, ssrc, nanos) in packets {
                let header = RtpHeader { sequence, timestamp, ssrc };
                reception.record(header, clock_rate, Duration::from_nanos(nanos));
                assert!(reception.lost() <= reception.expected());
                reception.jitter();
            }
        }
    }
}
