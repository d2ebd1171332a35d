//! The admin address: `/status` (JSON), `/metrics` (Prometheus), `/healthz`.
//!
//! Local and unauthenticated: bind it to loopback. One thing here changes something, `force` (see there).

mod force;
mod metrics;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tandem_datapath::{Datapath, boottime};
use tandem_failover_core::{AddressStatus, address::AddressPhase};
use tandem_replication::{Replication, Slot, Versions};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::cli::GuardArgs;
use crate::realtime::Realtime;
pub(crate) use force::ask as force_stale_takeover;

use crate::status::{
    AddressView, CAUGHT_UP, Disk, ENGINE_STALE, EngineView, GuardView, Member, NodeStatus, Peer,
    ReplicationStatus,
};

/// Replicas of a whole pair.
const SLOTS: usize = 3;

/// Heartbeats are tens of milliseconds apart; this much silence is a loss, and half the second within
/// which a loss must show.
const SILENT_MS: u64 = 500;

/// What the server reads.
#[derive(Clone)]
pub(crate) struct Observed {
    pub(crate) slot: Slot,
    pub(crate) replication: Replication,
    pub(crate) realtime: Realtime,
    pub(crate) guard: GuardArgs,
    /// `None` on the witness.
    pub(crate) node: Option<Node>,
}

/// A data node's parts.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) view: watch::Receiver<EngineView>,
    pub(crate) address: watch::Receiver<AddressStatus>,
    pub(crate) mover: &'static str,
    pub(crate) datapath: Arc<Datapath>,
}

/// Binds and serves until the task is aborted.
///
/// # Errors
/// Names the key and the address.
pub(crate) async fn listen(
    address: SocketAddr,
    observed: Observed,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("admin.listen: binding {address}/tcp"))?;
    let router = Router::new()
        .route(
            "/status",
            get(async |State(observed): State<Observed>| Json(observed.status())),
        )
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(show_health))
        .route(force::PATH, post(force::takeover))
        .with_state(observed);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin server ended");
        }
    }))
}

