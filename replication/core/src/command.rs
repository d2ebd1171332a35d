//! What the shell executes, in order, and what it gives back at the next start.

use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, HardState, Message};

use crate::{Change, Greeting, ProposalId, ReplicaId, Table, WriteId};

/// A side effect. The shell executes commands in the order they come out.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Transmit a message. Loss is tolerated; corruption is not.
    Send {
        /// The receiver.
        to: ReplicaId,
        /// The message. Its snapshot data, if any, is the encoded table.
        message: Message,
        /// How it wants to travel.
        class: MessageClass,
    },
    /// Transmit a hello to this slot, like a [`Datagram`](MessageClass::Datagram).
    Greet(Greeting),
    /// Make durable, then call [`handle_persisted`](crate::Replica::handle_persisted).
    Persist(Write),
    /// An entry was committed and applied to the table. Indices are contiguous, except across
    /// [`Restored`](Command::Restored).
    Applied {
        /// Log index.
        index: u64,
        /// The term the entry was proposed in.
        term: u64,
        /// Set when this replica, in this life, proposed it.
        proposal: Option<ProposalId>,
        /// Empty for the entry that opens a term and for membership changes.
        changes: Vec<Change>,
    },
    /// The proposal is not confirmed to its proposer and never will be. Its changes may still
    /// commit under the next leader; the proposer must reveal nothing that depends on them.
    Dropped {
        /// What [`propose`](crate::Replica::propose) returned.
        proposal: ProposalId,
    },
    /// A snapshot replaced the table: read it afresh.
    Restored {
        /// The last log index the table includes.
        index: u64,
    },
    /// The role, the term or the known leader changed.
    Role(Role),
    /// This replica may serve until `until`, as leader of `term`. Everything committed before it was
    /// elected has come out as [`Applied`](Command::Applied) before the first of these.
    Lease {
        /// The leader's term.
        term: u64,
        /// CLOCK_BOOTTIME; exclusive.
        until: Duration,
    },
    /// The right to serve ended: expired, deposed or handed on.
    LeaseLost {
        /// The term of the lost lease.
        term: u64,
    },
}

/// The transport a message wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageClass {
    /// Small, useless when late: heartbeats, votes and their answers.
    Datagram,
    /// Ordered and of any size: appends and their answers.
    Stream,
    /// Carries the whole table. Report the outcome with
    /// [`handle_snapshot_sent`](crate::Replica::handle_snapshot_sent).
    Snapshot,
}

/// What this replica is, as the shell sees it. A pre-candidate counts as a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Elected; the right to serve comes separately, as a lease.
    Leader {
        /// The term led.
        term: u64,
    },
    /// Follows, perhaps nobody yet.
    Follower {
        /// The current term.
        term: u64,
        /// The leader, if one is known.
        leader: Option<ReplicaId>,
    },
    /// Stands for election.
    Candidate {
        /// The current term.
        term: u64,
    },
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Log index, from 1; 0 is before the first entry.
    pub index: u64,
    /// The term of the entry there; 0 before the first entry.
    pub term: u64,
}

/// One atomic change of the store. Parts are executed in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Confirm with this.
    pub id: WriteId,
    /// Replaces log, table, applied index and compacted position.
    pub snapshot: Option<SnapshotWrite>,
    /// Delete log entries from this index on, before `entries` go in.
    pub truncate_from: Option<u64>,
    /// Contiguous log entries to append.
    pub entries: Vec<Entry>,
    /// Term, vote and commit index.
    pub hard_state: Option<HardState>,
    /// Membership.
    pub conf_state: Option<ConfState>,
    /// Changes of the table, in order.
    pub changes: Vec<Change>,
    /// The table now includes everything up to this index.
    pub applied: Option<u64>,
    /// Delete log entries up to and including this one, and store its position.
    pub compact_to: Option<Position>,
    /// Whether it must have reached the disk before it is confirmed. Otherwise a later write's sync
    /// suffices: losing it in a power cut is safe.
    pub must_sync: bool,
}

