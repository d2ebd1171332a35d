//! Accounting of one received stream: what came, when, in which order, and whether it was the right
//! speech.

use std::time::Duration;

use rtp_rs::RtpReader;

use super::voice::{PCMU, Source};
use crate::speech::SAMPLES_PER_PACKET;

/// Packets of a stream that are told apart: one hour of speech. Later ones are counted as
/// `foreign`.
const TRACKED_PACKETS: u32 = 180_000;

/// How a packet was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The next packet, or one after a loss.
    InOrder,
    /// Older than one already heard, but new.
    Reordered,
    /// Heard before.
    Duplicate,
    /// Not of this stream, or not RTP.
    Foreign,
}

/// Counts of one direction of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Distinct packets received.
    pub packets: u32,
    /// Packets the peer sent that never arrived.
    pub lost: u32,
    pub duplicated: u32,
    pub reordered: u32,
    /// Packets whose payload was not the peer's speech at that sequence number.
    pub content_mismatches: u32,
    /// Packets whose timestamp did not fit the sequence number.
    pub timestamp_errors: u32,
    /// Packets of another stream or no RTP at all.
    pub foreign: u32,
}

/// A measured stretch of time, opened just before a fault.
#[derive(Debug, Clone, Copy)]
struct Window {
    longest: Duration,
    closed: bool,
}

/// Receiver's view of one stream.
#[derive(Debug)]
pub struct Listener {
    source: Source,
    seen: Vec<u64>,
    highest: Option<u32>,
    tally: Tally,
    last_at: Option<Duration>,
    window: Option<Window>,
}

impl Listener {
    /// Listens for `source`.
    pub fn new(source: Source) -> Listener {
        Listener {
            source,
            seen: Vec::new(),
            highest: None,
            tally: Tally::default(),
            last_at: None,
            window: None,
        }
    }

    /// Takes a datagram that arrived at `now`.
    pub fn handle_packet(&mut self, datagram: &[u8], now: Duration) -> Heard {
        let Some((n, packet)) = self.identify(datagram) else {
            self.tally.foreign += 1;
            return Heard::Foreign;
        };
        if packet.timestamp() != self.source.timestamp(n) {
            self.tally.timestamp_errors += 1;
        }
        if packet.payload() != self.source.frame(n) {
            self.tally.content_mismatches += 1;
        }
        if !self.mark_seen(n) {
            self.tally.duplicated += 1;
            return Heard::Duplicate;
        }
        self.tally.packets += 1;
        self.close_gap(now);
        match self.highest {
            Some(highest) if n < highest => {
                self.tally.reordered += 1;
                Heard::Reordered
            }
            Some(_) | None => {
                self.highest = Some(n);
                Heard::InOrder
            }
        }
    }

    /// Starts measuring gaps. The one under way counts from its last packet, before the window
    /// opened.
    pub fn open_window(&mut self) {
        self.window = Some(Window {
            longest: Duration::ZERO,
            closed: false,
        });
    }

    /// Ends the measurement; a gap under way counts up to `now`.
    pub fn close_window(&mut self, now: Duration) {
        let under_way = self.under_way(now);
        if let Some(window) = self.window.as_mut().filter(|window| !window.closed) {
            window.longest = window.longest.max(under_way);
            window.closed = true;
        }
    }

    /// Longest gap of the window, up to `now` while it is open. None before the first window.
    pub fn longest_gap(&self, now: Duration) -> Option<Duration> {
        self.window.map(|window| match window.closed {
            true => window.longest,
            false => window.longest.max(self.under_way(now)),
        })
    }

    /// Whether a packet ever came.
    pub fn heard_anything(&self) -> bool {
        self.highest.is_some()
    }

    /// Counts; lost are those of the first `sent` packets that did not arrive.
    pub fn tally(&self, sent: u32) -> Tally {
        Tally {
            lost: self.missing(0, sent),
            ..self.tally
        }
    }

    /// Packets numbered from `from` up to, not including, `to` that did not arrive.
    pub fn missing(&self, from: u32, to: u32) -> u32 {
        // Bounded by TRACKED_PACKETS: a sender that outlasts it is not judged beyond.
        let to = to.min(TRACKED_PACKETS);
        (from..to).filter(|n| !self.has(*n)).count() as u32
    }

    fn under_way(&self, now: Duration) -> Duration {
        self.last_at
            .map_or(Duration::ZERO, |last| now.saturating_sub(last))
    }

    fn close_gap(&mut self, now: Duration) {
        let gap = self.under_way(now);
        if let Some(window) = self.window.as_mut().filter(|window| !window.closed) {
            window.longest = window.longest.max(gap);
        }
        self.last_at = Some(now);
    }

