//! The forced takeover: an operator decides that what one store holds is the pair.
//!
//! For when no quorum comes back: the active died while the standby was behind what the witness holds, or two
//! replicas are gone for ever. What others held and this store does not is lost, and nothing can tell how much
//! that is. So it is never done by itself.
//!
//! The store becomes another incarnation, the only voter of a new generation. Replicas of an older generation are
//! not heard and hear that they are outdated: if they are only cut off they stand down when they meet it, and
//! come back as new incarnations when their own stores are moved aside.

use raft::eraftpb::{ConfState, Entry, EntryType, HardState};

use crate::membership::Membership;
use crate::{ReplicaId, Restored, Write};

/// Terms the others may be ahead: more elections than they can have had while this store was away. The epoch of
/// who serves next is beyond every one there was.
const TERM_JUMP: u64 = 1 << 20;

/// Why a takeover was not forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForceError {
    /// The pair works, as far as this replica can see.
    #[error("{0} leads: there is nothing to force")]
    Led(ReplicaId),
    /// Only data nodes serve.
    #[error("the witness cannot serve")]
    Witness,
    /// There is nothing to take over with.
    #[error("this replica has no log")]
    Empty,
    /// A newer incarnation of this slot has been in the pair since.
    #[error("{0} took this store's place: what this store holds is old")]
    Replaced(ReplicaId),
}

/// What a forced takeover made of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forced {
    /// Who it is from now on.
    pub id: ReplicaId,
    /// The generation that begins with it.
    pub generation: u32,
}

impl Restored {
    /// What makes the store that of the only voter `id`. Doing it twice changes nothing more.
    pub fn forced(&self, id: ReplicaId) -> Option<Write> {
        let before = Membership::from(&self.conf_state);
        let voters = vec![id.get()];
        if self.conf_state.voters == voters {
            return None;
        }
        // The others stay known, so that those who come back take later incarnations than there were.
        let slots = before.parts().into_iter().flatten().map(|id| id.slot());
        let others = slots.filter(|slot| *slot != id.slot());
        let mut learners: Vec<_> = others
            .filter_map(|slot| before.newest(slot))
            .map(ReplicaId::get)
            .collect();
        learners.sort_unstable();
        learners.dedup();
        let mut write = Write::empty();
        write.conf_state = Some(ConfState {
            voters,
            learners,
            ..ConfState::default()
        });
        write.hard_state = Some(HardState {
            term: self.hard_state.term + TERM_JUMP,
            vote: 0,
            ..self.hard_state.clone()
        });
        // Changes of the old membership that are not applied yet would be applied to the new one.
        let changes = |entry: &Entry| entry.get_entry_type() != EntryType::EntryNormal;
        let pending = |entry: &&Entry| entry.index > self.applied && changes(entry);
        if let Some(first) = self.entries.iter().find(pending).map(|entry| entry.index) {
            write.truncate_from = Some(first);
            let tail = self.entries.iter().filter(|entry| entry.index >= first);
            write.entries = tail
                .map(|entry| match changes(entry) {
                    true => Entry {
                        index: entry.index,
                        term: entry.term,
                        ..Entry::default()
                    },
                    false => entry.clone(),
                })
                .collect();
        }
        write.must_sync = true;
        Some(write)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Position, Slot};

    #[test]
    fn the_only_voter_keeps_its_log_and_not_the_changes_of_the_old_membership() {
        let first = |slot| ReplicaId::first(slot).get();
        let b = |number| ReplicaId::new(Slot::B, number).unwrap().get();
        let entry = |index, kind| Entry {
            index,
            term: 4,
            entry_type: kind,
            data: bytes::Bytes::from_static(b"data"),
            ..Entry::default()
        };
        let normal = EntryType::EntryNormal;
        let change = EntryType::EntryConfChangeV2;
        let restored = Restored {
            hard_state: HardState {
                term: 5,
                vote: 7,
                commit: 4,
                ..HardState::default()
            },
            conf_state: ConfState {
                voters: vec![first(Slot::A), b(2), first(Slot::Witness)],
                voters_outgoing: vec![first(Slot::A), b(1), first(Slot::Witness)],
                ..ConfState::default()
            },
            entries: vec![
                entry(3, change),
                entry(4, normal),
                entry(5, change),
                entry(6, normal),
            ],
            compacted: Position { index: 2, term: 1 },
            applied: 4,
            ..Restored::default()
        };
        let id = ReplicaId::new(Slot::A, 2).unwrap();
        let write = restored.forced(id).unwrap();
        let membership = Membership::from(&write.conf_state.clone().unwrap());
        assert_eq!(membership.voters, [id].into());
        assert_eq!(membership.newest(Slot::B).unwrap().incarnation(), 2);
        assert_eq!(membership.learners.len(), 2);
        let hard_state = write.hard_state.clone().unwrap();
        assert_eq!((hard_state.vote, hard_state.commit), (0, 4));
        assert!(hard_state.term > 5);
        assert_eq!(write.truncate_from, Some(5));
        let kinds: Vec<_> = write
            .entries
            .iter()
            .map(|entry| (entry.index, entry.term, entry.data.len()))
            .collect();
        assert_eq!(kinds, [(5, 4, 0), (6, 4, 4)]);

        let again = Restored {
            conf_state: write.conf_state.unwrap(),
            ..restored
        };
        assert_eq!(again.forced(id), None);
    }
}
