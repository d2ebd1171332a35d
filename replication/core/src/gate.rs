//! The witness gate: appends for the witness wait until the standby has acknowledged them.
//!
//! So the witness is never ahead of a healthy standby, and the standby can always be elected at once
//! when the active dies. The gate opens for a standby that is silent or slow:
//!
//! ```text
//!            an append waited GATE_TICKS, or MAX_HELD wait
//!   closed ------------------------------------------------> open
//!      ^                                                       |
//!      +-------------------------------------------------------+
//!            the standby holds everything the witness was sent
//! ```
//! A standby not heard from for `GATE_TICKS` is passed by in either state.

use std::collections::VecDeque;

use raft::eraftpb::Message;

/// How long an append waits for the standby, and how long the standby may be silent: 40 ms in the
/// standard profile.
pub(crate) const GATE_TICKS: u64 = 4;

/// Held appends; at the bound the gate opens, as for a slow standby.
const MAX_HELD: usize = 1024;

/// What the leader knows of the standby.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standby {
    /// Persisted there.
    pub(crate) matched: u64,
    /// Heard from within `GATE_TICKS`.
    pub(crate) heard: bool,
}

#[derive(Debug, Default)]
pub(crate) struct WitnessGate {
    held: VecDeque<(u64, Message)>,
    open: bool,
    /// How far the witness was sent the log in this term.
    passed: u64,
    tick: u64,
}

/// The log index an append reaches to.
fn reach(append: &Message) -> u64 {
    append
        .entries
        .last()
        .map_or(append.index, |entry| entry.index)
}

impl WitnessGate {
    /// Offers an append. Returns it if it may go now. Nothing overtakes a held append: the witness
    /// would reject what does not connect to its log.
    pub(crate) fn offer(&mut self, append: Message, standby: Standby) -> Option<Message> {
        self.close(standby);
        if self.held.is_empty() && self.lets_pass(&append, standby) {
            self.passed = self.passed.max(reach(&append));
            return Some(append);
        }
        self.held.push_back((self.tick, append));
        None
    }

    /// Takes one held append that may go now; call until `None`. The flag says that the gate opened.
    pub(crate) fn release(&mut self, standby: Standby) -> Option<(Message, bool)> {
        self.close(standby);
        let (since, append) = self.held.front()?;
        let late = self.tick - since >= GATE_TICKS || self.held.len() >= MAX_HELD;
        let opens = late && !self.lets_pass(append, standby);
        self.open |= opens;
        if !self.lets_pass(append, standby) {
            return None;
        }
        self.passed = self.passed.max(reach(append));
        self.held.pop_front().map(|(_, append)| (append, opens))
    }

    fn lets_pass(&self, append: &Message, standby: Standby) -> bool {
        self.open || !standby.heard || reach(append) <= standby.matched
    }

    fn close(&mut self, standby: Standby) {
        self.open &= standby.matched < self.passed;
    }

    pub(crate) fn tick(&mut self) {
        self.tick += 1;
    }

    /// Leadership ended: what is held belongs to an old term.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
        self.open = false;
        self.passed = 0;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use raft::eraftpb::Entry;

    use super::*;

    fn append(index: u64) -> Message {
        let entry = Entry {
            index,
            ..Entry::default()
        };
        let mut message = Message {
            index: index - 1,
            ..Message::default()
        };
        message.set_entries(vec![entry].into());
        message
    }

    fn standby(matched: u64) -> Standby {
        Standby {
            matched,
            heard: true,
        }
    }

    #[test]
    fn holds_until_the_standby_acknowledges_and_keeps_the_order() {
        let mut gate = WitnessGate::default();
        assert!(gate.offer(append(10), standby(9)).is_none());
        assert!(
            gate.offer(append(5), standby(9)).is_none(),
            "nothing overtakes"
        );
        assert!(gate.release(standby(9)).is_none());
        let (first, opened) = gate.release(standby(10)).unwrap();
        assert_eq!((first.index, opened), (9, false));
        assert_eq!(gate.release(standby(10)).unwrap().0.index, 4);
        assert!(gate.release(standby(10)).is_none());
    }

    #[test]
    fn opens_for_a_slow_standby_until_it_has_caught_up() {
        let mut gate = WitnessGate::default();
        assert!(gate.offer(append(10), standby(9)).is_none());
        for _ in 1..GATE_TICKS {
            gate.tick();
            assert!(gate.release(standby(9)).is_none());
        }
        gate.tick();
        let (_, opened) = gate.release(standby(9)).unwrap();
        assert!(opened);
        assert!(gate.offer(append(11), standby(9)).is_some(), "open");
        assert!(
            gate.offer(append(12), standby(11)).is_none(),
            "closed again"
        );
    }

    #[test]
    fn a_silent_standby_holds_nothing_back() {
        let mut gate = WitnessGate::default();
        let silent = Standby {
            matched: 0,
            heard: false,
        };
        assert!(gate.offer(append(10), standby(9)).is_none());
        assert!(!gate.release(silent).unwrap().1);
        assert!(gate.offer(append(11), silent).is_some());
    }
}
