//! What a replica with an empty store does: it asks, and is nobody until it knows who it is.
//!
//! An empty store is a new one or one that lost its log. The second has forgotten what it voted for and
//! acknowledged, so it must not act under the id it had. Nothing on the disk tells the two apart; the
//! others do.
//!
//! ```text
//!   everybody's store is empty, or a founder               the active says which incarnations
//!   knows this very store by name                          this slot has had
//!            |                                                       |
//!   waiting -+-> found: incarnation 1, votes                waiting -+-> join: the next incarnation, which
//!                                                                        waits to be added
//! ```
//! Only answers count: a hello that names our life was said after we started. Two rules make a wrong
//! answer harmless:
//!
//! * A store that has not decided has never voted. So whoever a founder knows as its slot's first incarnation, by
//!   the name of its store, may become that at any later time. Without its acknowledgement the slot cannot have
//!   had a later incarnation that this founder does not know of: the others had to agree without it.
//! * The active (the holder of the lease) knows the newest membership, and members leave it only for a
//!   newer incarnation. So the one after its newest has never been used.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::greeter::{Greeter, WAITING_BEAT};
use crate::{Founders, Hello, Member, ReplicaId, Slot, Standing, StoreId, Versions};

/// What a replica with an empty store has learnt to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A founder of the pair: the first incarnation of its slot.
    Found(Founders),
    /// A later incarnation, which waits to be added.
    Join {
        /// Who it is from now on.
        id: ReplicaId,
        /// The generation of those it joins.
        generation: u32,
    },
}

/// What it still waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Founding a pair needs every replica once; these have not answered.
    Founders(Vec<Slot>),
    /// The pair exists; only its active node can tell which incarnation this is.
    Active,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waiting::Founders(slots) => {
                let names: Vec<_> = slots.iter().map(Slot::to_string).collect();
                write!(f, "waiting for {} to found the pair", names.join(" and "))
            }
            Waiting::Active => {
                f.write_str("its store is empty: waiting for the pair's active node")
            }
        }
    }
}

/// A hello to send. Loss is tolerated.
#[derive(Clone, Debug, PartialEq)]
pub struct Greeting {
    /// The receiver.
    pub to: Slot,
    /// What to say.
    pub hello: Hello,
}

/// See the module. Driven like a [`crate::Replica`], until it has decided.
#[derive(Debug)]
pub struct Founding {
    slot: Slot,
    store: StoreId,
    versions: Versions,
    greeter: Greeter,
    commands: VecDeque<Greeting>,
}

impl Founding {
    /// Starts asking the `others`. `life` is drawn at each start and not 0.
    pub fn new(
        (slot, store): (Slot, StoreId),
        life: u64,
        others: BTreeSet<Slot>,
        versions: Versions,
        now: Duration,
    ) -> Founding {
        let mut founding = Founding {
            slot,
            store,
            versions,
            greeter: Greeter::new(life, others, now),
            commands: VecDeque::new(),
        };
        founding.greet(now);
        founding
    }

    /// A peer's hello.
    pub fn handle_hello(&mut self, hello: Hello, now: Duration) {
        self.greeter.take(hello, now);
        self.greet(now);
    }

    /// Messages to this peer have a way.
    pub fn handle_peer_up(&mut self, peer: Slot, now: Duration) {
        self.greeter.owe(peer);
        self.greet(now);
    }

    /// The deadline of [`poll_timeout`](Self::poll_timeout) has passed. Harmless before.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.greet(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout): the next hello is due.
    pub fn poll_timeout(&self) -> Duration {
        self.greeter.next()
    }

    /// The next hello to send. Drain after every call.
    pub fn next_command(&mut self) -> Option<Greeting> {
        self.commands.pop_front()
    }

    fn greet(&mut self, now: Duration) {
        for to in self.greeter.due(WAITING_BEAT, now) {
            let hello = Hello {
                slot: self.slot,
                store: self.store,
                life: self.greeter.life,
                sequence: self.greeter.number(),
                heard: self.greeter.life_of(to),
                generation: 0,
                versions: self.versions,
                standing: Standing::Waiting,
            };
            self.commands.push_back(Greeting { to, hello });
        }
    }

    fn answers(&self) -> impl Iterator<Item = (&Slot, Option<&Hello>)> {
        let others = self.greeter.others().iter();
        others.map(|slot| (slot, self.greeter.fresh(*slot)))
    }

    /// What this replica is, once that is known. It must be durable before the replica acts.
    pub fn decision(&self) -> Option<Decision> {
        self.decide_by_active()
            .or_else(|| self.decide_by_founder())
            .or_else(|| self.decide_together())
    }

