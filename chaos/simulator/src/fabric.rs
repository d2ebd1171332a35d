//! Where packets to the floating address go: an EC2 VPC whose API is slow, throttles and shows old state, or a LAN
//! that follows the last announcement.

use std::collections::BTreeSet;
use std::time::Duration;

use tandem_failover_core::address::{
    AddressConfig, Failure, FailureKind, Presence, Source, SourcePolicy,
};

/// Which network the machines stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricKind {
    Ec2,
    Lan,
}

/// The network's own state.
#[derive(Debug)]
pub(crate) struct Fabric {
    pub(crate) kind: FabricKind,
    /// Who gets the packets, since when; the newest last.
    history: Vec<(Duration, Option<usize>)>,
    /// Moves that the API has accepted and that have no effect yet.
    coming: Vec<(Duration, usize)>,
    /// Whose kernel has the address on its interface.
    local: BTreeSet<usize>,
}

impl Fabric {
    pub(crate) fn new(kind: FabricKind) -> Fabric {
        Fabric {
            kind,
            history: vec![(Duration::ZERO, None)],
            coming: Vec::new(),
            local: BTreeSet::new(),
        }
    }

    /// What a mover on this network watches.
    pub(crate) fn address_config(&self) -> AddressConfig {
        match self.kind {
            FabricKind::Ec2 => AddressConfig {
                sources: vec![SourcePolicy::NETLINK, SourcePolicy::EC2_DESCRIBE],
                announces: false,
            },
            FabricKind::Lan => AddressConfig {
                sources: vec![SourcePolicy::NETLINK],
                announces: true,
            },
        }
    }

    /// Who gets packets now.
    pub(crate) fn holder(&mut self, now: Duration) -> Option<usize> {
        self.settle(now);
        let holder = self.seen_at(now)?;
        self.local.contains(&holder).then_some(holder)
    }

    /// The kernel puts the address on the interface.
    pub(crate) fn add_local(&mut self, node: usize) {
        self.local.insert(node);
    }

    /// The kernel takes it off.
    pub(crate) fn remove_local(&mut self, node: usize) {
        self.local.remove(&node);
    }

    /// The API has accepted a claim; the packets follow later.
    pub(crate) fn accept_claim(&mut self, node: usize, effect_at: Duration) {
        self.coming.push((effect_at, node));
    }

    /// A gratuitous ARP reached the network.
    pub(crate) fn announced(&mut self, node: usize, now: Duration) {
        if self.kind == FabricKind::Lan && self.local.contains(&node) {
            self.history.push((now, Some(node)));
        }
    }

    /// A look at a source, which shows what was true at `as_of`.
    pub(crate) fn look(
        &mut self,
        node: usize,
        source: Source,
        now: Duration,
        as_of: Duration,
    ) -> Presence {
        self.settle(now);
        let here = match source {
            Source::Netlink => self.local.contains(&node),
            Source::Ec2Describe => self.seen_at(as_of) == Some(node),
        };
        if here { Presence::All } else { Presence::None }
    }

    fn settle(&mut self, now: Duration) {
        self.coming.sort_by_key(|(at, _)| *at);
        for (at, node) in self.coming.extract_if(.., |(at, _)| *at <= now) {
            self.history.push((at, Some(node)));
        }
    }

    fn seen_at(&self, moment: Duration) -> Option<usize> {
        let newest = self.history.iter().rev();
        newest
            .into_iter()
            .find(|(since, _)| *since <= moment)
            .and_then(|(_, holder)| *holder)
    }
}

/// Why an operation of the API failed.
pub(crate) fn failure(kind: FailureKind) -> Failure {
    Failure {
        kind,
        text: format!("{kind:?}"),
    }
}
