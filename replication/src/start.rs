//! Putting a replica together.

use std::io;
use std::sync::Arc;
use std::thread::Builder;

use tandem_replication_core::{
    Config, ConfigError, Founding, Origin, Replica, ReplicaId, Restored, Status as CoreStatus,
    Table, WriteId,
};
use tokio::runtime::Handle;

use crate::clock;
use crate::driver::{Driver, End, Local, Shared, close, fail};
use crate::event::Event;
use crate::founding;
use crate::handle::Replication;
use crate::link::{Link, LinkError, LinkSettings};
use crate::mailbox::{Mailbox, Report};
use crate::measure::StoreMeter;
use crate::panics::guarded;
use crate::pki::{Credentials, PkiError};
use crate::settings::Settings;
use crate::store::{
    self, Birth, BootId, Confirm, Decided, Mode, SpaceChange, SpaceWatch, Store, StoreError,
    StoreThread,
};

/// Why replication did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keys cannot be loaded.
    #[error(transparent)]
    Keys(#[from] PkiError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store or the settings contradict themselves.
    #[error(transparent)]
    Replica(#[from] ConfigError),
    /// The peer link cannot be set up.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// Starts a replica: opens its store, binds its address, dials its peers. Events go to `sink`, on the Raft
/// thread, so it must not block; the first is [`Event::Restored`]. Connections live on `runtime`.
///
/// With an empty store it first asks the peers who it is; [`Status::waiting`](crate::Status::waiting) says so.
///
/// # Errors
/// See [`StartError`]; each variant names the file or address concerned. Nothing keeps running. What goes wrong
/// once the peers have answered is an [`Event::StoreFailed`].
pub fn start(
    settings: Settings,
    runtime: &Handle,
    mut sink: impl FnMut(Event) + Send + 'static,
) -> Result<Replication, StartError> {
    let credentials = Credentials::load(&settings.keys, settings.slot)?;
    let birth = Birth::open(&settings.state_dir, settings.slot)?;
    let boot = match settings.boot.clone() {
        Some(boot) => boot,
        None => BootId::of_machine()?,
    };
    let mailbox = Arc::new(Mailbox::default());
    let mut beginning = Beginning {
        life: rand::random_range(1..u64::MAX),
        mode: Mode {
            durability: settings.durability,
            boot,
        },
        mailbox: Arc::clone(&mailbox),
        meter: Arc::new(StoreMeter::new(settings.durability)),
        birth,
        settings,
    };
    let known = match beginning.birth.decided().cloned() {
        Some(decided) => Some(beginning.open(&decided)?),
        None => None,
    };
    let link_settings = LinkSettings {
        own: beginning.settings.slot,
        listen: beginning.settings.listen,
        peers: beginning.settings.peers.clone(),
    };
    let slots = link_settings.peers.keys().copied().collect();
    let link = Link::start(&link_settings, credentials, &mailbox, runtime)?;
    let status = match &known {
        Some(opened) => opened.replica.status(),
        None => CoreStatus::unknown(beginning.settings.slot),
    };
    let shared = Arc::new(Shared::new(status, Arc::clone(&beginning.meter), link));
    let thread = {
        let (shared, runtime) = (Arc::clone(&shared), runtime.clone());
        let builder = Builder::new().name("tandem-raft".to_owned());
        builder.spawn(move || {
            let opened = guarded(|| beginning.replica(known, &shared, &mut sink))
                .unwrap_or_else(|panic| Err(End::Failed(panic)));
            match opened {
                Ok(opened) => beginning.drive(opened, shared, runtime, sink),
                Err(end) => {
                    close(&beginning.mailbox, Vec::new(), &mut sink);
                    fail(&shared, end, &mut sink);
                    shared.link.stop(&runtime);
                }
            }
        })
    };
    match thread {
        Ok(thread) => Ok(Replication::new(mailbox, shared, slots, thread)),
        Err(error) => {
            shared.link.stop(runtime);
            Err(error.into())
        }
    }
}

/// What is needed to become a replica, however long it takes to know which.
struct Beginning {
    settings: Settings,
    birth: Birth,
    life: u64,
    mode: Mode,
    mailbox: Arc<Mailbox>,
    meter: Arc<StoreMeter>,
}

/// A replica and its store.
struct Opened {
    replica: Replica,
    store: StoreThread,
    /// What the node is told first.
    stored: (u64, Table),
}

impl Beginning {
    /// The replica of a store that knows who it is, or of one that is told by the others.
    fn replica(
        &mut self,
        known: Option<Opened>,
        shared: &Shared,
        sink: &mut impl FnMut(Event),
    ) -> Result<Opened, End> {
        if let Some(opened) = known {
            return Ok(opened);
        }
        let slot = self.settings.slot;
        let founding = Founding::new(
            (slot, self.birth.store),
            self.life,
            self.settings.peers.keys().copied().collect(),
            self.settings.versions,
            clock::now(),
        );
        let decision = founding::decide(founding, &self.mailbox, shared, sink)?;
        let decided = founding::decided(decision, slot);
        tracing::info!(id = %decided.id, generation = decided.generation, "this replica knows who it is");
        let opened = self
            .birth
            .decide(&self.settings.state_dir, decided.clone())
            .map_err(StartError::from)
            .and_then(|()| self.open(&decided));
        opened.map_err(|error| End::Failed(error.to_string()))
    }

    /// Opens the store of a replica that is decided. With an empty one it founds the pair, or waits to be added.
    fn open(&mut self, decided: &Decided) -> Result<Opened, StartError> {
        let Decided {
            id,
            generation,
            founders,
        } = decided.clone();
        store::finish_forced_takeover(&self.settings.state_dir, id, &self.mode)?;
        let (store, restored) = Store::open_with(&self.settings.state_dir, id, &self.mode)?;
        self.birth.mark_opened(&self.settings.state_dir)?;
        tracing::info!(
            %id,
            path = %self.settings.state_dir.display(),
            term = restored.hard_state.term,
            applied = restored.applied,
            rows = restored.table.len(),
            durability = %self.mode.durability,
            "store opened"
        );
        let empty = restored == Restored::default();
        let stored = (restored.applied, restored.table.clone());
        let others = self.settings.peers.keys().copied();
        let slots = others.clone().chain([id.slot()]);
        let founds = !founders.is_empty();
        let config = Config {
            id,
            voters: slots.filter(|_| founds).map(ReplicaId::first).collect(),
            profile: self.settings.profile,
            limits: self.settings.limits,
            seed: self.settings.seed,
            others: others.collect(),
            origin: Origin {
                store: self.birth.store,
                life: self.life,
                generation,
                founders,
            },
            on_single: self.settings.on_single,
            versions: self.settings.versions,
        };
        let replica = Replica::new(config, restored, clock::now())?;
        let stored = if empty {
            (replica.status().applied, Table::new())
        } else {
            stored
        };
        let confirm = ToMailbox(Arc::clone(&self.mailbox));
        let space = SpaceWatch::new(&self.settings.state_dir, self.settings.disk_low_water);
        let started = Arc::clone(&self.settings.hooks.store_started);
        let store = StoreThread::start(store, space, Arc::clone(&self.meter), confirm, started)?;
        Ok(Opened {
            replica,
            store,
            stored,
        })
    }

    fn drive(self, opened: Opened, shared: Arc<Shared>, runtime: Handle, sink: impl FnMut(Event)) {
        let driver = Driver {
            replica: opened.replica,
            mailbox: self.mailbox,
            shared,
            store: opened.store,
            runtime,
            sink,
            hooks: self.settings.hooks,
            birth: self.birth,
            state_dir: self.settings.state_dir,
            local: Local::default(),
        };
        driver.run(opened.stored);
    }
}

/// The store thread's way to the Raft thread.
struct ToMailbox(Arc<Mailbox>);

impl Confirm for ToMailbox {
    fn persisted(&self, write: WriteId) {
        self.0.report(Report::Persisted(write));
    }

    fn space(&self, change: SpaceChange) {
        self.0.report(Report::Space(change));
    }

    fn failed(&self, error: StoreError) {
        self.0.report(Report::StoreFailed(error));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::sync::mpsc::channel;

    use tandem_replication_core::eraftpb::{ConfState, Entry, HardState};
    use tandem_replication_core::{ReplicaId, Slot, Write};

    use super::*;
    use crate::pki::{KeyPaths, create_pair};

    /// What is committed but was not yet in the stored table is announced once, after the table.
    #[test]
    fn the_first_event_is_the_stored_table_and_the_rest_follows() {
        let directory = tempfile::tempdir().unwrap();
        create_pair(directory.path(), "test").unwrap();
        let id = ReplicaId::first(Slot::A);
        let state_dir = directory.path().join("state");
        let entry = |index| Entry {
            index,
            term: 1,
            ..Entry::default()
        };
        let (mut store, _) = Store::open(&state_dir, id).unwrap();
        store
            .write(&[Write {
                id: WriteId(1),
                snapshot: None,
                truncate_from: None,
                entries: vec![entry(1), entry(2), entry(3)],
                hard_state: Some(HardState {
                    term: 1,
                    commit: 3,
                    ..HardState::default()
                }),
                conf_state: Some(ConfState {
                    voters: crate::pki::SLOTS
                        .map(|slot| ReplicaId::first(slot).get())
                        .to_vec(),
                    ..ConfState::default()
                }),
                changes: Vec::new(),
                applied: Some(1),
                compact_to: None,
                must_sync: true,
            }])
            .unwrap();
        drop(store);

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let settings = Settings::new(
            Slot::A,
            state_dir,
            ([127, 0, 0, 1], 0).into(),
            BTreeMap::new(),
            KeyPaths::in_directory(&directory.path().join("a")),
        );
        let (events, received) = channel();
        let sink = move |event| drop(events.send(event));
        let replication = start(settings, runtime.handle(), sink).unwrap();
        let indices: Vec<_> = received
            .iter()
            .filter_map(|event| match event {
                Event::Restored { index, .. } => Some(("restored", index)),
                Event::Applied { index, .. } => Some(("applied", index)),
                _ => None,
            })
            .take(3)
            .collect();
        assert_eq!(indices, [("restored", 1), ("applied", 2), ("applied", 3)]);
        replication.shutdown();
    }
}
