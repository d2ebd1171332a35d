//! The worker: builds the parts of a node, connects them, and waits for the end.
//!
//! Threads and tasks started here, in this order: the peer link's; tokio's workers; replication's `raft` and `store`;
//! on a data node the media relays, one SIP receiver per realm, the CDR writer, the address driver and
//! the engine; then the admin server. SIGTERM stops the engine (gate closed, address released) before
//! replication leaves.

use std::{fs, ops::RangeInclusive, sync::Arc, thread};

use anyhow::{Context, anyhow};
use nix::sys::signal::Signal;
use tandem_datapath::{Datapath, Gate, MediaRealm};
use tandem_engine::{Engine, failover_slot};
use tandem_failover::{AddressTask, L2Mover, Mover};
use tandem_failover_core::Desired;
use tandem_failover_ec2::{Ec2Mover, Ec2Settings};
use tandem_media::RealmNumber;
use tandem_replication::{Event, Hooks, KeyPaths, Replication, Settings};
use tandem_sip::{
    config::{CallTimers, Limits, SipConfig},
    flow::RealmId,
    transaction::TimerConfig,
};
use tokio::{
    runtime::{Handle, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::info;

use crate::{
    admin::{self, Observed},
    cdr::CdrFile,
    cli::GuardArgs,
    config::{self, Border, Config},
    engine::{Parts, Shell},
    fatal::Fatal,
    guard::beat::Heart,
    inbox::{self, Inbox, Input, Sender},
    link_thread::LinkThread,
    realtime::{Rank, Realtime},
    signalling::RealmSocket,
    status::EngineView,
};

/// Two: the address driver must not wait for an admin request.
const RUNTIME_THREADS: usize = 2;

/// Runs until SIGTERM, SIGINT, or the death of the guard.
pub(crate) fn run(config: Config, guard: GuardArgs) -> anyhow::Result<()> {
    // Without its guard a worker must not go on: nobody would withdraw the address after it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("asking to die with the guard")?;
    fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("node.state_dir {}", config.state_dir.display()))?;
    let realtime = Realtime::prepare(config.realtime)?;
    let heart = Arc::new(Heart::of_this_worker().context("the guard's socket")?);
    let link = LinkThread::start(realtime.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .context("the runtime")?;
    let _entered = runtime.enter();
    let (sender, inbox) = inbox::inbox();
    let (fatal, mut failed) = Fatal::channel();
    let replication = start_replication(
        &config,
        link.handle(),
        hooks(&realtime, &heart),
        sender.clone(),
        fatal.clone(),
    )?;
    let node = match &config.border {
        Some(border) => Some(Node::start(
            &config,
            border,
            inbox,
            &sender,
            replication.clone(),
            realtime.clone(),
            fatal,
        )?),
        None => {
            drop(inbox);
            None
        }
    };
    if let (Some(heart), Some(node)) = (&*heart, &node) {
        heart.watch_engine(node.view.clone());
    }
    let observed = Observed {
        slot: config.slot,
        realtime,
        guard,
        replication: replication.clone(),
        node: node.as_ref().map(Node::observed),
    };
    let ended = runtime.block_on(async {
        let server = admin::listen(config.admin, observed).await?;
        let life = format_args!("{:016x}", guard.life);
        info!(slot = %config.slot, pid = std::process::id(), %life, admin = %config.admin, "worker started");
        let ended = tokio::select! {
            result = wait_for_signal() => result,
            reason = failed.raised() => Err(anyhow!(reason)),
        };
        server.abort();
        ended
    });
    info!("worker stopping");
    if let Some(node) = node {
        node.stop(&sender, &runtime);
    }
    replication.shutdown();
    link.stop();
    ended
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn start_replication(
    config: &Config,
    link: &Handle,
    hooks: Hooks,
    inbox: Sender,
    fatal: Fatal,
) -> anyhow::Result<Replication> {
    let mut peers = config.pair.addresses.clone();
    let listen = peers
        .remove(&config.slot)
        .context("pair: this node's own address")?;
    let keys = KeyPaths::in_directory(&config.pair.keys);
    let settings = Settings {
        profile: config.pair.profile,
        durability: config.pair.durability,
        hooks,
        on_single: config.pair.on_single,
        ..Settings::new(config.slot, config.state_dir.clone(), listen, peers, keys)
    };
    let replication = tandem_replication::start(settings, link, move |event| match event {
        Event::StoreFailed(error) => fatal.raise(&format!("replication ended: {error}")),
        // On the witness nobody listens: the inbox is closed and the events end here.
        event => {
            inbox.push(Input::Replication(event));
        }
    })?;
    Ok(replication)
}

/// What happens on the Raft thread besides Raft.
fn hooks(realtime: &Realtime, heart: &Arc<Option<Heart>>) -> Hooks {
    let (raft, store, heart) = (realtime.clone(), realtime.clone(), Arc::clone(heart));
    Hooks {
        started: Arc::new(move || raft.adopt(Rank::Heartbeats)),
        store_started: Arc::new(move || store.adopt(Rank::Engine)),
        pulse: Arc::new(move |pulse| {
            if let Some(heart) = &*heart {
                heart.beat(pulse);
            }
        }),
    }
}

/// A data node's running parts.
struct Node {
    engine: thread::JoinHandle<()>,
    address: AddressTask,
    mover: &'static str,
    view: watch::Receiver<EngineView>,
    datapath: Arc<Datapath>,
}

impl Node {
    fn start(
        config: &Config,
        border: &Border,
        inbox: Inbox,
        sender: &Sender,
        replication: Replication,
        realtime: Realtime,
        fatal: Fatal,
    ) -> anyhow::Result<Node> {
        let gate = Arc::new(Gate::new());
        let (desired, desired_place) = watch::channel(Desired::Release);
        let (view, observed_view) = watch::channel(EngineView::default());
        let datapath = Arc::new(start_datapath(border, Arc::clone(&gate), sender.clone())?);
        let sockets = (0..)
            .zip(&border.realms)
            .map(|(number, realm)| RealmSocket::open(RealmId(number), realm, sender.clone()))
            .collect::<anyhow::Result<_>>()?;
        let mover = mover(border)?;
        let mover_name = mover.name();
        let settings = tandem_failover::Settings {
            slot: failover_slot(config.slot),
            seed: rand::random(),
        };
        let address = tandem_failover::spawn(settings, mover, desired_place);
        let engine = Engine::new(tandem_engine::Settings {
            slot: config.slot,
            sip: sip_config(border),
            media_ports: media_ports(border),
            seed: rand::random(),
        });
        let shell = Shell::new(Parts {
            slot: config.slot,
            inbox,
            engine,
            sockets,
            datapath: Arc::clone(&datapath),
            gate,
            replication,
            desired,
            healer: address.healer(),
            cdrs: CdrFile::open(&border.cdr_path)?,
            view,
            fatal: fatal.clone(),
        });
        let engine = thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                realtime.adopt(Rank::Engine);
                fatal.guarded("the engine", || shell.run());
            })
            .context("starting the engine")?;
        Ok(Node {
            engine,
            address,
            mover: mover_name,
            view: observed_view,
            datapath,
        })
    }

    fn observed(&self) -> admin::Node {
        admin::Node {
            view: self.view.clone(),
            address: self.address.status(),
            mover: self.mover,
            datapath: Arc::clone(&self.datapath),
        }
    }

    /// The gate closes first, then the address leaves; what is committed stays with the peer.
    fn stop(self, sender: &Sender, runtime: &Runtime) {
        sender.push(Input::Stop);
        // A panic in it was what ended the worker, and has been reported.
        let _ = self.engine.join();
        if runtime.block_on(self.address.finished()).is_err() {
            tracing::error!("the address driver had panicked");
        }
    }
}

fn start_datapath(border: &Border, gate: Arc<Gate>, inbox: Sender) -> anyhow::Result<Datapath> {
    let realms = (0..)
        .zip(&border.realms)
        .map(|(number, realm)| MediaRealm {
            realm: RealmNumber(number),
            bind: realm.bind.ip(),
            ports: realm.media_ports.clone(),
        })
        .collect();
    Datapath::start(realms, gate, move |event| {
        inbox.push(Input::Media(event));
    })
}

fn mover(border: &Border) -> anyhow::Result<Arc<dyn Mover>> {
    let floating = &border.floating;
    match &floating.mover {
        config::Mover::L2 => {
            let mover = L2Mover::new(floating.interface.clone(), floating.addresses.clone());
            Ok(Arc::new(mover))
        }
        config::Mover::Ec2 {
            region,
            endpoint,
            own_eni,
        } => {
            let settings = Ec2Settings {
                region: region.clone(),
                endpoint: endpoint.clone(),
                network_interface: own_eni.clone(),
                interface: floating.interface.clone(),
                addresses: floating.addresses.clone(),
            };
            Ok(Arc::new(Ec2Mover::new(settings)?))
        }
    }
}

fn media_ports(border: &Border) -> Vec<RangeInclusive<u16>> {
    let realms = border.realms.iter();
    realms.map(|realm| realm.media_ports.clone()).collect()
}

fn sip_config(border: &Border) -> SipConfig {
    let realms = (0..)
        .zip(&border.realms)
        .map(|(number, realm)| tandem_sip::config::Realm {
            id: RealmId(number),
            name: realm.name.clone(),
            bound: realm.bind,
            advertised: realm.advertise,
        });
    let groups = border
        .groups
        .iter()
        .map(|group| tandem_sip::config::TargetGroup {
            name: group.name.clone(),
            realm: realm_id(group.realm),
            targets: group.targets.iter().map(target).collect(),
        });
    let routes = border.routes.iter().map(|route| tandem_sip::config::Route {
        from: realm_id(route.from),
        group: route.to,
    });
    SipConfig {
        realms: realms.collect(),
        groups: groups.collect(),
        routes: routes.collect(),
        timers: TimerConfig::default(),
        call_timers: CallTimers::default(),
        limits: Limits {
            calls: border.calls.unwrap_or(Limits::default().calls),
            ..Limits::default()
        },
        user_agent: concat!("tandem/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

fn target(target: &config::Target) -> tandem_sip::config::Target {
    let config::Target {
        address,
        priority,
        weight,
    } = *target;
    tandem_sip::config::Target {
        address,
        priority,
        weight,
    }
}

/// The configuration admits at most 64 realms.
fn realm_id(index: usize) -> RealmId {
    RealmId(u16::try_from(index).unwrap_or(u16::MAX))
}
