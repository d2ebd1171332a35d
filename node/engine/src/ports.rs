//! Media ports for the SIP core, from the media core's pools: one pool per realm.

use std::{ops::RangeInclusive, time::Duration};

use tandem_media::PortPool;
use tandem_sip::{
    command::{MediaPort, MediaPorts},
    flow::RealmId,
};

/// A port of an ended call rests this long, so that late packets meet no new call.
const QUARANTINE: Duration = Duration::from_secs(5);

/// The pools of all realms, indexed by [`RealmId`].
#[derive(Debug)]
pub(crate) struct Pools {
    pools: Vec<PortPool>,
    now: Duration,
    ranges: Vec<RangeInclusive<u16>>,
}

fn pools(ranges: &[RangeInclusive<u16>]) -> Vec<PortPool> {
    ranges
        .iter()
        .map(|range| PortPool::new(range.clone(), QUARANTINE))
        .collect()
}

impl Pools {
    pub(crate) fn new(ranges: Vec<RangeInclusive<u16>>) -> Pools {
        Pools {
            pools: pools(&ranges),
            now: Duration::ZERO,
            ranges,
        }
    }

    /// All ports free again: a new owner reserves what its records name.
    pub(crate) fn reset(&mut self) {
        self.pools = pools(&self.ranges);
    }

    /// Sets the time for the calls of one batch: quarantine is counted in seconds, a batch in
    /// microseconds.
    pub(crate) fn at(&mut self, now: Duration) -> &mut Pools {
        self.now = now;
        self
    }

    fn pool(&mut self, realm: RealmId) -> Option<&mut PortPool> {
        self.pools.get_mut(usize::from(realm.0))
    }
}

impl MediaPorts for Pools {
    fn allocate(&mut self, realm: RealmId) -> Option<MediaPort> {
        let now = self.now;
        let rtp = self.pool(realm)?.allocate(now)?;
        Some(MediaPort { realm, rtp })
    }

    fn reserve(&mut self, port: MediaPort) -> bool {
        self.pool(port.realm)
            .is_some_and(|pool| pool.reserve(port.rtp))
    }

    fn release(&mut self, port: MediaPort) {
        let now = self.now;
        if let Some(pool) = self.pool(port.realm) {
            pool.release(port.rtp, now);
        }
    }
}
