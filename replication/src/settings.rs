//! What a replica needs to know to start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use tandem_replication_core::{Limits, Profile, ReplicaId, Slot};

use crate::hooks::Hooks;
use crate::pki::KeyPaths;
use crate::store::{BootId, Durability};

/// Settings of one replica.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This replica: its slot and incarnation.
    pub id: ReplicaId,
    /// The first voters of a new pair; used with an empty store only. Empty: wait to be added by a leader.
    pub voters: Vec<ReplicaId>,
    /// Where log and table are kept. Created if absent.
    pub state_dir: PathBuf,
    /// UDP address of the peer link.
    pub listen: SocketAddr,
    /// UDP addresses of the other nodes.
    pub peers: BTreeMap<Slot, SocketAddr>,
    /// This node's keys.
    pub keys: KeyPaths,
    /// Timing; the same on all nodes of a pair.
    pub profile: Profile,
    /// Bounds; the same on all nodes of a pair.
    pub limits: Limits,
    /// What an acknowledged entry survives on this replica.
    pub durability: Durability,
    /// Free bytes on the state directory's file system below which [`DiskLow`](crate::Event::DiskLow) is reported.
    /// `None`: 256 MiB, or 5 % of the file system if that is less.
    pub disk_low_water: Option<u64>,
    /// Which boot of the machine this is, for tests that restart it. `None`: the present one.
    pub boot: Option<BootId>,
    /// Seed of the random part of the election timeouts.
    pub seed: u64,
    /// What the node does on the Raft thread.
    pub hooks: Hooks,
}

impl Settings {
    /// Settings with default timing and bounds. In its first incarnation a replica founds the pair together
    /// with the first incarnations of its peers; in a later one it waits to be added.
    pub fn new(
        id: ReplicaId,
        state_dir: PathBuf,
        listen: SocketAddr,
        peers: BTreeMap<Slot, SocketAddr>,
        keys: KeyPaths,
    ) -> Settings {
        let slots = peers.keys().copied().chain([id.slot()]);
        let voters = if id.incarnation() == 1 {
            slots.map(ReplicaId::first).collect()
        } else {
            Vec::new()
        };
        Settings {
            id,
            voters,
            state_dir,
            listen,
            peers,
            keys,
            profile: Profile::default(),
            limits: Limits::default(),
            durability: Durability::default(),
            disk_low_water: None,
            boot: None,
            seed: rand::random(),
            hooks: Hooks::default(),
        }
    }
}
