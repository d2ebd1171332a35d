//! The VPC over time: a call is accepted now, takes effect later, and is described later still.
//!
//! ```text
//!            handle_change            handle_timeout              described(staleness)
//!  API call ───────────────▶ accepted ───────────────▶ effective ───────────────────────▶ Describe
//!                            checks the    effect delay   routes, source     as it was so
//!                            next call                    checks, NAT        long ago
//! ```
//!
//! EC2 promises no more than that: a call that has returned says what the control plane decided,
//! not that packets follow it, and Describe may lag behind both ("Eventual consistency", EC2 API
//! Reference). The machine is pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use super::error::ApiError;
use super::state::{Change, Changed, State};

/// Accepted calls whose effect is still due. At the bound a call is refused as throttled.
const MAX_PENDING: usize = 1024;
/// Versions remembered for stale answers. At the bound the oldest is forgotten, and a staleness
/// that reaches further back sees the oldest one left.
const MAX_HISTORY: usize = 4096;

/// See the module. Wants [`Vpc::handle_timeout`] when [`Vpc::poll_timeout`] says.
#[derive(Debug)]
pub(super) struct Vpc {
    /// With every accepted call: what the next call is checked against.
    accepted: State,
    /// Versions still to take effect, in the order of their calls and of their due times.
    pending: VecDeque<(Duration, State)>,
    /// Versions by the time they took effect; the last one is in force.
    history: VecDeque<(Duration, State)>,
    command: Option<Command>,
}

/// What the shell must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Make the data plane follow this table. A newer one replaces it.
    Program(State),
}

/// Why [`Vpc::poll_timeout`] wants to be called back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimerReason {
    EffectDue,
}

impl Vpc {
    /// Starts with `state` in force, and a command to program it.
    #[must_use]
    pub(super) fn new(state: State, now: Duration) -> Vpc {
        Vpc {
            accepted: state.clone(),
            pending: VecDeque::new(),
            history: VecDeque::from([(now, state.clone())]),
            command: Some(Command::Program(state)),
        }
    }

    /// Accepts or refuses a call. An accepted one takes effect `delay` from now, but not before the
    /// calls accepted earlier: the last writer wins in the data plane too.
    pub(super) fn handle_change(
        &mut self,
        change: &Change,
        delay: Duration,
        now: Duration,
    ) -> Result<Changed, ApiError> {
        if self.pending.len() >= MAX_PENDING {
            return Err(ApiError::RequestLimitExceeded);
        }
        let (state, changed) = self.accepted.with(change)?;
        if state != self.accepted {
            let earliest = self.pending.back().map_or(now, |(due, _)| *due);
            self.pending
                .push_back((earliest.max(now + delay), state.clone()));
            self.accepted = state;
        }
        self.handle_timeout(now);
        Ok(changed)
    }

    /// Whether a call would be accepted (DryRun).
    pub(super) fn check(&self, change: &Change) -> Result<(), ApiError> {
        self.accepted.with(change).map(drop)
    }

    /// Puts into force what is due.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        while let Some((due, state)) = self.pending.pop_front_if(|(due, _)| *due <= now) {
            self.command = Some(Command::Program(state.clone()));
            self.history.push_back((due, state));
            if self.history.len() > MAX_HISTORY {
                self.history.pop_front();
            }
        }
    }

    #[must_use]
    pub(super) fn poll_timeout(&self) -> Option<(Duration, TimerReason)> {
        self.pending
            .front()
            .map(|(due, _)| (*due, TimerReason::EffectDue))
    }

    pub(super) fn next_command(&mut self) -> Option<Command> {
        self.command.take()
    }

    /// The table that packets follow now.
    #[must_use]
    pub(super) fn effective(&self) -> &State {
        // `new` puts one version in, and only `handle_timeout` takes one out, after adding another.
        &self.history.back().expect("the history is never empty").1
    }

    /// The table that Describe calls show, `staleness` behind the one in force.
    #[must_use]
    pub(super) fn described(&self, staleness: Duration, now: Duration) -> &State {
        let seen = now.saturating_sub(staleness);
        let newest_seen = self.history.iter().rev().find(|(since, _)| *since <= seen);
        newest_seen
            .or(self.history.front())
            .map_or(&self.accepted, |(_, state)| state)
    }
}

#[cfg(test)]
mod tests;
