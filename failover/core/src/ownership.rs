//! The ownership machine (docs: "Ownership and takeover").
//!
//! ```text
//!            Leader{e}: CommitOwner            OwnerApplied{own, e}              valid lease: Activate,
//!                                              without a valid lease             OpenGate, Desire(Hold)
//!  ┌─────────┐           ┌──────────┐                    ┌───────────┐                  ┌─────────┐
//!  │ Standby ├──────────▶│ Electing ├───────────────────▶│ Committed ├─────────────────▶│ Serving │
//!  └─────────┘           └───┬──────┘                    └───────────┘                  └──┬──────┘
//!       ▲                    │  ▲ OwnerApplied{own, e} with a valid lease: Serving         │
//!       │                    │  │                                                          │
//!       │                    │  └──── lease lost or its deadline passed: CloseGate, ◀──────┤
//!       │                    │        Deactivate, Desire(Release), CommitOwner (barrier)   │
//!       └── from every state: NotLeader, Yield, a higher epoch, a foreign owner ◀──────────┘
//!           (Serving also: CloseGate, Deactivate, Desire(Release))
//! ```
//!
//! A leader that lost its lease and gets it back in the same epoch commits a fresh owner entry first: what
//! it had in flight when it stopped is then applied before it serves again. `Activate` can therefore come
//! twice with one epoch, and whoever numbers things per epoch must continue its numbers.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::{Desired, Epoch, Event, Slot, Transition};

/// Pause before a refused owner entry is proposed again. The refusal itself is local (queue full), so a
/// short pause is enough.
pub const COMMIT_RETRY: Duration = Duration::from_millis(20);

/// What the replication and the address driver report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// This replica leads in this term.
    Leader { epoch: Epoch },
    /// This replica follows or stands for election. Always obeyed.
    NotLeader,
    /// An owner entry was applied from the log.
    OwnerApplied { slot: Slot, epoch: Epoch },
    /// The owner entry of `CommitOwner` could not be proposed, or will never commit.
    CommitRefused { epoch: Epoch },
    /// A quorum promised to elect nobody else before `until`.
    Lease { epoch: Epoch, until: Duration },
    /// The lease is void at once.
    LeaseLost { epoch: Epoch },
    /// Leadership is about to be handed on: stop for good in this epoch. A transfer overrides the promises that a
    /// lease rests on, so the gate closes before it is asked for.
    Yield { epoch: Epoch },
    /// The address driver holds the address under this epoch.
    AddressReport { epoch: Epoch, verified: bool },
}

impl Input {
    fn epoch(&self) -> Option<Epoch> {
        match *self {
            Input::NotLeader => None,
            Input::Leader { epoch }
            | Input::OwnerApplied { epoch, .. }
            | Input::CommitRefused { epoch }
            | Input::Lease { epoch, .. }
            | Input::LeaseLost { epoch }
            | Input::Yield { epoch }
            | Input::AddressReport { epoch, .. } => Some(epoch),
        }
    }

    /// Echoes of our own commands cannot tell of an epoch we have not seen.
    fn is_echo(&self) -> bool {
        match self {
            Input::CommitRefused { .. } | Input::Yield { .. } | Input::AddressReport { .. } => true,
            Input::Leader { .. }
            | Input::NotLeader
            | Input::OwnerApplied { .. }
            | Input::Lease { .. }
            | Input::LeaseLost { .. } => false,
        }
    }
}

/// What the shell carries out, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Propose the owner entry of this slot; answer with `OwnerApplied` or `CommitRefused`.
    CommitOwner {
        epoch: Epoch,
    },
    /// The SIP core becomes owner: timers armed, ports reserved.
    Activate {
        epoch: Epoch,
    },
    OpenGate {
        epoch: Epoch,
        until: Duration,
    },
    ExtendGate {
        epoch: Epoch,
        until: Duration,
    },
    CloseGate,
    /// The SIP core becomes standby again and rereads the committed table.
    Deactivate,
    /// The new desired place of the floating address.
    Desire(Desired),
    Transition(Transition),
}

/// Why `poll_timeout` wants a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerReason {
    LeaseDeadline,
    CommitRetry,
}

/// The role in words for status pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Standby,
    /// Elected; the owner entry is not applied yet.
    Electing,
    /// The owner entry is applied; waiting for a lease.
    Committed,
    Serving,
}

/// A snapshot for status pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub phase: Phase,
    /// The highest epoch seen.
    pub epoch: Epoch,
    /// The last owner entry applied from the log.
    pub owner: Option<(Slot, Epoch)>,
    /// While serving: the gate is open until then.
    pub until: Option<Duration>,
    /// While serving: the address driver has verified the address under this epoch.
    pub address_verified: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inputs dropped because their epoch was below the highest seen.
    pub stale_epoch: u64,
    /// Inputs without a meaning in the state they met.
    pub unexpected: u64,
    /// Another slot claimed an epoch that this replica was told it leads.
    pub conflicts: u64,
    pub activations: u64,
    pub leases_lost: u64,
    /// Of the leases lost, those that were noticed by their deadline passing.
    pub leases_expired: u64,
    pub commit_retries: u64,
}

