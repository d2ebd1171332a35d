//! Who belongs to the pair, and the next step towards who should.
//!
//! The active takes one step at a time, by what is so and not by what it did: a new one goes on where the
//! old one stopped. A slot's newest incarnation goes this way:
//!
//! ```text
//!              its hello            caught up, one joint change
//!   stranger ------------> learner -----------------------------> voter
//!                             ^       that removes the older one    |
//!                             +-------------------------------------+
//!                              another is gone, `on_single = "serve"`
//! ```
//! An id leaves the membership only when a newer incarnation of its slot comes in or is in: whoever asks the
//! active for the newest incarnation of a slot learns of every one there has been. That is why a voter is
//! made a learner, and not removed, when the active goes on alone.

use std::collections::BTreeSet;
use std::time::Duration;

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};

use crate::{ReplicaId, Slot};

/// A learner this close to the commit index is caught up: less than a moment's load, so that making it a
/// voter holds no commit up.
pub(crate) const CAUGHT_UP: u64 = 256;

/// A member not heard for this long is not promoted.
pub(crate) const PRESENT: Duration = Duration::from_secs(1);

/// With `on_single = "serve"`: a voter not heard for this long is gone, and the active stops counting on
/// the others. Longer than a restart of a process, shorter than two unrelated failures are apart.
pub const SINGLE_AFTER: Duration = Duration::from_secs(5);

/// What the active does when one of three replicas is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSingle {
    /// Goes on with the other; the loss of that one stops it.
    #[default]
    Stop,
    /// Makes itself the only voter while it can, so that the loss of the other does not stop it.
    Serve,
}

/// The text names no [`OnSingle`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not \"stop\" or \"serve\"")]
pub struct InvalidOnSingle(pub String);

impl std::str::FromStr for OnSingle {
    type Err = InvalidOnSingle;

    fn from_str(text: &str) -> Result<OnSingle, InvalidOnSingle> {
        match text {
            "stop" => Ok(OnSingle::Stop),
            "serve" => Ok(OnSingle::Serve),
            other => Err(InvalidOnSingle(other.to_owned())),
        }
    }
}

/// Who votes and who only follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Who votes, or will when the joint change that is under way is left.
    pub voters: BTreeSet<ReplicaId>,
    /// Who still has to agree too while a joint change is under way; else empty.
    pub outgoing: BTreeSet<ReplicaId>,
    /// Who receives the log and does not count.
    pub learners: BTreeSet<ReplicaId>,
}

impl From<&ConfState> for Membership {
    fn from(state: &ConfState) -> Membership {
        let ids = |numbers: &[u64]| -> BTreeSet<ReplicaId> {
            let ids = numbers.iter().copied();
            ids.filter_map(|id| ReplicaId::try_from(id).ok()).collect()
        };
        let mut learners = ids(&state.learners);
        learners.extend(ids(&state.learners_next));
        Membership {
            voters: ids(&state.voters),
            outgoing: ids(&state.voters_outgoing),
            learners,
        }
    }
}

impl Membership {
    pub(crate) fn parts(&self) -> [&BTreeSet<ReplicaId>; 3] {
        [&self.voters, &self.outgoing, &self.learners]
    }

    fn ids(&self) -> impl Iterator<Item = ReplicaId> {
        self.parts().into_iter().flatten().copied()
    }

    /// Whether nobody belongs: the replica has not been told yet.
    pub fn is_empty(&self) -> bool {
        self.ids().next().is_none()
    }

    /// Whether it counts or follows.
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.ids().any(|member| member == id)
    }

    /// The newest incarnation of a slot.
    pub fn newest(&self, slot: Slot) -> Option<ReplicaId> {
        self.ids().filter(|id| id.slot() == slot).max()
    }

    /// Whether a joint change is under way.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    fn voter_of(&self, slot: Slot) -> Option<ReplicaId> {
        self.voters.iter().copied().find(|id| id.slot() == slot)
    }
}

/// What the active sees of another member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Persisted there, by its own word in this term; else 0.
    pub(crate) matched: u64,
    /// Whether it was heard within [`PRESENT`].
    pub(crate) present: bool,
    /// Since its last message, or since the active was elected.
    pub(crate) silent: Duration,
}

/// What a step is decided by.
pub(crate) struct View<'a, Look: Fn(ReplicaId) -> Seen> {
    pub(crate) own: ReplicaId,
    pub(crate) membership: &'a Membership,
    /// The slots of the pair.
    pub(crate) slots: &'a BTreeSet<Slot>,
    /// Who says that it waits to be added.
    pub(crate) joiners: &'a [ReplicaId],
    pub(crate) commit: u64,
    pub(crate) on_single: OnSingle,
    pub(crate) look: Look,
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The joint change is agreed on: leave it.
    Leave,
    /// A learner, in the place of older learners of its slot.
    Add {
        id: ReplicaId,
        instead_of: Vec<ReplicaId>,
    },
    /// Learners become voters, in the place of older voters of their slots.
    Promote {
        ids: Vec<ReplicaId>,
        instead_of: Vec<ReplicaId>,
    },
    /// Learners of which there is a newer incarnation go.
    Forget(Vec<ReplicaId>),
    /// The others become learners.
    Alone(Vec<ReplicaId>),
}

