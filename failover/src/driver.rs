//! The task that owns the address engine and a mover.
//!
//! One task, started by [`spawn`]. It follows a watch of the desired place (skipping intermediate values is
//! safe) and ends when the sender of that watch is dropped, after releasing the addresses, or after
//! `FAREWELL` if that does not succeed. All work for the mover is polled inside this task: an abandoned
//! operation is dropped, and with it gone, before the next one starts.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tandem_failover_core::address::{
    AddressPhase, Command, FailureKind, ObservationId, OperationId, Presence, Source,
};
use tandem_failover_core::{AddressEngine, AddressStatus, Desired, Slot};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinHandle};

use crate::clock::boottime;
use crate::mover::{Change, Mover, MoverError};
use crate::report::log_transition;

/// A mover bounds its own steps; this bounds a mover that does not answer at all. The engine then tries again.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the task tries to release the addresses once nobody desires anything any more.
const FAREWELL: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub slot: Slot,
    /// Seed of the jitter: different on every node.
    pub seed: u64,
}

/// The running driver. Dropping this leaves the task running for as long as the desired place has a sender.
#[derive(Debug)]
pub struct AddressTask {
    status: watch::Receiver<AddressStatus>,
    heal: Arc<Notify>,
    task: JoinHandle<()>,
}

impl AddressTask {
    pub fn status(&self) -> watch::Receiver<AddressStatus> {
        self.status.clone()
    }

    /// For whoever learns that a partition healed or hears a lower epoch.
    pub fn healer(&self) -> Healer {
        Healer(self.heal.clone())
    }

    /// Waits for the end of the task. An error is a panic in it: nobody manages the address any more.
    pub async fn finished(self) -> Result<(), JoinError> {
        self.task.await
    }
}

/// Makes the driver announce again and look again.
#[derive(Clone, Debug)]
pub struct Healer(Arc<Notify>);

impl Healer {
    /// A partition healed, or a lower epoch was heard. Skipping repeats is safe.
    pub fn heal(&self) {
        self.0.notify_one();
    }
}

/// Starts the driver. Must be called inside a tokio runtime. A closed `desired` means `Release`, then the end.
pub fn spawn(
    settings: Settings,
    mover: Arc<dyn Mover>,
    desired: watch::Receiver<Desired>,
) -> AddressTask {
    let engine = AddressEngine::new(mover.config(), settings.seed, boottime());
    let (publisher, status) = watch::channel(engine.status());
    let heal = Arc::new(Notify::new());
    let driver = Driver {
        slot: settings.slot,
        engine,
        mover,
        operation: None,
        looks: FuturesUnordered::new(),
        announcements: FuturesUnordered::new(),
        publisher,
        heal: heal.clone(),
    };
    let task = tokio::spawn(driver.run(desired));
    AddressTask { status, heal, task }
}

struct Operation {
    id: OperationId,
    future: BoxFuture<'static, Result<(), MoverError>>,
}

struct Look {
    id: ObservationId,
    source: Source,
    result: Result<Presence, MoverError>,
}

struct Driver {
    slot: Slot,
    engine: AddressEngine,
    mover: Arc<dyn Mover>,
    operation: Option<Operation>,
    /// The engine has one look per source that counts; older ones end by `OBSERVE_TIMEOUT`.
    looks: FuturesUnordered<BoxFuture<'static, Look>>,
    announcements: FuturesUnordered<BoxFuture<'static, Result<(), MoverError>>>,
    publisher: watch::Sender<AddressStatus>,
    heal: Arc<Notify>,
}

