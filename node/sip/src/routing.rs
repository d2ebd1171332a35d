//! The order in which the targets of a group are tried: RFC 2782 priorities and weights.
//!
//! The whole order is drawn once, when the call arrives, and kept in the call's record: a takeover in the middle of
//! hunting goes on with the list the first owner drew.

use std::net::SocketAddr;

use rand::Rng;

use crate::config::Target;

/// Draws the order of attempts, at most `limit` of them.
///
/// RFC 2782: targets of the lowest-numbered priority come first; among equals "the running sum of weights" decides,
/// with zero weights placed first so that they keep a small chance.
pub fn order(targets: &[Target], limit: usize, rng: &mut impl Rng) -> Vec<SocketAddr> {
    let mut rest: Vec<&Target> = targets.iter().collect();
    rest.sort_by_key(|target| (target.priority, target.weight != 0));
    let mut ordered = Vec::with_capacity(rest.len().min(limit));
    while ordered.len() < limit {
        let Some(first) = rest.first() else { break };
        let same = rest
            .iter()
            .take_while(|target| target.priority == first.priority)
            .count();
        let chosen = draw(rest.get(..same).unwrap_or_default(), rng);
        ordered.push(rest.remove(chosen).address);
    }
    ordered
}

/// Index of the first target whose running sum of weights reaches a uniform number in 0..=total.
fn draw(equals: &[&Target], rng: &mut impl Rng) -> usize {
    let total: u64 = equals.iter().map(|target| u64::from(target.weight)).sum();
    let mark = rng.random_range(0..=total);
    let mut sum = 0;
    equals
        .iter()
        .position(|target| {
            sum += u64::from(target.weight);
            sum >= mark
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn target(port: u16, priority: u16, weight: u16) -> Target {
        Target {
            address: SocketAddr::from(([192, 0, 2, 1], port)),
            priority,
            weight,
        }
    }

    #[test]
    fn priorities_are_tried_in_order_and_every_target_once() {
        let targets = [
            target(3, 2, 9),
            target(1, 1, 5),
            target(4, 2, 1),
            target(2, 1, 5),
        ];
        for seed in 0..100 {
            let mut ports: Vec<u16> = order(&targets, 8, &mut StdRng::seed_from_u64(seed))
                .iter()
                .map(SocketAddr::port)
                .collect();
            ports[..2].sort_unstable();
            ports[2..].sort_unstable();
            assert_eq!(ports, [1, 2, 3, 4]);
        }
    }

    #[test]
    fn weights_share_the_first_place() {
        let targets = [target(1, 1, 1), target(2, 1, 9), target(3, 1, 0)];
        let mut rng = StdRng::seed_from_u64(7);
        let mut first = [0u32; 4];
        for _ in 0..11_000 {
            first[usize::from(order(&targets, 8, &mut rng)[0].port())] += 1;
        }
        // The draw is over 0..=10: a zero weight wins one time in eleven.
        assert!((800..1200).contains(&first[1]), "{first:?}");
        assert!((8600..9400).contains(&first[2]), "{first:?}");
        assert!((800..1200).contains(&first[3]), "{first:?}");
    }

    #[test]
    fn the_list_is_bounded() {
        let targets: Vec<Target> = (1..50).map(|port| target(port, port, 1)).collect();
        assert_eq!(order(&targets, 4, &mut StdRng::seed_from_u64(0)).len(), 4);
        assert!(order(&[], 4, &mut StdRng::seed_from_u64(0)).is_empty());
    }
}