impl Step {
    /// As an entry's content. Joint changes are left explicitly, by whoever is active then: raft-rs leaves
    /// by itself only where the change was proposed.
    pub(crate) fn change(&self) -> ConfChangeV2 {
        let single = |kind: ConfChangeType| {
            move |id: &ReplicaId| {
                let mut single = ConfChangeSingle {
                    node_id: id.get(),
                    ..ConfChangeSingle::default()
                };
                single.set_change_type(kind);
                single
            }
        };
        let remove = single(ConfChangeType::RemoveNode);
        let changes: Vec<_> = match self {
            Step::Leave => Vec::new(),
            Step::Add { id, instead_of } => {
                let add = single(ConfChangeType::AddLearnerNode)(id);
                let removed = instead_of.iter().map(remove);
                std::iter::once(add).chain(removed).collect()
            }
            Step::Promote { ids, instead_of } => {
                let added = ids.iter().map(single(ConfChangeType::AddNode));
                added.chain(instead_of.iter().map(remove)).collect()
            }
            Step::Forget(ids) => ids.iter().map(remove).collect(),
            Step::Alone(ids) => {
                let learners = ids.iter().map(single(ConfChangeType::AddLearnerNode));
                learners.collect()
            }
        };
        let mut change = ConfChangeV2::default();
        if changes.len() > 1 {
            change.set_transition(ConfChangeTransition::Explicit);
        }
        change.set_changes(changes.into());
        change
    }
}

