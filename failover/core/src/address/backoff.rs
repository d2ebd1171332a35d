//! Pauses between attempts: 50 ms to 5 s, doubling, jittered, without an end to the attempts.

use std::time::Duration;

use rand::Rng;

pub(super) const SHORTEST: Duration = Duration::from_millis(50);
pub(super) const LONGEST: Duration = Duration::from_secs(5);

/// The upper bound of the first pause; half of it is the lower bound.
const FIRST: Duration = Duration::from_millis(100);

/// Doublings after which the pause no longer grows.
const MAX_DOUBLINGS: u32 = 6;

/// The pause after the `failures`-th failure in a row, from 1. The jitter takes up to half of it away, so
/// that two nodes do not keep in step.
pub(super) fn pause(failures: u32, rng: &mut impl Rng) -> Duration {
    let doublings = failures.saturating_sub(1).min(MAX_DOUBLINGS);
    let upper = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let lower = (upper / 2).max(SHORTEST);
    rng.random_range(lower..=upper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn grows_to_its_bound_and_stays_inside() {
        let mut rng = StdRng::seed_from_u64(7);
        for failures in 0..=100 {
            let pause = pause(failures, &mut rng);
            assert!(
                pause >= SHORTEST && pause <= LONGEST,
                "{failures}: {pause:?}"
            );
        }
        assert!(pause(1, &mut rng) <= FIRST);
        assert!(pause(50, &mut rng) >= LONGEST / 2);
        assert!(pause(u32::MAX, &mut rng) <= LONGEST);
    }

    #[test]
    fn two_seeds_do_not_keep_in_step() {
        let draw = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            (1..=8)
                .map(|failures| pause(failures, &mut rng))
                .collect::<Vec<_>>()
        };
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1), draw(1));
    }
}