#[derive(Clone, Copy, Debug)]
struct Electing {
    lease: Option<Duration>,
    retry_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Serving {
    until: Duration,
    address_verified: bool,
}

/// All states but `Standby` are under `Ownership::epoch`.
#[derive(Clone, Copy, Debug)]
enum State {
    Standby,
    Electing(Electing),
    Committed,
    Serving(Serving),
}

#[derive(Debug)]
pub struct Ownership {
    slot: Slot,
    /// The highest epoch seen: commands and accepted inputs are of this epoch.
    epoch: Epoch,
    owner: Option<(Slot, Epoch)>,
    now: Duration,
    state: State,
    commands: VecDeque<Command>,
    counters: Counters,
    #[cfg(feature = "sabotage")]
    ignores_epochs: bool,
}

impl Ownership {
    pub fn new(slot: Slot) -> Ownership {
        Ownership {
            slot,
            epoch: Epoch::default(),
            owner: None,
            now: Duration::ZERO,
            state: State::Standby,
            commands: VecDeque::new(),
            counters: Counters::default(),
            #[cfg(feature = "sabotage")]
            ignores_epochs: false,
        }
    }

    /// Goes on without the rule that input of a lower epoch is dropped.
    #[cfg(feature = "sabotage")]
    pub fn ignore_epochs(&mut self) {
        self.ignores_epochs = true;
    }

    pub fn handle_input(&mut self, input: Input, now: Duration) {
        self.handle_timeout(now);
        if self.admit(&input) {
            self.step(input);
        }
        self.check();
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        self.now = self.now.max(now);
        match self.state {
            State::Standby | State::Committed => {}
            State::Electing(Electing { lease, retry_at }) => {
                if retry_at.is_some_and(|at| at <= self.now) {
                    self.counters.commit_retries += 1;
                    self.elect(lease);
                }
            }
            State::Serving(Serving { until, .. }) => {
                if until <= self.now {
                    self.counters.leases_expired += 1;
                    self.lose_lease();
                }
            }
        }
        self.check();
    }

    /// The time at which `handle_timeout` must be called, and why.
    pub fn poll_timeout(&self) -> Option<(Duration, TimerReason)> {
        match self.state {
            State::Standby | State::Committed => None,
            State::Electing(electing) => electing
                .retry_at
                .map(|retry_at| (retry_at, TimerReason::CommitRetry)),
            State::Serving(serving) => Some((serving.until, TimerReason::LeaseDeadline)),
        }
    }