impl<Look: Fn(ReplicaId) -> Seen> View<'_, Look> {
    /// The next step, if anything is not as it should be.
    pub(crate) fn next_step(&self) -> Option<Step> {
        if self.membership.is_joint() {
            return Some(Step::Leave);
        }
        self.forget()
            .or_else(|| self.add())
            .or_else(|| self.replace())
            .or_else(|| self.return_to_all())
            .or_else(|| self.stay_alone())
    }

    fn forget(&self) -> Option<Step> {
        let outdated = |id: &ReplicaId| self.membership.newest(id.slot()) != Some(*id);
        let learners = self.membership.learners.iter().copied();
        let stale: Vec<_> = learners.filter(outdated).collect();
        (!stale.is_empty()).then_some(Step::Forget(stale))
    }

    fn add(&self) -> Option<Step> {
        let newer = |id: &ReplicaId| {
            self.slots.contains(&id.slot())
                && self
                    .membership
                    .newest(id.slot())
                    .is_none_or(|newest| newest < *id)
        };
        let id = self.joiners.iter().copied().find(newer)?;
        let learners = self.membership.learners.iter().copied();
        Some(Step::Add {
            id,
            instead_of: learners.filter(|it| it.slot() == id.slot()).collect(),
        })
    }

    fn is_caught_up(&self, id: ReplicaId) -> bool {
        let Seen {
            matched, present, ..
        } = (self.look)(id);
        present && matched > 0 && matched.saturating_add(CAUGHT_UP) >= self.commit
    }

    fn ready_learner(&self, slot: Slot) -> Option<ReplicaId> {
        let mut learners = self.membership.learners.iter().copied();
        learners.find(|id| id.slot() == slot && self.is_caught_up(*id))
    }

    /// A lost disk: the newer incarnation takes the older one's vote.
    fn replace(&self) -> Option<Step> {
        self.slots.iter().find_map(|slot| {
            let old = self.membership.voter_of(*slot)?;
            let new = self.ready_learner(*slot).filter(|new| *new > old)?;
            Some(Step::Promote {
                ids: vec![new],
                instead_of: vec![old],
            })
        })
    }

    /// Alone until now: once everybody is back, and not before. With two voters the loss of either would
    /// stop the pair, which is what being alone avoids.
    fn return_to_all(&self) -> Option<Step> {
        let voteless = self.slots.iter().copied();
        let voteless = voteless.filter(|slot| self.membership.voter_of(*slot).is_none());
        let ids: Vec<_> = voteless
            .map(|slot| self.ready_learner(slot))
            .collect::<Option<_>>()?;
        (!ids.is_empty()).then_some(Step::Promote {
            ids,
            instead_of: Vec::new(),
        })
    }

    fn stay_alone(&self) -> Option<Step> {
        let others = self.membership.voters.iter().copied();
        let others: Vec<_> = others.filter(|id| *id != self.own).collect();
        let gone = others
            .iter()
            .any(|id| (self.look)(*id).silent >= SINGLE_AFTER);
        let may = self.on_single == OnSingle::Serve
            && self.own.slot().is_data()
            && self.membership.voters.contains(&self.own);
        (may && gone).then_some(Step::Alone(others))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const A: ReplicaId = ReplicaId::first(Slot::A);
    const B: ReplicaId = ReplicaId::first(Slot::B);
    const WITNESS: ReplicaId = ReplicaId::first(Slot::Witness);

    fn b(incarnation: u32) -> ReplicaId {
        ReplicaId::new(Slot::B, incarnation).unwrap()
    }

    fn membership(voters: &[ReplicaId], learners: &[ReplicaId]) -> Membership {
        Membership {
            voters: voters.iter().copied().collect(),
            outgoing: BTreeSet::new(),
            learners: learners.iter().copied().collect(),
        }
    }

    /// `away` members are silent for ever, `behind` ones lack most of the log.
    fn step(
        membership: &Membership,
        joiners: &[ReplicaId],
        (away, behind): (&[ReplicaId], &[ReplicaId]),
        on_single: OnSingle,
    ) -> Option<Step> {
        let look = |id: ReplicaId| Seen {
            matched: if behind.contains(&id) { 10 } else { 1000 },
            present: !away.contains(&id),
            silent: if away.contains(&id) {
                Duration::MAX
            } else {
                Duration::ZERO
            },
        };
        let slots = BTreeSet::from([Slot::A, Slot::B, Slot::Witness]);
        let view = View {
            own: A,
            membership,
            slots: &slots,
            joiners,
            commit: 1000,
            on_single,
            look,
        };
        view.next_step()
    }

    #[test]
    fn a_new_incarnation_becomes_a_learner_and_then_takes_the_vote() {
        let all = membership(&[A, B, WITNESS], &[]);
        let stop = OnSingle::Stop;
        assert_eq!(step(&all, &[], (&[], &[]), stop), None);
        assert_eq!(step(&all, &[B], (&[], &[]), stop), None, "a member already");
        let add = |id, instead_of: &[ReplicaId]| {
            let instead_of = instead_of.to_vec();
            Some(Step::Add { id, instead_of })
        };
        assert_eq!(step(&all, &[b(2)], (&[], &[]), stop), add(b(2), &[]));
        let learning = membership(&[A, B, WITNESS], &[b(2)]);
        assert_eq!(
            step(&learning, &[b(2)], (&[B], &[b(2)]), stop),
            None,
            "not caught up"
        );
        assert_eq!(
            step(&learning, &[], (&[B, b(2)], &[]), stop),
            None,
            "not there"
        );
        assert_eq!(
            step(&learning, &[b(3)], (&[], &[]), stop),
            add(b(3), &[b(2)])
        );
        let promote = Step::Promote {
            ids: vec![b(2)],
            instead_of: vec![B],
        };
        assert_eq!(step(&learning, &[], (&[B], &[]), stop), Some(promote));
    }

    #[test]
    fn alone_until_everybody_is_back() {
        let all = membership(&[A, B, WITNESS], &[]);
        let serve = OnSingle::Serve;
        assert_eq!(step(&all, &[], (&[B], &[]), OnSingle::Stop), None);
        assert_eq!(step(&all, &[], (&[], &[]), serve), None);
        let alone = Some(Step::Alone(vec![B, WITNESS]));
        assert_eq!(step(&all, &[], (&[B], &[]), serve), alone);
        assert_eq!(step(&all, &[], (&[WITNESS], &[]), serve), alone);
        let alone = membership(&[A], &[B, WITNESS]);
        assert_eq!(step(&alone, &[], (&[B, WITNESS], &[]), serve), None);
        assert_eq!(step(&alone, &[], (&[B], &[]), serve), None);
        assert_eq!(step(&alone, &[], (&[], &[B]), serve), None);
        let promote = Step::Promote {
            ids: vec![B, WITNESS],
            instead_of: Vec::new(),
        };
        assert_eq!(step(&alone, &[], (&[], &[]), serve), Some(promote));
        // A disk was lost meanwhile.
        let both = membership(&[A], &[B, b(2), WITNESS]);
        assert_eq!(
            step(&both, &[], (&[], &[]), serve),
            Some(Step::Forget(vec![B]))
        );
    }

    #[test]
    fn a_joint_change_is_left_before_anything_else() {
        let mut joint = membership(&[A, b(2), WITNESS], &[]);
        joint.outgoing = BTreeSet::from([A, B, WITNESS]);
        assert_eq!(
            step(&joint, &[b(3)], (&[WITNESS], &[]), OnSingle::Serve),
            Some(Step::Leave)
        );
        assert!(Step::Leave.change().get_changes().is_empty());
        let add = Step::Add {
            id: b(2),
            instead_of: Vec::new(),
        }
        .change();
        assert_eq!(add.get_transition(), ConfChangeTransition::Auto);
        let alone = Step::Alone(vec![B, WITNESS]).change();
        assert_eq!(alone.get_transition(), ConfChangeTransition::Explicit);
    }
}
