//! What the engine itself counts; the cores count for themselves.

/// Totals since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// SIP datagrams that came while this node was not the owner.
    pub not_owner: u64,
    /// Log entries proposed.
    pub proposals: u64,
    /// Batches that could not be proposed; the node then stops serving this epoch.
    pub proposals_refused: u64,
    /// Times ownership was handed over because the disk was running full.
    pub handed_over_disk_low: u64,
    /// Table entries that could not be decoded.
    pub undecodable: u64,
}
