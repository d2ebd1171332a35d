//! Putting a replica together.

use std::io;
use std::sync::Arc;
use std::thread::Builder;

use tandem_replication_core::{Config, ConfigError, Replica, WriteId};
use tokio::runtime::Handle;

use crate::clock;
use crate::driver::{Driver, Local, Shared};
use crate::event::Event;
use crate::handle::Replication;
use crate::link::{Link, LinkError, LinkSettings};
use crate::mailbox::{Mailbox, Report};
use crate::measure::StoreMeter;
use crate::pki::{Credentials, PkiError};
use crate::settings::Settings;
use crate::store::{
    BootId, Confirm, Mode, SpaceChange, SpaceWatch, Store, StoreError, StoreThread,
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
/// # Errors
/// See [`StartError`]; each variant names the file or address concerned. Nothing keeps running.
pub fn start(
    settings: Settings,
    runtime: &Handle,
    sink: impl FnMut(Event) + Send + 'static,
) -> Result<Replication, StartError> {
    let Settings {
        id,
        voters,
        state_dir,
        listen,
        peers,
        keys,
        profile,
        limits,
        durability,
        disk_low_water,
        boot,
        seed,
        hooks,
    } = settings;
    let credentials = Credentials::load(&keys, id.slot())?;
    let boot = boot.map_or_else(BootId::of_machine, Ok)?;
    let (store, restored) = Store::open_with(&state_dir, id, &Mode { durability, boot })?;
    tracing::info!(
        %id,
        path = %state_dir.display(),
        term = restored.hard_state.term,
        applied = restored.applied,
        rows = restored.table.len(),
        %durability,
        "store opened"
    );
    let stored = (restored.applied, restored.table.clone());
    let config = Config {
        id,
        voters,
        profile,
        limits,
        seed,
    };
    let replica = Replica::new(config, restored, clock::now())?;

    let mailbox = Arc::new(Mailbox::default());
    let slots = peers.keys().copied().collect();
    let link_settings = LinkSettings {
        own: id.slot(),
        listen,
        peers,
    };
    let link = Link::start(&link_settings, credentials, &mailbox, runtime)?;
    let meter = Arc::new(StoreMeter::new(durability));
    let space = SpaceWatch::new(&state_dir, disk_low_water);
    let confirm = ToMailbox(Arc::clone(&mailbox));
    let started = Arc::clone(&hooks.store_started);
    let store = StoreThread::start(store, space, Arc::clone(&meter), confirm, started)
        .inspect_err(|_| link.stop(runtime))?;

    let shared = Arc::new(Shared::new(replica.status(), meter, link));
    let driver = Driver {
        replica,
        mailbox: Arc::clone(&mailbox),
        shared: Arc::clone(&shared),
        store,
        runtime: runtime.clone(),
        sink,
        hooks,
        local: Local::default(),
    };
    let builder = Builder::new().name("tandem-raft".to_owned());
    match builder.spawn(move || driver.run(stored)) {
        Ok(thread) => Ok(Replication::new(mailbox, shared, slots, thread)),
        Err(error) => {
            shared.link.stop(runtime);
            Err(error.into())
        }
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
            id,
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
