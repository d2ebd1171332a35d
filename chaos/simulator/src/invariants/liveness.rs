//! Once everything is well, somebody serves and takes proposals within a stated bound.

use std::time::Duration;

use crate::clock::ms;

/// The bound and whether it was kept. It is asked about, not shown sightings: only the scheduler knows when all is
/// well.
#[derive(Debug)]
pub(crate) struct Liveness;

impl Liveness {
    pub(crate) const NAME: &'static str = "liveness after heal";

    /// From the heal until a node serves and a proposal commits. A node refuses votes for an election timeout after
    /// its start (100 ms), the witness may have to lead first (200 ms of silence) and hand on, a replica far behind
    /// may need a snapshot, and a disk that stalled has to come back.
    pub(crate) const BOUND: Duration = ms(2000);

    /// From then until every machine is a voter that holds everything. Who the active is travels in hellos: a lost one
    /// is repeated after a second. A new incarnation is heard, added, sent a snapshot and given its vote.
    pub(crate) const WHOLE: Duration = ms(4000);
}