    /// The packet's number in the stream, by extending its sequence number (RFC 3550 appendix A.1).
    fn identify<'a>(&self, datagram: &'a [u8]) -> Option<(u32, RtpReader<'a>)> {
        let packet = RtpReader::new(datagram).ok()?;
        let ours = packet.ssrc() == self.source.ssrc
            && packet.payload_type() == PCMU
            && packet.payload().len() == SAMPLES_PER_PACKET;
        if !ours {
            return None;
        }
        let near = self.highest.unwrap_or(0);
        let expected = self.source.first_sequence.wrapping_add(near as u16);
        let step = u16::from(packet.sequence_number()).wrapping_sub(expected) as i16;
        let n = near.checked_add_signed(i32::from(step))?;
        (n < TRACKED_PACKETS).then_some((n, packet))
    }

    fn has(&self, n: u32) -> bool {
        self.seen
            .get(n as usize / 64)
            .is_some_and(|word| word >> (n % 64) & 1 == 1)
    }

    /// Returns whether the packet is new.
    fn mark_seen(&mut self, n: u32) -> bool {
        if self.has(n) {
            return false;
        }
        let word = n as usize / 64;
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << (n % 64);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Heard, Listener};
    use crate::phone::voice::{CallIndex, Party, Source, Voices};
    use std::time::Duration;

    fn pair() -> (Source, Listener) {
        let source = Voices::new(1).source(CallIndex(4), Party::Caller);
        let listener = Listener::new(source.clone());
        (source, listener)
    }

    fn at(n: u32) -> Duration {
        Duration::from_millis(1_000 + 20 * u64::from(n))
    }

    #[test]
    fn clean_stream_counts_nothing_bad_across_sequence_wraps() {
        let (source, mut listener) = pair();
        for n in 0..70_000 {
            assert_eq!(
                listener.handle_packet(&source.packet(n), at(n)),
                Heard::InOrder
            );
        }
        let tally = listener.tally(70_000);
        assert_eq!(tally.packets, 70_000);
        assert_eq!((tally.lost, tally.duplicated, tally.reordered), (0, 0, 0));
        assert_eq!(
            (
                tally.content_mismatches,
                tally.timestamp_errors,
                tally.foreign
            ),
            (0, 0, 0)
        );
    }

    #[test]
    fn loss_duplication_and_reordering_are_told_apart() {
        let (source, mut listener) = pair();
        for n in [0, 1, 2, 2, 5, 4, 6, 9] {
            listener.handle_packet(&source.packet(n), at(n));
        }
        let tally = listener.tally(10);
        assert_eq!((tally.packets, tally.lost), (7, 3), "3, 7 and 8 are lost");
        assert_eq!((tally.duplicated, tally.reordered), (1, 1));
        assert_eq!(listener.missing(7, 10), 2);
        assert_eq!(
            listener.tally(12).lost,
            5,
            "two more were sent and never came"
        );
    }

    #[test]
    fn wrong_speech_wrong_time_and_strangers_are_noticed() {
        let (source, mut listener) = pair();
        let mut spoiled = source.packet(0);
        *spoiled.last_mut().expect("a packet has octets") ^= 0x10;
        listener.handle_packet(&spoiled, at(0));
        let mut shifted = source.packet(1);
        shifted[7] ^= 1;
        listener.handle_packet(&shifted, at(1));
        let stranger = Voices::new(1).source(CallIndex(5), Party::Caller);
        assert_eq!(
            listener.handle_packet(&stranger.packet(0), at(2)),
            Heard::Foreign
        );
        assert_eq!(listener.handle_packet(b"no RTP", at(3)), Heard::Foreign);
        let tally = listener.tally(2);
        assert_eq!(
            (
                tally.content_mismatches,
                tally.timestamp_errors,
                tally.foreign
            ),
            (1, 1, 2)
        );
    }

    #[test]
    fn gap_is_measured_from_the_last_packet_before_the_window() {
        let (source, mut listener) = pair();
        listener.handle_packet(&source.packet(0), at(0));
        listener.handle_packet(&source.packet(100), at(100));
        assert_eq!(listener.longest_gap(at(100)), None, "no window yet");
        listener.open_window();
        assert_eq!(
            listener.longest_gap(at(103)),
            Some(Duration::from_millis(60)),
            "still silent"
        );
        listener.handle_packet(&source.packet(110), at(110));
        listener.handle_packet(&source.packet(111), at(111));
        listener.close_window(at(112));
        listener.handle_packet(&source.packet(300), at(300));
        assert_eq!(
            listener.longest_gap(at(300)),
            Some(Duration::from_millis(200))
        );
    }
}
