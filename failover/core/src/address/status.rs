//! The address as operators see it: plain data.

use std::collections::BTreeMap;

use serde::Serialize;

use super::source::{FailureKind, Presence, Source};
use crate::types::Epoch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressPhase {
    /// Not wanted here; not yet seen to be gone.
    Releasing,
    /// Not here.
    Released,
    /// Wanted here; no claim of this run has succeeded yet.
    Claiming,
    /// A claim succeeded; see `verified`.
    Held,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressStatus {
    pub phase: AddressPhase,
    /// The epoch under which the address is wanted here.
    pub epoch: Option<Epoch>,
    /// A claim under this epoch succeeded, and nothing has contradicted it since.
    pub holds: bool,
    /// Every required source has seen the address here since the claim.
    pub verified: bool,
    pub verified_by: Vec<Source>,
    /// Claims or releases since the desired place changed or the last drift.
    pub attempts: u32,
    /// The last failure, until the goal is reached.
    pub last_error: Option<String>,
    pub last_error_kind: Option<FailureKind>,
    /// From wanting the address to the first successful claim, in milliseconds.
    pub claimed_after_ms: Option<u64>,
    /// From wanting the address to its verification, in milliseconds.
    pub verified_after_ms: Option<u64>,
    pub sources: BTreeMap<Source, SourceStatus>,
    pub counters: AddressCounters,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// What the last look showed; none before the first look after a change, or when it failed.
    pub presence: Option<Presence>,
    pub error: Option<String>,
    pub error_kind: Option<FailureKind>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AddressCounters {
    pub claims: u64,
    pub claim_failures: u64,
    pub releases: u64,
    pub release_failures: u64,
    /// A source contradicted a state that had been reached.
    pub drifts: u64,
    pub observation_failures: u64,
    /// Results of operations or looks that no longer counted.
    pub stale_results: u64,
    /// Desired states dropped because their epoch was below the highest seen.
    pub stale_epochs: u64,
    pub announcements: u64,
}