async fn show_metrics(State(observed): State<Observed>) -> Response {
    // Asks the relay threads and waits for them: not on an async worker.
    let text = tokio::task::spawn_blocking(move || metrics::text(&observed)).await;
    match text {
        Ok(Ok(text)) => ([(CONTENT_TYPE, metrics::CONTENT)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Liveness, for a process supervisor: 503 when the engine is stuck. Whether the pair is protected is
/// `/status`'s matter; restarting a healthy node would not help there.
async fn show_health(State(observed): State<Observed>) -> (StatusCode, &'static str) {
    match &observed.node {
        Some(node) if node.stale() => (StatusCode::SERVICE_UNAVAILABLE, "the engine is stuck\n"),
        Some(_) | None => (StatusCode::OK, "ok\n"),
    }
}

impl Node {
    fn stale(&self) -> bool {
        self.view.borrow().at + ENGINE_STALE < boottime()
    }
}

impl Observed {
    fn status(&self) -> NodeStatus {
        let replication = self.replication.status();
        let view = self
            .node
            .as_ref()
            .map(|node| node.view.borrow().clone())
            .unwrap_or_default();
        let address = self
            .node
            .as_ref()
            .map(|node| (node.mover, node.address.borrow().clone()));
        let reasons = self.reasons(
            &replication,
            &view,
            address.as_ref().map(|(_, status)| status),
        );
        let role = match (self.slot, replication.role, &replication.leader) {
            (Slot::Witness, _, _) => "witness",
            (Slot::A | Slot::B, _, _) if view.serving => "owner",
            (Slot::A | Slot::B, "follower", Some(_)) => "standby",
            (Slot::A | Slot::B, _, _) => "candidate",
        };
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slot: self.slot.to_string(),
            role: role.to_owned(),
            epoch: view.epoch,
            protected: reasons.is_empty(),
            reasons,
            calls: view.calls,
            held: view.held,
            worker_pid: std::process::id(),
            guard: self.guard_view(),
            replication: replication_view(&replication),
            address: address.map(|(mover, status)| address_view(mover, &status)),
            cdr: self.node.is_some().then_some(view.cdr),
            counters: counters(view.counters, &replication),
        }
    }

    fn guard_view(&self) -> GuardView {
        let GuardArgs {
            life: _,
            workers_ended,
            workers_frozen,
            certificates_sent,
        } = self.guard;
        GuardView {
            realtime: self.realtime.describe(),
            realtime_on: self.realtime.is_on(),
            workers_ended,
            workers_frozen,
            certificates_sent,
        }
    }

    /// Everything that is less than full protection, worst first.
    fn reasons(
        &self,
        replication: &tandem_replication::Status,
        view: &EngineView,
        address: Option<&AddressStatus>,
    ) -> Vec<String> {
        let mut reasons = Vec::new();
        if replication.store_failed {
            reasons.push("the store failed".to_owned());
        }
        if replication.store.disk_low {
            let free = replication.store.free_bytes >> 20;
            reasons.push(format!("the disk is running full: {free} MiB are free"));
        }
        if self.node.as_ref().is_some_and(Node::stale) {
            reasons.push("the engine is stuck".to_owned());
        }
        if self.node.is_some() && replication.role == "leader" && !view.serving {
            reasons.push(
                "this node leads but may not serve: it has no lease, or its claim is not committed"
                    .to_owned(),
            );
        }
        reasons.extend(membership_trouble(replication));
        if replication.leader.is_none() {
            reasons.push("there is no leader".to_owned());
        }
        for peer in &replication.peers {
            if !peer.connected || peer_is_silent(peer) {
                reasons.push(format!("{} is not heard", peer.slot));
            } else if peer.snapshot || peer.lag.is_some_and(|lag| lag > CAUGHT_UP) {
                reasons.push(format!("{} is not caught up", peer.slot));
            }
        }
        if let Some(address) = address {
            reasons.extend(address_trouble(view.serving, address));
        }
        if let Some(trouble) = &view.cdr.trouble {
            reasons.push(format!("call detail records wait: {trouble}"));
        }
        reasons
    }
}

/// What is less than three voters that belong together.
fn membership_trouble(status: &tandem_replication::Status) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(generation) = status.superseded_by {
        reasons.push(format!(
            "a takeover was forced elsewhere (generation {generation}, this store is of {}): this node takes no \
             part any more; stop it and run `tandem rejoin`",
            status.generation
        ));
    }
    if let Some(successor) = &status.replaced_by {
        reasons.push(format!(
            "{successor} took this store's place: nobody listens to it any more; stop the node and run \
             `tandem rejoin`"
        ));
    }
    reasons.extend(status.waiting.clone());
    let voters = status
        .members
        .iter()
        .filter(|member| member.part == "voter");
    if status.generation > 0 && status.waiting.is_none() && voters.count() < SLOTS {
        reasons.push(format!(
            "a takeover was forced (generation {}): what others held beyond this store is lost; on each of them \
             run `tandem rejoin`",
            status.generation
        ));
    }
    if status.cluster_version > Versions::SUPPORTED.max {
        reasons.push(format!(
            "the pair uses version {} of its records, this build knows {}",
            status.cluster_version,
            Versions::SUPPORTED.max
        ));
    }
    if status.alone {
        reasons.push("alone: this node decides without the others, who only follow".to_owned());
    }
    for member in &status.members {
        if member.part != "voter" && !status.alone {
            reasons.push(format!(
                "the membership is changing: {} is {}",
                member.id,
                part(member.part)
            ));
        }
    }
    reasons
}

fn part(part: &str) -> &'static str {
    match part {
        "learner" => "a learner",
        _ => "leaving",
    }
}

/// Only a leader hears everybody all the time; for the others a missing connection must do.
fn peer_is_silent(peer: &tandem_replication::Peer) -> bool {
    peer.lag.is_some() && peer.last_contact_ms.is_none_or(|silent| silent > SILENT_MS)
}

fn address_trouble(serving: bool, address: &AddressStatus) -> Option<String> {
    let because = |what: &str| match &address.last_error {
        Some(error) => format!("{what}: {error}"),
        None => what.to_owned(),
    };
    if serving && !(address.holds && address.verified) {
        return Some(because("the floating address is not verified here"));
    }
    if let Some((source, error)) = address
        .sources
        .iter()
        .find_map(|(source, status)| status.error.as_ref().map(|error| (source, error)))
    {
        return Some(format!(
            "{} cannot be asked about the address: {error}",
            source.as_str()
        ));
    }
    if !serving && address.phase == AddressPhase::Releasing && address.last_error.is_some() {
        return Some(because("the floating address could not be released"));
    }
    None
}

fn replication_view(status: &tandem_replication::Status) -> ReplicationStatus {
    let peers = status.peers.iter().map(|peer| Peer {
        slot: peer.slot.to_string(),
        connected: peer.connected,
        lag: peer.lag,
        silent_ms: peer.last_contact_ms,
        said_applied: peer.said_applied,
    });
    let members = status.members.iter().map(|member| Member {
        id: member.id.clone(),
        part: member.part.to_owned(),
    });
    ReplicationStatus {
        id: status.id.clone(),
        members: members.collect(),
        waiting: status.waiting.clone(),
        alone: status.alone,
        generation: status.generation,
        cluster_version: status.cluster_version,
        term: status.term,
        leader: status.leader.clone(),
        commit: status.commit,
        applied: status.applied,
        peers: peers.collect(),
        sync_us: status.store.sync.into(),
        tick_late_us: status.punctuality.tick_late.into(),
        worst_lease_margin_us: status.punctuality.worst_lease_margin_us,
        disk: Disk {
            durability: status.store.durability().to_string(),
            free_bytes: status.store.free_bytes,
            low: status.store.disk_low,
        },
        certificates: certificates(status),
    }
}

/// What became of the death certificates that came in.
fn certificates(status: &tandem_replication::Status) -> BTreeMap<String, u64> {
    let (link, replica) = (&status.link, &status.counters);
    [
        ("accepted", replica.deaths_accepted),
        ("replayed", replica.deaths_replayed),
        ("older_epoch", replica.deaths_older_epoch),
        ("foreign", replica.deaths_foreign),
        ("not_our_leader", replica.deaths_not_our_leader),
        ("starting", replica.deaths_starting),
        ("malformed", link.certificates_malformed),
        ("forged", link.certificates_forged),
        ("limited", link.certificates_limited),
        ("dropped", link.certificates_dropped),
    ]
    .into_iter()
    .map(|(result, total)| (result.to_owned(), total))
    .collect()
}

/// Replication's totals beside the engine's.
fn counters(
    mut engine: BTreeMap<String, u64>,
    status: &tandem_replication::Status,
) -> BTreeMap<String, u64> {
    let totals = &status.counters;
    engine.extend(
        [
            ("raft_elected", totals.elected),
            ("raft_campaigns", totals.campaigns),
            ("raft_leases_lost", totals.leases_lost),
            ("raft_ticks_skipped", totals.ticks_skipped),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    engine
}

fn address_view(mover: &str, status: &AddressStatus) -> AddressView {
    let state = match (status.phase, status.verified) {
        (AddressPhase::Held, true) => "held and verified",
        (AddressPhase::Held, false) => "held, not verified",
        (AddressPhase::Claiming, _) => "being claimed",
        (AddressPhase::Releasing, _) => "being released",
        (AddressPhase::Released, _) => "not here",
    };
    AddressView {
        mover: mover.to_owned(),
        holds: status.holds && status.verified,
        state: state.to_owned(),
        last_error: status.last_error.clone(),
    }
}