/// The state a snapshot leaves behind.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotWrite {
    /// Where the snapshot was taken: the new compacted position and applied index.
    pub position: Position,
    /// The whole table.
    pub table: Table,
}

/// What the store holds at start. The default is an empty store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Restored {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// Membership; empty in an empty store.
    pub conf_state: ConfState,
    /// The log behind `compacted`, contiguous.
    pub entries: Vec<Entry>,
    /// The last position that is no longer in the log.
    pub compacted: Position,
    /// What `table` includes.
    pub applied: u64,
    /// The table.
    pub table: Table,
}

/// Where a new pair's log begins. Not before the first index: who comes without a log is sent a snapshot,
/// which tells it the membership, and never entries from the first on.
const FOUNDED: Position = Position { index: 1, term: 1 };

impl Restored {
    /// What every founder's store holds at first.
    pub(crate) fn founded(conf_state: ConfState) -> Restored {
        Restored {
            hard_state: HardState {
                term: FOUNDED.term,
                commit: FOUNDED.index,
                ..HardState::default()
            },
            conf_state,
            compacted: FOUNDED,
            applied: FOUNDED.index,
            ..Restored::default()
        }
    }
}

impl Restored {
    /// What a write makes of a store: its meaning, which a store on a disk has to give it and a simulated one is.
    pub fn execute(&mut self, write: Write) {
        if let Some(snapshot) = write.snapshot {
            self.entries.clear();
            self.compacted = snapshot.position;
            self.applied = snapshot.position.index;
            self.table = snapshot.table;
        }
        if let Some(from) = write.truncate_from {
            while self.entries.pop_if(|entry| entry.index >= from).is_some() {}
        }
        self.entries.extend(write.entries);
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(conf_state) = write.conf_state {
            self.conf_state = conf_state;
        }
        for change in write.changes {
            match change {
                Change::Put { key, value } => self.table.insert(key, value),
                Change::Delete { key } => self.table.remove(&key),
            };
        }
        self.applied = write.applied.unwrap_or(self.applied);
        if let Some(position) = write.compact_to {
            self.entries.retain(|entry| entry.index > position.index);
            self.compacted = position;
        }
    }
}

impl Write {
    /// Puts [`Restored::founded`] into an empty store.
    pub(crate) fn founding(founded: &Restored) -> Write {
        Write {
            snapshot: Some(SnapshotWrite {
                position: founded.compacted,
                table: Table::new(),
            }),
            hard_state: Some(founded.hard_state.clone()),
            conf_state: Some(founded.conf_state.clone()),
            must_sync: true,
            ..Write::empty()
        }
    }

    pub(crate) fn empty() -> Write {
        Write {
            id: WriteId(0),
            snapshot: None,
            truncate_from: None,
            entries: Vec::new(),
            hard_state: None,
            conf_state: None,
            changes: Vec::new(),
            applied: None,
            compact_to: None,
            must_sync: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.snapshot.is_none()
            && self.truncate_from.is_none()
            && self.entries.is_empty()
            && self.hard_state.is_none()
            && self.conf_state.is_none()
            && self.applied.is_none()
            && self.compact_to.is_none()
    }

    /// Makes one write of this and a later one.
    pub(crate) fn absorb(&mut self, later: Write) {
        let hard_state = later.hard_state.or(self.hard_state.take());
        if later.snapshot.is_some() {
            // Everything else is replaced by the snapshot.
            *self = Write {
                id: self.id,
                hard_state,
                ..later
            };
            return;
        }
        if let Some(from) = later.truncate_from {
            self.entries.retain(|entry| entry.index < from);
            self.truncate_from = Some(self.truncate_from.map_or(from, |earlier| earlier.min(from)));
        }
        self.hard_state = hard_state;
        self.entries.extend(later.entries);
        self.conf_state = later.conf_state.or(self.conf_state.take());
        self.changes.extend(later.changes);
        self.applied = later.applied.or(self.applied);
        self.compact_to = later.compact_to.or(self.compact_to);
        self.must_sync |= later.must_sync;
    }
}
