//! The media ports of one realm.
//!
//! Ports are handed out in pairs, in a circle, so that a pair comes back as late as the range allows; after its
//! release it also rests for the quarantine, because a phone that missed the BYE keeps sending to it and those
//! packets must not meet the next call.

use std::{ops::RangeInclusive, time::Duration};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pair {
    Free { from: Duration },
    Taken,
}

/// A pool of even/odd port pairs, named by their even port.
#[derive(Debug)]
pub struct PortPool {
    first: u16,
    pairs: Vec<Pair>,
    next: usize,
    taken: usize,
    quarantine: Duration,
    exhausted: u64,
}

impl PortPool {
    /// A pool over the pairs that lie entirely inside `range`. Port zero is never handed out.
    pub fn new(range: RangeInclusive<u16>, quarantine: Duration) -> PortPool {
        let first = (u32::from(*range.start()).next_multiple_of(2)).max(2);
        let after_last = u32::from(*range.end()) + 1;
        let pairs = after_last.saturating_sub(first) / 2;
        PortPool {
            // Beyond 65,535 only when no pair fits, and then `first` is never read.
            first: u16::try_from(first).unwrap_or(u16::MAX),
            pairs: vec![
                Pair::Free {
                    from: Duration::ZERO
                };
                pairs as usize
            ],
            next: 0,
            taken: 0,
            quarantine,
            exhausted: 0,
        }
    }

