//! Room on the store's file system: told before it ends, so that the node can hand over while it still can.
//!
//! ```text
//!          free < low-water mark
//!   enough ─────────────────────▶ low
//!          ◀─────────────────────
//!          free >= mark + a quarter
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

/// Default low-water mark: some minutes of a busy pair's log, and several of sled's segments.
const LOW_WATER_BYTES: u64 = 256 << 20;
/// On a file system where that would be much, the mark is this share of it.
const LOW_WATER_PERCENT: u64 = 5;
/// How often to look, at most: a full disk is minutes in the making.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The verdict changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpaceChange {
    /// Below the low-water mark.
    Low { free_bytes: u64 },
    /// Well above it again.
    Recovered,
}

/// Room for unprivileged writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
}

impl Space {
    fn of(path: &Path) -> nix::Result<Space> {
        let found = statvfs(path)?;
        let bytes = |blocks| u64::saturating_mul(blocks, found.fragment_size());
        Ok(Space {
            free_bytes: bytes(found.blocks_available()),
            total_bytes: bytes(found.blocks()),
        })
    }
}

/// Looks at one file system.
#[derive(Debug)]
pub(crate) struct SpaceWatch {
    path: PathBuf,
    low_water: Option<u64>,
    looked: Option<Instant>,
    low: bool,
}

impl SpaceWatch {
    /// A low-water mark of `None` is the default one: 256 MiB, or 5 % of the file system if that is less.
    pub(crate) fn new(path: &Path, low_water: Option<u64>) -> SpaceWatch {
        SpaceWatch {
            path: path.to_owned(),
            low_water,
            looked: None,
            low: false,
        }
    }

    /// Looks, unless it has just done so. Returns the free bytes, and what changed.
    pub(super) fn look(&mut self, now: Instant) -> Option<(u64, Option<SpaceChange>)> {
        let due = self
            .looked
            .is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_INTERVAL);
        if !due {
            return None;
        }
        self.looked = Some(now);
        match Space::of(&self.path) {
            Ok(space) => Some((space.free_bytes, self.judge(space))),
            // The next write says what is wrong with it.
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "cannot tell how much room is left");
                None
            }
        }
    }

    fn judge(&mut self, space: Space) -> Option<SpaceChange> {
        let Space {
            free_bytes,
            total_bytes,
        } = space;
        let share = total_bytes / 100 * LOW_WATER_PERCENT;
        let low_water = self.low_water.unwrap_or(LOW_WATER_BYTES.min(share));
        let high_water = low_water.saturating_add(low_water / 4);
        match self.low {
            false if free_bytes < low_water => {
                self.low = true;
                Some(SpaceChange::Low { free_bytes })
            }
            true if free_bytes >= high_water => {
                self.low = false;
                Some(SpaceChange::Recovered)
            }
            false | true => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_and_recovered_alternate_with_room_between() {
        let (mib, total_bytes) = (1 << 20, 1 << 40);
        let mut watch = SpaceWatch::new(Path::new("/"), None);
        let mut judge = |free_bytes| {
            watch.judge(Space {
                free_bytes,
                total_bytes,
            })
        };
        let low = |free_bytes| Some(SpaceChange::Low { free_bytes });
        for (free_bytes, expected) in [
            (256 * mib, None),
            (256 * mib - 1, low(256 * mib - 1)),
            (0, None),
            (256 * mib, None),
            (320 * mib - 1, None),
            (320 * mib, Some(SpaceChange::Recovered)),
            (400 * mib, None),
            (1, low(1)),
        ] {
            assert_eq!(judge(free_bytes), expected, "{free_bytes} free");
        }
    }

    #[test]
    fn the_mark_is_a_share_of_a_small_disk_and_can_be_set() {
        for (low_water, mark) in [(None, 50), (Some(700), 700)] {
            for (free_bytes, is_low) in [(mark, false), (mark - 1, true)] {
                let mut watch = SpaceWatch::new(Path::new("/"), low_water);
                let space = Space {
                    free_bytes,
                    total_bytes: 1000,
                };
                assert_eq!(watch.judge(space).is_some(), is_low, "{free_bytes} of 1000");
            }
        }
    }

    #[test]
    fn it_looks_once_an_interval() {
        let mut watch = SpaceWatch::new(Path::new("/"), Some(0));
        let now = Instant::now();
        assert!(watch.look(now).is_some_and(|(free, _)| free > 0));
        assert_eq!(watch.look(now + LOOK_INTERVAL / 2), None);
        assert!(watch.look(now + LOOK_INTERVAL).is_some());
    }
}
