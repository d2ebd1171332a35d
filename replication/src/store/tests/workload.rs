//! What the store's victims write: a process that is killed, or whose machine loses power, after any of it.

use std::io::Write as _;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tandem_replication_core::{Position, Restored, Write};

use super::super::{Mode, Store};
use super::model::{ID, append, check, entry, hard_state, large, last, snapshot, write};

/// What the store has confirmed, as the victim says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    last: Position,
    applied: u64,
    term: u64,
}

impl Acknowledged {
    /// Tells it to whoever started the victim, in one write.
    fn say(&self) {
        let Acknowledged {
            last: Position { index, term: of },
            applied,
            term,
        } = self;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "ok {index} {of} {applied} {term} .").unwrap();
        stdout.flush().unwrap();
    }

    /// A line that was cut short does not count.
    pub(super) fn parse(line: &str) -> Option<Acknowledged> {
        let numbers: Vec<u64> = line
            .strip_prefix("ok ")?
            .strip_suffix(" .")?
            .split(' ')
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        let &[index, of, applied, term] = numbers.as_slice() else {
            return None;
        };
        let last = Position { index, term: of };
        Some(Acknowledged {
            last,
            applied,
            term,
        })
    }

    /// The last of several lines.
    pub(super) fn last_in(text: &str) -> Option<Acknowledged> {
        text.lines().rev().find_map(Acknowledged::parse)
    }

    /// Says what of it is missing, if anything.
    pub(super) fn missing_in(&self, restored: &Restored) -> Option<String> {
        let reached = last(restored);
        // A leader of a later term may take back what was never applied.
        let replaced = restored.hard_state.term > self.term;
        let kept = restored.hard_state.term >= self.term
            && restored.applied >= self.applied
            && (replaced || (reached.term, reached.index) >= (self.last.term, self.last.index));
        (!kept).then(|| {
            format!(
                "{self:?} was acknowledged; the store ends at {reached:?}, applied {}, in term {}",
                restored.applied, restored.hard_state.term
            )
        })
    }
}

/// A store that is written to in every way a replica does.
pub(super) struct Workload {
    store: Store,
    random: StdRng,
    last: Position,
    term: u64,
    compacted: u64,
    /// Whether there are also rows that sled keeps in files of their own.
    large: bool,
}

impl Workload {
    pub(super) fn open(directory: &Path, mode: &Mode, seed: u64, large: bool) -> Workload {
        let (mut store, restored) = Store::open_with(directory, ID, mode).unwrap();
        check(&restored);
        let mut last = last(&restored);
        if last.index > restored.applied {
            // The end came between an uncommitted tail and what replaces it. Nothing of the tail was applied, so
            // it goes before anything is appended.
            let mut cut = write();
            cut.truncate_from = Some(restored.applied + 1);
            store.write(&[cut]).unwrap();
            last.index = restored.applied;
        }
        Workload {
            store,
            random: StdRng::seed_from_u64(seed),
            last,
            term: restored.hard_state.term.max(1) + 1,
            compacted: restored.compacted.index,
            large,
        }
    }

    /// One group of writes, said once it is confirmed.
    pub(super) fn step(&mut self) {
        if self.random.random_range(0..12) == 0 {
            self.take_back();
        }
        let mut group = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            self.extend(&mut group);
        }
        if self.large {
            let mut put = write();
            put.changes = vec![large(self.last.index)];
            group.push(put);
        }
        self.write(&group, self.last.index);
        if self.random.random_range(0..4) == 0 {
            self.store.clean().unwrap();
        }
    }

    fn write(&mut self, group: &[Write], applied: u64) {
        self.store.write(group).unwrap();
        let acknowledged = Acknowledged {
            last: self.last,
            applied,
            term: self.term,
        };
        acknowledged.say();
    }

    /// An uncommitted tail, replaced by a leader of a later term whose own log ends in an earlier one: the log
    /// becomes less up to date, which the tip must be told first.
    fn take_back(&mut self) {
        let Position { index, term } = self.last;
        self.term += 1;
        let mut tail = write();
        tail.entries = (index + 1..=index + 3)
            .map(|index| entry(index, self.term))
            .collect();
        tail.hard_state = Some(hard_state(self.term, 1, index));
        self.last = Position {
            index: index + 3,
            term: self.term,
        };
        self.write(&[tail], index);

        self.term += 1;
        let mut replaced = append(index + 1, index + 1, term);
        replaced.truncate_from = Some(index + 1);
        replaced.hard_state = Some(hard_state(self.term, 1, index + 1));
        self.last = Position {
            index: index + 1,
            term,
        };
        self.write(&[replaced], index + 1);
    }

    /// Ends it as an orderly stop does.
    pub(super) fn close(self) {
        self.store.close().unwrap();
    }

    fn extend(&mut self, group: &mut Vec<Write>) {
        let from = self.last.index + 1;
        let to = self.last.index + self.random.random_range(1..6);
        let mut next = append(from, to, self.term);
        let mut index = to;
        match self.random.random_range(0..16) {
            0 => {
                // A snapshot from far ahead.
                index = to + 100;
                next = write();
                next.snapshot = Some(snapshot(index, self.term));
                next.hard_state = Some(hard_state(self.term, 1, index));
                self.compacted = index;
            }
            1 | 2 if to > self.compacted + 30 => {
                // Every entry below the last twenty is applied; terms only matter at the end.
                self.compacted = to - 20;
                next.compact_to = Some(Position {
                    index: self.compacted,
                    term: self.term,
                });
            }
            3 => {
                // An uncommitted tail that a new leader replaces.
                let mut tail = write();
                tail.entries = vec![entry(from, self.term)];
                group.push(tail);
                self.term += 1;
                next = append(from, to, self.term);
                next.truncate_from = Some(from);
            }
            _ => {}
        }
        self.last = Position {
            index,
            term: self.term,
        };
        group.push(next);
    }
}