    /// The even port of a pair that is now the caller's. `None` when every pair is taken or resting; the refusal
    /// is counted in [`PortPool::exhausted`].
    pub fn allocate(&mut self, now: Duration) -> Option<u16> {
        let count = self.pairs.len();
        let found = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|&place| match self.pairs.get(place) {
                Some(Pair::Free { from }) => *from <= now,
                Some(Pair::Taken) | None => false,
            });
        let Some(place) = found else {
            self.exhausted += 1;
            return None;
        };
        self.take(place);
        self.next = (place + 1) % count;
        self.port_at(place)
    }

    /// Takes this very pair, for a call that another node placed on it. A resting pair is given too: the
    /// replicated call is already using it. `false` when it is taken or not one of this pool's.
    pub fn reserve(&mut self, port: u16) -> bool {
        let Some(place) = self.place_of(port) else {
            return false;
        };
        match self.pairs.get(place) {
            Some(Pair::Free { .. }) => {
                self.take(place);
                true
            }
            Some(Pair::Taken) | None => false,
        }
    }

    /// Gives a pair back; it rests for the quarantine. `false` when it was not taken.
    pub fn release(&mut self, port: u16, now: Duration) -> bool {
        let from = now.saturating_add(self.quarantine);
        let Some(pair) = self.place_of(port).and_then(|p| self.pairs.get_mut(p)) else {
            return false;
        };
        match *pair {
            Pair::Taken => {
                *pair = Pair::Free { from };
                self.taken -= 1;
                true
            }
            Pair::Free { .. } => false,
        }
    }

    /// Pairs the range holds.
    pub fn capacity(&self) -> usize {
        self.pairs.len()
    }

    /// Pairs in use.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// How often [`PortPool::allocate`] had nothing to give.
    pub fn exhausted(&self) -> u64 {
        self.exhausted
    }

    fn take(&mut self, place: usize) {
        if let Some(pair) = self.pairs.get_mut(place) {
            *pair = Pair::Taken;
            self.taken += 1;
        }
    }

    fn place_of(&self, port: u16) -> Option<usize> {
        let offset = port.checked_sub(self.first)?;
        let place = usize::from(offset / 2);
        (offset.is_multiple_of(2) && place < self.pairs.len()).then_some(place)
    }

    fn port_at(&self, place: usize) -> Option<u16> {
        let offset = u16::try_from(place.checked_mul(2)?).ok()?;
        self.first.checked_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any, prop_oneof, proptest};
    use std::collections::BTreeMap;

    const REST: Duration = Duration::from_secs(10);

    #[test]
    fn pairs_lie_inside_the_range() {
        let cases = [
            (20000..=20003, vec![20000, 20002]),
            (20001..=20004, vec![20002]),
            (20001..=20002, vec![]),
            (0..=3, vec![2]),
            (65533..=65535, vec![65534]),
            (65535..=65535, vec![]),
        ];
        for (range, expected) in cases {
            let mut pool = PortPool::new(range.clone(), REST);
            let got: Vec<u16> = std::iter::from_fn(|| pool.allocate(Duration::ZERO)).collect();
            assert_eq!(got, expected, "{range:?}");
            assert_eq!(pool.exhausted(), 1);
        }
    }

    #[test]
    fn a_released_pair_comes_back_last_and_only_after_its_rest() {
        let mut pool = PortPool::new(100..=105, REST);
        let start = Duration::from_secs(1);
        assert_eq!(pool.allocate(start), Some(100));
        assert!(pool.release(100, start));
        assert_eq!(pool.allocate(start), Some(102));
        assert_eq!(pool.allocate(start), Some(104));
        assert_eq!(pool.allocate(start + REST / 2), None);
        assert_eq!(pool.allocate(start + REST), Some(100));
    }

    #[test]
    fn pairs_go_round_even_when_none_has_to_rest() {
        let mut pool = PortPool::new(100..=107, Duration::ZERO);
        let ports: Vec<u16> = (0..5)
            .filter_map(|_| {
                let port = pool.allocate(Duration::ZERO)?;
                assert!(pool.release(port, Duration::ZERO));
                Some(port)
            })
            .collect();
        assert_eq!(ports, [100, 102, 104, 106, 100]);
    }

    #[test]
    fn a_replicated_call_gets_its_pair_even_while_it_rests() {
        let mut pool = PortPool::new(100..=101, REST);
        assert!(pool.reserve(100));
        assert!(!pool.reserve(100), "taken");
        assert!(pool.release(100, Duration::ZERO));
        assert!(pool.reserve(100));
        assert!(!pool.reserve(101), "odd");
        assert!(!pool.reserve(102), "outside");
        assert!(!pool.release(102, Duration::ZERO));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate,
        Reserve(u16),
        Release(u16),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => proptest::strategy::Just(Step::Allocate),
            1 => (90u16..120).prop_map(Step::Reserve),
            3 => (90u16..120).prop_map(Step::Release),
            2 => (0u64..20).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// No pair is held twice, none outside the range is held, and none returns before its rest is over
        /// unless it was asked for by name.
        #[test]
        fn pairs_are_exclusive(steps in proptest::collection::vec(step(), 0..200), end in 100u16..116) {
            let mut pool = PortPool::new(100..=end, REST);
            let mut held = BTreeMap::new();
            let mut released: BTreeMap<u16, Duration> = BTreeMap::new();
            let mut now = Duration::from_secs(60);
            for step in steps {
                match step {
                    Step::Allocate => match pool.allocate(now) {
                        Some(port) => {
                            assert!(port.is_multiple_of(2) && (100..end).contains(&port));
                            assert!(held.insert(port, ()).is_none());
                            if let Some(at) = released.get(&port) {
                                assert!(now >= *at + REST);
                            }
                        }
                        None => {
                            let resting = released
                                .iter()
                                .filter(|(port, at)| !held.contains_key(*port) && now < **at + REST)
                                .count();
                            assert_eq!(held.len() + resting, pool.capacity());
                        }
                    },
                    Step::Reserve(port) => {
                        if pool.reserve(port) {
                            assert!(held.insert(port, ()).is_none());
                        }
                    }
                    Step::Release(port) => {
                        let was_held = held.remove(&port).is_some();
                        assert_eq!(pool.release(port, now), was_held);
                        if was_held {
                            released.insert(port, now);
                        }
                    }
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                assert_eq!(pool.taken(), held.len());
            }
        }

        #[test]
        fn any_range_is_accepted(start in any::<u16>(), end in any::<u16>()) {
            let mut pool = PortPool::new(start..=end, REST);
            if let Some(port) = pool.allocate(Duration::ZERO) {
                assert!(port >= start && port < end);
            }
        }
    }
}