    /// The shell drains this after every input: at most a handful wait.
    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub fn status(&self) -> Status {
        let (phase, until, address_verified) = match self.state {
            State::Standby => (Phase::Standby, None, false),
            State::Electing(_) => (Phase::Electing, None, false),
            State::Committed => (Phase::Committed, None, false),
            State::Serving(serving) => (
                Phase::Serving,
                Some(serving.until),
                serving.address_verified,
            ),
        };
        Status {
            phase,
            epoch: self.epoch,
            owner: self.owner,
            until,
            address_verified,
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Epochs only rise: lower ones are dropped; a higher one ends what was held under the current one.
    fn admit(&mut self, input: &Input) -> bool {
        let Some(epoch) = input.epoch() else {
            return true;
        };
        #[cfg(feature = "sabotage")]
        if self.ignores_epochs && epoch < self.epoch {
            return true;
        }
        if epoch < self.epoch {
            self.counters.stale_epoch += 1;
            return false;
        }
        if epoch > self.epoch {
            if input.is_echo() {
                self.counters.unexpected += 1;
                return false;
            }
            self.stand_down();
            self.epoch = epoch;
        }
        true
    }

    /// The transition table. The input is of the current epoch, and the lease of `Serving` is valid.
    fn step(&mut self, input: Input) {
        use Input as I;
        use State as S;
        match (self.state, input) {
            (S::Standby, I::Leader { epoch }) => {
                if self.owned_by_other(epoch) {
                    self.counters.conflicts += 1;
                } else {
                    self.report(Event::Elected);
                    self.elect(None);
                }
            }
            (S::Standby | S::Electing(_) | S::Committed | S::Serving(_), I::NotLeader) => {
                self.stand_down();
            }

            // A refused transfer shows as `Leader` again, a failed one as a higher epoch.
            (S::Electing(_) | S::Committed | S::Serving(_), I::Yield { .. }) => self.stand_down(),

            (
                S::Standby | S::Electing(_) | S::Committed | S::Serving(_),
                I::OwnerApplied { slot, epoch },
            ) => self.owner_applied(slot, epoch),

            (S::Electing(electing), I::Lease { until, .. }) => {
                let lease = electing.lease.max(Some(until));
                self.state = S::Electing(Electing { lease, ..electing });
            }
            (S::Committed, I::Lease { until, .. }) => self.serve(Some(until)),
            (S::Serving(serving), I::Lease { epoch, until }) => {
                // Both are promises for the same epoch: the later one never shortens the earlier.
                if until > serving.until {
                    self.state = S::Serving(Serving { until, ..serving });
                    self.commands
                        .push_back(Command::ExtendGate { epoch, until });
                }
            }

            (S::Electing(electing), I::LeaseLost { .. }) => {
                self.state = S::Electing(Electing {
                    lease: None,
                    ..electing
                });
            }
            (S::Committed, I::LeaseLost { .. }) => {}
            (S::Serving(_), I::LeaseLost { .. }) => self.lose_lease(),

            (S::Electing(electing), I::CommitRefused { .. }) => {
                let retry_at = Some(self.now + COMMIT_RETRY);
                self.state = S::Electing(Electing {
                    retry_at,
                    ..electing
                });
            }
            (S::Serving(serving), I::AddressReport { verified, .. }) => {
                self.state = S::Serving(Serving {
                    address_verified: verified,
                    ..serving
                });
            }

            (S::Standby, I::Lease { .. } | I::LeaseLost { .. } | I::Yield { .. })
            | (S::Electing(_) | S::Committed | S::Serving(_), I::Leader { .. })
            | (S::Standby | S::Committed | S::Serving(_), I::CommitRefused { .. })
            | (S::Standby | S::Electing(_) | S::Committed, I::AddressReport { .. }) => {
                self.counters.unexpected += 1;
            }
        }
    }

    fn owner_applied(&mut self, slot: Slot, epoch: Epoch) {
        self.owner = Some((slot, epoch));
        let own = slot == self.slot;
        match self.state {
            State::Standby => {}
            State::Electing(_) | State::Committed | State::Serving(_) if !own => {
                // Raft elects one leader per term, so this cannot be; if it is, the safe side is silence.
                self.counters.conflicts += 1;
                self.stand_down();
            }
            State::Electing(electing) => {
                self.report(Event::OwnerCommitted);
                self.serve(electing.lease);
            }
            State::Committed | State::Serving(_) => self.counters.unexpected += 1,
        }
    }

    fn owned_by_other(&self, epoch: Epoch) -> bool {
        self.owner
            .is_some_and(|(slot, owned)| owned == epoch && slot != self.slot)
    }

    fn elect(&mut self, lease: Option<Duration>) {
        self.state = State::Electing(Electing {
            lease,
            retry_at: None,
        });
        self.commands
            .push_back(Command::CommitOwner { epoch: self.epoch });
    }

    /// The owner entry is applied: serve if the lease is valid, wait for one if not.
    fn serve(&mut self, lease: Option<Duration>) {
        let Some(until) = lease.filter(|until| *until > self.now) else {
            self.state = State::Committed;
            return;
        };
        let epoch = self.epoch;
        self.state = State::Serving(Serving {
            until,
            address_verified: false,
        });
        self.counters.activations += 1;
        self.commands.push_back(Command::Activate { epoch });
        self.commands.push_back(Command::OpenGate { epoch, until });
        self.report(Event::GateOpened);
        self.commands
            .push_back(Command::Desire(Desired::Hold { epoch }));
    }

    /// Still leader, but without a promise: stop serving, and put a barrier into the log so that all that
    /// was in flight is applied before this node serves again.
    fn lose_lease(&mut self) {
        self.counters.leases_lost += 1;
        self.stop_serving();
        self.elect(None);
    }

    fn stand_down(&mut self) {
        if let State::Serving(_) = self.state {
            self.stop_serving();
        }
        self.state = State::Standby;
    }

    fn stop_serving(&mut self) {
        self.commands.push_back(Command::CloseGate);
        self.report(Event::GateClosed);
        self.commands.push_back(Command::Deactivate);
        self.commands.push_back(Command::Desire(Desired::Release));
    }

    fn report(&mut self, event: Event) {
        let transition = Transition {
            event,
            epoch: self.epoch,
            at: self.now,
        };
        self.commands.push_back(Command::Transition(transition));
    }

    /// What must hold after every step.
    fn check(&self) {
        if let State::Serving(serving) = self.state {
            debug_assert!(serving.until > self.now, "the gate is open past the lease");
            debug_assert_eq!(
                self.owner,
                Some((self.slot, self.epoch)),
                "serving without the owner entry of this epoch"
            );
        }
    }
}