impl Driver {
    async fn run(mut self, mut desired: watch::Receiver<Desired>) {
        let current = *desired.borrow_and_update();
        self.engine.handle_desired(current, boottime());
        let mut farewell = None;
        loop {
            self.execute();
            self.publish();
            let released = self.publisher.borrow().phase == AddressPhase::Released;
            if farewell.is_some_and(|until| released || boottime() >= until) {
                return;
            }
            let deadline = self.deadline(farewell);
            let mover = self.mover.clone();
            tokio::select! {
                changed = desired.changed(), if farewell.is_none() => {
                    let value = match changed {
                        Ok(()) => *desired.borrow_and_update(),
                        Err(_closed) => {
                            farewell = Some(boottime() + FAREWELL);
                            Desired::Release
                        }
                    };
                    self.engine.handle_desired(value, boottime());
                }
                result = finish(&mut self.operation) => self.finished(result),
                Some(look) = self.looks.next() => self.looked(look),
                Some(result) = self.announcements.next() => {
                    if let Err(error) = result {
                        tracing::warn!(mover = self.mover.name(), %error, "announcement failed");
                    }
                }
                change = mover.changed() => match change {
                    Change::Addresses => self.engine.handle_hint(Source::Netlink, boottime()),
                    Change::LinkUp => self.engine.handle_heal(boottime()),
                },
                () = self.heal.notified() => self.engine.handle_heal(boottime()),
                () = sleep_until(deadline) => self.engine.handle_timeout(boottime()),
            }
        }
    }

    fn deadline(&self, farewell: Option<Duration>) -> Option<Duration> {
        let engine = self.engine.poll_timeout().map(|(at, _reason)| at);
        engine.into_iter().chain(farewell).min()
    }

    /// Carries out what the engine has decided.
    fn execute(&mut self) {
        while let Some(command) = self.engine.next_command() {
            let mover = self.mover.clone();
            match command {
                Command::Claim { id, epoch } => {
                    let future = Box::pin(async move {
                        within(OPERATION_TIMEOUT, "claim", mover.claim(epoch)).await
                    });
                    self.operation = Some(Operation { id, future });
                }
                Command::Release { id } => {
                    let future = Box::pin(async move {
                        within(OPERATION_TIMEOUT, "release", mover.release()).await
                    });
                    self.operation = Some(Operation { id, future });
                }
                Command::Abandon { id } => {
                    self.operation.take_if(|operation| operation.id == id);
                }
                Command::Observe { id, source } => self.looks.push(Box::pin(async move {
                    let observation = mover.observe(source);
                    let result = within(OBSERVE_TIMEOUT, source.as_str(), observation).await;
                    Look { id, source, result }
                })),
                Command::Announce { epoch: _, copies } => {
                    self.announcements.push(Box::pin(async move {
                        within(OPERATION_TIMEOUT, "announce", mover.announce(copies)).await
                    }))
                }
                Command::Transition(transition) => log_transition(&transition, self.slot),
            }
        }
    }

    fn finished(&mut self, (id, result): (OperationId, Result<(), MoverError>)) {
        if let Err(error) = &result {
            let attempts = self.publisher.borrow().attempts;
            tracing::warn!(
                mover = self.mover.name(),
                kind = ?error.kind,
                attempts,
                %error,
                "moving the address failed; trying again"
            );
        }
        self.engine
            .handle_result(id, result.map_err(Into::into), boottime());
    }

    fn looked(&mut self, look: Look) {
        let Look { id, source, result } = look;
        if let Err(error) = &result {
            let source = source.as_str();
            tracing::warn!(source, kind = ?error.kind, %error, "cannot see where the address is");
        }
        self.engine
            .handle_observation(id, source, result.map_err(Into::into), boottime());
    }

    fn publish(&self) {
        let status = self.engine.status();
        self.publisher.send_if_modified(|published| {
            let modified = *published != status;
            *published = status;
            modified
        });
    }
}

/// Waits for the operation in flight, for ever if there is none. Cancel-safe: the operation stays.
async fn finish(operation: &mut Option<Operation>) -> (OperationId, Result<(), MoverError>) {
    let Some(current) = operation else {
        return pending().await;
    };
    let result = current.future.as_mut().await;
    let id = current.id;
    *operation = None;
    (id, result)
}

async fn within<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = Result<T, MoverError>>,
) -> Result<T, MoverError> {
    match tokio::time::timeout(limit, future).await {
        Ok(result) => result,
        Err(_elapsed) => {
            let text = format!("{what}: no answer within {limit:?}");
            Err(MoverError::new(FailureKind::Timeout, text))
        }
    }
}

async fn sleep_until(deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.saturating_sub(boottime())).await,
        None => pending().await,
    }
}
