//! Whom to greet when, and what was heard.
//!
//! A hello leaves for everybody in a slow beat and when its content changes, and for one peer when that
//! peer has just started or has not heard of our start. All of it is bounded by [`MIN_GAP`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::{Hello, Slot};

/// The beat of a replica that belongs to its pair.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// The beat of a replica that waits to be let in, or for others to found the pair with.
pub(crate) const WAITING_BEAT: Duration = Duration::from_millis(250);
/// No two hellos to one peer are closer: a peer that keeps asking is answered this often at most.
const MIN_GAP: Duration = Duration::from_millis(10);

/// A peer's newest hello.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) hello: Hello,
    /// When it came in.
    pub(crate) at: Duration,
}

#[derive(Debug)]
pub(crate) struct Greeter {
    pub(crate) life: u64,
    sequence: u64,
    others: BTreeSet<Slot>,
    heard: BTreeMap<Slot, Heard>,
    /// The next beat.
    next: Duration,
    owed: BTreeSet<Slot>,
    sent: BTreeMap<Slot, Duration>,
}

impl Greeter {
    pub(crate) fn new(life: u64, others: BTreeSet<Slot>, now: Duration) -> Greeter {
        Greeter {
            life,
            sequence: 0,
            others,
            heard: BTreeMap::new(),
            next: now,
            owed: BTreeSet::new(),
            sent: BTreeMap::new(),
        }
    }

    pub(crate) fn others(&self) -> &BTreeSet<Slot> {
        &self.others
    }

    /// Takes a hello; `false` if it is from nobody we expect, or older than one we have.
    pub(crate) fn take(&mut self, hello: Hello, now: Duration) -> bool {
        let known = self.heard.get(&hello.slot).map(|heard| &heard.hello);
        let overtaken =
            known.is_some_and(|known| known.life == hello.life && known.sequence >= hello.sequence);
        if !self.others.contains(&hello.slot) || overtaken {
            return false;
        }
        if hello.heard != self.life || known.is_none_or(|known| known.life != hello.life) {
            self.owed.insert(hello.slot);
        }
        self.heard.insert(hello.slot, Heard { hello, at: now });
        true
    }

    /// The newest hello of a slot.
    pub(crate) fn heard(&self, slot: Slot) -> Option<&Heard> {
        self.heard.get(&slot)
    }

    /// The newest hello of a slot if it was said after we started.
    pub(crate) fn fresh(&self, slot: Slot) -> Option<&Hello> {
        let hello = &self.heard.get(&slot)?.hello;
        (hello.heard == self.life).then_some(hello)
    }

    /// The peer's life, for the hello's `heard`.
    pub(crate) fn life_of(&self, slot: Slot) -> u64 {
        self.heard.get(&slot).map_or(0, |heard| heard.hello.life)
    }

    /// The link to this peer has come up: greet it.
    pub(crate) fn owe(&mut self, slot: Slot) {
        if self.others.contains(&slot) {
            self.owed.insert(slot);
        }
    }

    /// The content has changed: greet everybody.
    pub(crate) fn owe_all(&mut self) {
        self.owed.clone_from(&self.others);
    }

    /// Who is to be greeted now; call again at [`next`](Self::next).
    pub(crate) fn due(&mut self, beat: Duration, now: Duration) -> Vec<Slot> {
        if now >= self.next {
            self.owe_all();
            self.next = now + beat;
        }
        let ready = |slot: &Slot| {
            self.sent
                .get(slot)
                .is_none_or(|sent| now >= *sent + MIN_GAP)
        };
        let due: Vec<_> = self.owed.iter().copied().filter(ready).collect();
        for slot in &due {
            self.owed.remove(slot);
            self.sent.insert(*slot, now);
        }
        due
    }

    /// Numbers the next hello.
    pub(crate) fn number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(crate) fn next(&self) -> Duration {
        let owed = self
            .owed
            .iter()
            .map(|slot| {
                self.sent
                    .get(slot)
                    .map_or(Duration::ZERO, |sent| *sent + MIN_GAP)
            })
            .min();
        owed.map_or(self.next, |owed| owed.min(self.next))
    }
}
