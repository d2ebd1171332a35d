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
use crate::store::{Confirm, Store, StoreError, StoreThread};

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
        seed,
    } = settings;
    let credentials = Credentials::load(&keys, id.slot())?;
    let (store, restored) = Store::open(&state_dir, id)?;
    tracing::info!(
        %id,
        path = %state_dir.display(),
        term = restored.hard_state.term,
        applied = restored.applied,
        rows = restored.table.len(),
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
    let meter = Arc::new(StoreMeter::default());
    let confirm = ToMailbox(Arc::clone(&mailbox));
    let store = match StoreThread::start(store, Arc::clone(&meter), confirm) {
        Ok(store) => store,
        Err(error) => {
            link.stop(runtime);
            return Err(error.into());
        }
    };

    let shared = Arc::new(Shared::new(replica.status(), meter, link));
    let driver = Driver {
        replica,
        mailbox: Arc::clone(&mailbox),
        shared: Arc::clone(&shared),
        store,
        runtime: runtime.clone(),
        sink,
        local: Local::default(),
    };
    let thread = match Builder::new()
        .name("tandem-raft".to_owned())
        .spawn(move || driver.run(stored))
    {
        Ok(thread) => thread,
        Err(error) => {
            shared.link.stop(runtime);
            return Err(error.into());
        }
    };
    Ok(Replication::new(mailbox, shared, slots, thread))
}

/// The store thread's way to the Raft thread.
struct ToMailbox(Arc<Mailbox>);

impl Confirm for ToMailbox {
    fn persisted(&self, write: WriteId) {
        self.0.report(Report::Persisted(write));
    }

    fn failed(&self, error: StoreError) {
        self.0.report(Report::StoreFailed(error));
    }
}
