//! What a replica needs to know to start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use tandem_replication_core::{Limits, OnSingle, Profile, Slot, Versions};

use crate::hooks::Hooks;
use crate::pki::KeyPaths;
use crate::store::{BootId, Durability};

/// Settings of one replica.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This replica's slot. Which incarnation of it this is, its store knows, or the others do.
    pub slot: Slot,
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
    /// What the active does when a replica is gone; the same on both data nodes.
    pub on_single: OnSingle,
    /// The cluster versions this build reads and writes.
    pub versions: Versions,
    /// Seed of the random part of the election timeouts.
    pub seed: u64,
    /// What the node does on the Raft thread.
    pub hooks: Hooks,
}

impl Settings {
    /// Settings with default timing and bounds.
    pub fn new(
        slot: Slot,
        state_dir: PathBuf,
        listen: SocketAddr,
        peers: BTreeMap<Slot, SocketAddr>,
        keys: KeyPaths,
    ) -> Settings {
        Settings {
            slot,
            state_dir,
            listen,
            peers,
            keys,
            profile: Profile::default(),
            limits: Limits::default(),
            durability: Durability::default(),
            disk_low_water: None,
            boot: None,
            on_single: OnSingle::default(),
            versions: Versions::SUPPORTED,
            seed: rand::random(),
            hooks: Hooks::default(),
        }
    }
}
