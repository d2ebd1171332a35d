//! One machine: its clocks, its disk, and the process that runs the cores.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tandem_engine::{Batch, Engine};
use tandem_failover_core::AddressEngine;
use tandem_failover_core::address::OperationId;
use tandem_replication_core::{Founding, ProposalId, Replica};

use crate::clock::{MachineClock, ms};
use crate::disk::{Decided, Disk, Durability};

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) clock: MachineClock,
    pub(super) disk: Disk,
    pub(super) process: Option<Process>,
    /// Counts starts; events of an earlier life are void.
    pub(super) life: u64,
    /// Number of the newest timer of each kind.
    pub(super) timers: [u64; 3],
    /// What each of these is set to, by CLOCK_BOOTTIME.
    pub(super) armed: [Option<Duration>; 3],
    pub(super) paused_until: Duration,
    pub(super) disk_free_at: Duration,
    /// What its store acknowledged from memory went with a power cut: the store is refused.
    pub(super) unclean: bool,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) party: Party,
    /// Drawn at each start; hellos carry it.
    pub(super) origin_life: u64,
    /// Proposals of the engine that are neither applied nor dropped.
    pub(super) batches: BTreeMap<ProposalId, Batch>,
    /// When the last item of the queue to the engine arrives: queues keep their order.
    pub(super) engine_queue: Duration,
    pub(super) replica_queue: Duration,
    pub(super) data: Option<Data>,
}

/// What the Raft thread drives.
#[derive(Debug)]
pub(super) enum Party {
    /// The store is empty: the others are asked who this is.
    Asking(Founding),
    /// That is known and on its way to the disk.
    Deciding(Decided),
    Replica(Box<Replica>),
}

/// What a data node has besides.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) engine: Engine,
    pub(super) address: AddressEngine,
    /// The operation that the mover works on.
    pub(super) operation: Option<OperationId>,
    /// Packets may leave until then, by CLOCK_BOOTTIME.
    pub(super) gate: Option<Duration>,
    /// Under which epoch the gate is open.
    pub(super) epoch: u64,
}

impl Machine {
    pub(super) fn new(rng: &mut StdRng, durability: Durability) -> Machine {
        Machine {
            clock: MachineClock {
                offset: Duration::from_secs(rng.random_range(10..100_000)),
                drift_ppm: rng.random_range(-200..=200),
                wall_ahead: ms(rng.random_range(0..5)),
            },
            disk: Disk::new(durability),
            process: None,
            life: 0,
            timers: [0; 3],
            armed: [None; 3],
            paused_until: Duration::ZERO,
            disk_free_at: Duration::ZERO,
            unclean: false,
        }
    }

    pub(super) fn replica(&self) -> Option<&Replica> {
        match &self.process.as_ref()?.party {
            Party::Replica(replica) => Some(replica),
            Party::Asking(_) | Party::Deciding(_) => None,
        }
    }

    pub(super) fn replica_mut(&mut self) -> Option<&mut Replica> {
        match &mut self.process.as_mut()?.party {
            Party::Replica(replica) => Some(replica),
            Party::Asking(_) | Party::Deciding(_) => None,
        }
    }

    pub(super) fn founding_mut(&mut self) -> Option<&mut Founding> {
        match &mut self.process.as_mut()?.party {
            Party::Asking(founding) => Some(founding),
            Party::Deciding(_) | Party::Replica(_) => None,
        }
    }

    pub(super) fn data(&self) -> Option<&Data> {
        self.process.as_ref()?.data.as_ref()
    }

    pub(super) fn data_mut(&mut self) -> Option<&mut Data> {
        self.process.as_mut()?.data.as_mut()
    }

    /// Whether a packet would leave at this true time, and under which epoch.
    pub(super) fn may_emit(&self, truth: Duration) -> Option<u64> {
        let data = self.data()?;
        let open = data
            .gate
            .is_some_and(|until| self.clock.boot(truth) < until);
        open.then_some(data.epoch)
    }
}
