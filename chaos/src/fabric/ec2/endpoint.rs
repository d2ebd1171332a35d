//! The EC2 Query endpoint: HTTP in the router's namespace over the pure [`Vpc`].
//!
//! One thread `ec2-endpoint` lives in the router's namespace with a single-threaded runtime: an
//! accept loop, one task per connection, and the effects task, which wakes when an accepted change
//! falls due. All of them end when the `Endpoint` is dropped. The data plane is programmed (by a
//! short `nft` run) while the table is locked, so that routes change in the order of the table's
//! versions, and a change without delay is in force before its call is answered.

use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener as StdTcpListener};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rand::SeedableRng;
use rand::rngs::StdRng;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use super::error::ApiError;
use super::faults::{Fault, Faults, Outage};
use super::log::{Call, Effect, Log, Outcome};
use super::query::{Form, Request};
use super::router::Router;
use super::state::{Change, State};
use super::vpc::{Command, Vpc};
use super::xml;
use crate::clock::boottime;

/// Connections served at once. At the bound new ones wait in the listen queue.
const MAX_CONNECTIONS: usize = 256;
/// A longer request body is answered with an error.
const MAX_BODY: usize = 64 * 1024;
/// Seeds the faults' probabilities: a drill's calls meet the same fate every time.
const RANDOM_SEED: u64 = 0xEC2;

/// A running endpoint.
pub(super) struct Endpoint {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    router: Router,
    address: SocketAddrV4,
    table: Mutex<Table>,
    /// Tells the effects task that the next due time may have changed.
    due: Notify,
    mode: watch::Sender<Mode>,
}

struct Table {
    vpc: Vpc,
    faults: Faults,
    random: StdRng,
    log: Log,
    requests: u64,
}

/// What the connection tasks watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    Resetting,
    Stopped,
}

/// How a call ends for its connection.
enum Reply {
    Answer(StatusCode, String),
    Close,
    Never,
}

/// Closes a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the response is lost on purpose")]
struct LostResponse;