    fn decide_by_active(&self) -> Option<Decision> {
        let answers = || self.answers().filter_map(|(_, hello)| hello);
        let newest = answers().map(|hello| hello.generation).max()?;
        let member = answers().find_map(|hello| match &hello.standing {
            Standing::Member(member) if member.serving && hello.generation == newest => {
                Some(member)
            }
            Standing::Member(_) | Standing::Waiting | Standing::Joining(_) => None,
        })?;
        if newest == 0 && self.is_founder_of(member) {
            return Some(Decision::Found(member.founders.clone()));
        }
        let incarnation = member
            .membership
            .newest(self.slot)
            .map_or(0, ReplicaId::incarnation);
        // Incarnations are counted by lost disks: four billion of them are not survived.
        let id = ReplicaId::new(self.slot, incarnation.saturating_add(1)).ok()?;
        Some(Decision::Join {
            id,
            generation: newest,
        })
    }

    /// Whether a member knows this very store as the first of its slot, and of no later one.
    fn is_founder_of(&self, member: &Member) -> bool {
        member.founders.get(&self.slot) == Some(&self.store)
            && member.membership.newest(self.slot) == Some(ReplicaId::first(self.slot))
    }

    /// A founder that knows this store by name: it was waited for, and has only not decided yet.
    fn decide_by_founder(&self) -> Option<Decision> {
        let mut known = None;
        for hello in self.answers().filter_map(|(_, hello)| hello) {
            match &hello.standing {
                Standing::Member(member) if hello.generation == 0 && self.is_founder_of(member) => {
                    known = known.or(Some(&member.founders));
                }
                Standing::Member(_) => return None,
                Standing::Waiting | Standing::Joining(_) => {}
            }
        }
        known.cloned().map(Decision::Found)
    }

    fn decide_together(&self) -> Option<Decision> {
        let mut founders = Founders::from([(self.slot, self.store)]);
        for (slot, hello) in self.answers() {
            let hello = hello?;
            match &hello.standing {
                Standing::Waiting => drop(founders.insert(*slot, hello.store)),
                Standing::Member(_) | Standing::Joining(_) => return None,
            }
        }
        Some(Decision::Found(founders))
    }

