//! `force-stale-takeover`: the operator's last resort, on the node that is to serve.
//!
//! A header must say what it costs. So no web page that a browser on this host shows can send it, and nobody does it
//! by a mistyped address.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};

use super::Observed;
use crate::status::{self, NodeStatus};

pub(super) const PATH: &str = "/force-stale-takeover";
const CONFIRMATION: &str = "x-tandem-confirm";
const CONFIRMED: &str = "yes-lose-data";

pub(super) async fn takeover(
    State(observed): State<Observed>,
    headers: HeaderMap,
) -> (StatusCode, String) {
    let confirmed = headers
        .get(CONFIRMATION)
        .is_some_and(|value| value == CONFIRMED);
    if !confirmed {
        let wanted = format!("this loses data: send the header {CONFIRMATION}: {CONFIRMED}\n");
        return (StatusCode::BAD_REQUEST, wanted);
    }
    // Waits for the Raft thread, and that for the disk.
    let replication = observed.replication.clone();
    match tokio::task::spawn_blocking(move || replication.force_takeover()).await {
        Ok(Ok(forced)) => {
            let (id, generation) = (forced.id, forced.generation);
            (
                StatusCode::OK,
                format!("{id} is the pair now, generation {generation}\n"),
            )
        }
        Ok(Err(error)) => (StatusCode::CONFLICT, format!("{error}\n")),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Asks a node to take over by force; without the consent it only says what that would mean.
///
/// # Errors
/// The node refuses, or does not answer, or the operator has not consented.
pub(crate) fn ask(admin: SocketAddr, consent: bool) -> anyhow::Result<String> {
    let status = status::fetch(admin)?;
    let warning = warning(&status);
    if !consent {
        bail!("{warning}\nrepeat with --yes-lose-data to do it");
    }
    let url = format!("http://{admin}{PATH}");
    let mut response = status::agent()
        .post(&url)
        .header(CONFIRMATION, CONFIRMED)
        .send_empty()
        .with_context(|| format!("no node answers at {admin}"))?;
    let body = response
        .body_mut()
        .read_to_string()
        .with_context(|| format!("reading {url}"))?;
    if !response.status().is_success() {
        bail!("not done: {}", body.trim_end());
    }
    Ok(format!("{warning}\ndone: {}", body.trim_end()))
}

/// What is known of what would be lost.
fn warning(status: &NodeStatus) -> String {
    let held = &status.replication;
    let mut text = format!(
        "WARNING: this makes what {} holds the pair: the log up to entry {} of term {}. Calls that others committed \
         beyond it are lost. The others must never serve again with what they hold: run `tandem rejoin` on each.",
        held.id, held.applied, held.term
    );
    for peer in &held.peers {
        let said = match peer.said_applied {
            Some(index) => format!("was last heard to hold entry {index}"),
            None => "has not been heard since this node started: it may hold more".to_owned(),
        };
        text.push_str(&format!("\n  {}: {said}", peer.slot));
    }
    text
}