impl Endpoint {
    /// Programs `state` into the router and serves at `address`, which the router has. The endpoint
    /// accepts connections when this returns.
    pub(super) fn start(
        router: Router,
        state: State,
        address: SocketAddrV4,
    ) -> anyhow::Result<Endpoint> {
        let namespace = router.namespace().clone();
        let listener = namespace
            .run_in(|| StdTcpListener::bind(address))?
            .with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            router,
            address,
            table: Mutex::new(Table {
                vpc: Vpc::new(state, boottime()),
                faults: Faults::default(),
                random: StdRng::seed_from_u64(RANDOM_SEED),
                log: Log::default(),
                requests: 0,
            }),
            due: Notify::new(),
            mode: watch::Sender::new(Mode::Serving),
        });
        shared.settle(&mut shared.table())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let server = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("ec2-endpoint".to_owned())
            .spawn(move || runtime.block_on(server.run(listener)))?;
        Ok(Endpoint {
            shared,
            thread: Some(thread),
        })
    }

    pub(super) fn router(&self) -> &Router {
        &self.shared.router
    }

    /// The table that packets follow now.
    pub(super) fn effective(&self) -> State {
        self.shared.table().vpc.effective().clone()
    }

    pub(super) fn faults(&self) -> Faults {
        self.shared.table().faults.clone()
    }

    pub(super) fn set_faults(&self, faults: Faults) -> anyhow::Result<()> {
        let shared = &self.shared;
        let mode = match faults.outage {
            Some(Outage::Reset) => Mode::Resetting,
            Some(Outage::Silent) | None => Mode::Serving,
        };
        let reachable = faults.outage != Some(Outage::Silent);
        let mut table = shared.table();
        shared
            .router
            .set_reachable(shared.address.port(), reachable)?;
        table.faults = faults;
        shared.mode.send_replace(mode);
        Ok(())
    }

    /// Makes a change as an operator with a console would: no faults, no delay, not logged as a
    /// call.
    pub(super) fn change(&self, change: &Change) -> anyhow::Result<()> {
        let mut table = self.shared.table();
        table
            .vpc
            .handle_change(change, Duration::ZERO, boottime())?;
        self.shared.settle(&mut table)
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.shared.table().log.calls()
    }

    pub(super) fn effects(&self) -> Vec<Effect> {
        self.shared.table().log.effects()
    }

    pub(super) fn forgotten_log_entries(&self) -> u64 {
        self.shared.table().log.forgotten()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shared.mode.send_replace(Mode::Stopped);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; nothing is left to stop.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("address", &self.shared.address)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every holder leaves the table whole between two statements.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts due changes into force: table, data plane, log.
    fn settle(&self, table: &mut Table) -> anyhow::Result<()> {
        table.vpc.handle_timeout(boottime());
        while let Some(Command::Program(state)) = table.vpc.next_command() {
            self.router.program(&state)?;
            let holders = state.interfaces().flat_map(|interface| {
                let id = &interface.id;
                interface
                    .secondaries
                    .iter()
                    .map(move |address| (*address, id.clone()))
            });
            table.log.effect(Effect {
                at: boottime(),
                holders: holders.collect(),
            });
        }
        Ok(())
    }

    async fn run(self: Arc<Self>, listener: StdTcpListener) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the EC2 endpoint cannot listen");
                return;
            }
        };
        let mut mode = self.mode.subscribe();
        tokio::select! {
            // The sender lives in `self`, so the wait ends only by the value.
            _ = mode.wait_for(|mode| *mode == Mode::Stopped) => {}
            never = self.accept(listener) => match never {},
            never = self.run_effects() => match never {},
        }
    }

    async fn run_effects(&self) -> Infallible {
        loop {
            let due = {
                let mut table = self.table();
                if let Err(error) = self.settle(&mut table) {
                    tracing::error!(%error, "the VPC's data plane does not follow its table");
                }
                table.vpc.poll_timeout().map(|(due, _)| due)
            };
            match due {
                None => self.due.notified().await,
                Some(due) => {
                    let wait = due.saturating_sub(boottime());
                    // Cut short by a new change: it cannot be due earlier, looking again is cheap.
                    let _ = tokio::time::timeout(wait, self.due.notified()).await;
                }
            }
        }
    }

    async fn accept(self: &Arc<Self>, listener: TcpListener) -> Infallible {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await;
            match listener.accept().await {
                Ok((stream, SocketAddr::V4(peer))) => {
                    let connection = Arc::clone(self);
                    tokio::spawn(async move {
                        connection.serve(stream, *peer.ip()).await;
                        drop(slot);
                    });
                }
                Ok((_, SocketAddr::V6(_))) => {}
                Err(error) => tracing::debug!(%error, "accept on the EC2 endpoint"),
            }
        }
    }

    /// One connection, until it ends or the endpoint stops being there.
    async fn serve(self: Arc<Self>, stream: TcpStream, caller: Ipv4Addr) {
        let Ok(handle) = stream.as_fd().try_clone_to_owned() else {
            return;
        };
        let mut mode = self.mode.subscribe();
        let service = service_fn(|request| {
            let shared = Arc::clone(&self);
            async move { shared.handle(request, caller).await }
        });
        tokio::select! {
            // First, so that an outage beats a request that has arrived already.
            biased;
            _ = mode.wait_for(|mode| *mode != Mode::Serving) => {
                // Closing with zero linger time resets the connection (socket(7)).
                if let Err(error) = SockRef::from(&handle).set_linger(Some(Duration::ZERO)) {
                    tracing::debug!(%error, "linger option");
                }
            }
            result = http1::Builder::new().serve_connection(TokioIo::new(stream), service) => {
                if let Err(error) = result {
                    tracing::debug!(%error, %caller, "connection to the EC2 endpoint");
                }
            }
        }
    }

    async fn handle(
        &self,
        request: HttpRequest<Incoming>,
        caller: Ipv4Addr,
    ) -> Result<Response<Full<Bytes>>, LostResponse> {
        let received = boottime();
        let form = match read_form(request).await {
            Ok(form) => form,
            Err(status) => return Ok(respond(status, String::new())),
        };
        let latency = self.table().faults.latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        match self.call(&form, caller, received) {
            Reply::Answer(status, body) => Ok(respond(status, body)),
            Reply::Close => Err(LostResponse),
            Reply::Never => std::future::pending().await,
        }
    }

    fn call(&self, form: &Form, caller: Ipv4Addr, received: Duration) -> Reply {
        let mut table = self.table();
        let table = &mut *table;
        table.requests += 1;
        let request_id = format!("00000000-0000-4000-8000-{:012x}", table.requests);
        let fault = table
            .faults
            .decide(form.action(), caller, &mut table.random);
        let result = match fault {
            Some(Fault::Hang) => None,
            Some(Fault::Throttled) => Some(Err(ApiError::RequestLimitExceeded)),
            Some(Fault::Unauthorized) => Some(Err(ApiError::Unauthorized)),
            Some(Fault::InternalError) => Some(Err(ApiError::Internal)),
            Some(Fault::Unavailable) => Some(Err(ApiError::Unavailable)),
            Some(Fault::LostResponse) | None => Some(self.execute(table, form, &request_id)),
        };
        let (outcome, reply) = match result {
            None => (Outcome::Hung, Reply::Never),
            Some(_) if fault == Some(Fault::LostResponse) => (Outcome::Lost, Reply::Close),
            Some(Ok(body)) => (Outcome::Succeeded, Reply::Answer(StatusCode::OK, body)),
            Some(Err(error)) => (Outcome::Failed(error.code()), refuse(&error, &request_id)),
        };
        table.log.call(Call {
            received,
            decided: boottime(),
            caller,
            action: form.action().to_owned(),
            parameters: form.summary(),
            outcome,
        });
        reply
    }

    fn execute(
        &self,
        table: &mut Table,
        form: &Form,
        request_id: &str,
    ) -> Result<String, ApiError> {
        match Request::parse(form)? {
            Request::Change {
                change,
                dry_run: true,
            } => {
                table.vpc.check(&change)?;
                Err(ApiError::DryRun)
            }
            Request::Change {
                change,
                dry_run: false,
            } => {
                let delay = table.faults.effect_delay;
                let changed = table.vpc.handle_change(&change, delay, boottime())?;
                self.settle(table).map_err(|error| {
                    tracing::error!(%error, "the VPC's data plane does not follow its table");
                    ApiError::Internal
                })?;
                self.due.notify_one();
                Ok(xml::changed(&changed, request_id))
            }
            Request::Describe { dry_run: true, .. } => Err(ApiError::DryRun),
            Request::Describe {
                what,
                dry_run: false,
            } => {
                let now = boottime();
                self.settle(table).map_err(|_| ApiError::Internal)?;
                let state = table.vpc.described(table.faults.staleness, now);
                xml::described(state, &what, request_id)
            }
        }
    }
}

/// The parameters of a call: the body of a POST, or the query of a GET.
async fn read_form(request: HttpRequest<Incoming>) -> Result<Form, StatusCode> {
    match request.method().as_str() {
        "GET" => Ok(Form::decode(
            request.uri().query().unwrap_or_default().as_bytes(),
        )),
        "POST" => match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => Ok(Form::decode(&body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
            Err(_) => Err(StatusCode::BAD_REQUEST),
        },
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn refuse(error: &ApiError, request_id: &str) -> Reply {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    Reply::Answer(status, xml::error(error, request_id))
}

fn respond(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/xml;charset=UTF-8"),
    );
    response
}