    /// What it still waits for.
    pub fn waiting(&self) -> Waiting {
        let silent: Vec<_> = self
            .answers()
            .filter(|(_, hello)| hello.is_none())
            .map(|(slot, _)| *slot)
            .collect();
        let exists =
            self.answers()
                .filter_map(|(_, hello)| hello)
                .any(|hello| match &hello.standing {
                    Standing::Waiting => false,
                    Standing::Joining(_) => true,
                    Standing::Member(member) => !self.is_founder_of(member),
                });
        if exists || silent.is_empty() {
            Waiting::Active
        } else {
            Waiting::Founders(silent)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Membership, Position};

    const OWN: StoreId = StoreId(2);
    const LIFE: u64 = 22;

    fn founding() -> Founding {
        let others = BTreeSet::from([Slot::A, Slot::Witness]);
        Founding::new(
            (Slot::B, OWN),
            LIFE,
            others,
            Versions::SUPPORTED,
            Duration::ZERO,
        )
    }

    fn hello(slot: Slot, heard: u64, standing: Standing) -> Hello {
        Hello {
            slot,
            store: StoreId(u128::from(slot.number()) + 100),
            life: 7,
            sequence: 1,
            heard,
            generation: 0,
            versions: Versions::SUPPORTED,
            standing,
        }
    }

    fn member(slot: Slot, of_b: StoreId, newest: u32, serving: bool) -> Standing {
        let voters = [
            ReplicaId::first(Slot::A),
            ReplicaId::new(Slot::B, newest).unwrap(),
            ReplicaId::first(Slot::Witness),
        ];
        Standing::Member(Member {
            id: ReplicaId::first(slot),
            applied: Position { index: 9, term: 3 },
            membership: Membership {
                voters: voters.into(),
                ..Membership::default()
            },
            founders: Founders::from([(Slot::B, of_b)]),
            serving,
        })
    }

    fn decide(hellos: impl IntoIterator<Item = Hello>) -> Option<Decision> {
        let mut founding = founding();
        for hello in hellos {
            founding.handle_hello(hello, Duration::ZERO);
        }
        founding.decision()
    }

    fn join(incarnation: u32) -> Option<Decision> {
        Some(Decision::Join {
            id: ReplicaId::new(Slot::B, incarnation).unwrap(),
            generation: 0,
        })
    }

    #[test]
    fn founding_needs_an_answer_of_everybody() {
        let a = hello(Slot::A, LIFE, Standing::Waiting);
        let witness = hello(Slot::Witness, LIFE, Standing::Waiting);
        assert_eq!(decide([a.clone()]), None);
        let unheard = hello(Slot::Witness, 0, Standing::Waiting);
        assert_eq!(decide([a.clone(), unheard]), None, "not an answer to us");
        let before = hello(Slot::Witness, LIFE + 1, Standing::Waiting);
        assert_eq!(
            decide([a.clone(), before]),
            None,
            "an answer to an earlier life"
        );
        let founders = Founders::from([
            (Slot::A, StoreId(101)),
            (Slot::B, OWN),
            (Slot::Witness, StoreId(103)),
        ]);
        assert_eq!(decide([a, witness]), Some(Decision::Found(founders)));
    }

    #[test]
    fn a_store_that_lost_its_log_waits_for_the_active_and_joins_as_the_next() {
        let follower = || hello(Slot::A, LIFE, member(Slot::A, StoreId(55), 1, false));
        let waiting = hello(Slot::Witness, LIFE, Standing::Waiting);
        assert_eq!(
            decide([follower(), waiting]),
            None,
            "nobody who knows the newest membership"
        );
        let active = |newest| hello(Slot::A, LIFE, member(Slot::A, StoreId(55), newest, true));
        assert_eq!(decide([active(1)]), join(2));
        assert_eq!(decide([active(7)]), join(8));
        let late = hello(Slot::A, 3, member(Slot::A, StoreId(55), 1, true));
        assert_eq!(decide([late]), None, "said before we started");
    }

    #[test]
    fn an_undecided_founder_may_come_late() {
        let active = hello(Slot::A, LIFE, member(Slot::A, OWN, 1, true));
        assert!(matches!(decide([active]), Some(Decision::Found(_))));
        let replaced = hello(Slot::A, LIFE, member(Slot::A, OWN, 2, true));
        assert_eq!(decide([replaced]), join(3));
        let founded = hello(Slot::A, LIFE, member(Slot::A, OWN, 1, false));
        assert!(matches!(decide([founded]), Some(Decision::Found(_))));
        let founded = hello(Slot::A, LIFE, member(Slot::A, OWN, 1, false));
        let other = hello(
            Slot::Witness,
            LIFE,
            member(Slot::Witness, StoreId(55), 1, false),
        );
        assert_eq!(
            decide([founded, other]),
            None,
            "one of them knows another store"
        );
    }

    #[test]
    fn the_newest_generation_counts() {
        let stale = hello(Slot::A, LIFE, member(Slot::A, OWN, 1, true));
        let mut forced = hello(
            Slot::Witness,
            LIFE,
            member(Slot::Witness, StoreId(55), 4, true),
        );
        forced.generation = 1;
        let wanted = Decision::Join {
            id: ReplicaId::new(Slot::B, 5).unwrap(),
            generation: 1,
        };
        assert_eq!(decide([stale, forced]), Some(wanted));
    }

    #[test]
    fn it_says_whom_it_waits_for_and_greets_in_a_bounded_beat() {
        let mut founding = founding();
        let greeted: Vec<_> = std::iter::from_fn(|| founding.next_command()).collect();
        assert_eq!(greeted.len(), 2);
        let both = Waiting::Founders(vec![Slot::A, Slot::Witness]);
        assert_eq!(founding.waiting(), both);
        assert_eq!(
            both.to_string(),
            "waiting for a and witness to found the pair"
        );
        // A peer that never hears us is answered, but not at the pace it sets.
        for sequence in 1..=100 {
            let asking = Hello {
                sequence,
                ..hello(Slot::A, 0, Standing::Waiting)
            };
            founding.handle_hello(asking, Duration::from_millis(sequence));
        }
        let answers = std::iter::from_fn(|| founding.next_command()).count();
        assert!((5..=10).contains(&answers), "{answers}");
        let answer = hello(Slot::A, LIFE, Standing::Waiting);
        founding.handle_hello(
            Hello {
                sequence: 200,
                ..answer
            },
            Duration::from_millis(200),
        );
        assert_eq!(founding.waiting(), Waiting::Founders(vec![Slot::Witness]));
        let known = hello(
            Slot::Witness,
            LIFE,
            member(Slot::Witness, StoreId(9), 1, false),
        );
        founding.handle_hello(known, Duration::from_millis(200));
        assert_eq!(founding.waiting(), Waiting::Active);
    }
}
