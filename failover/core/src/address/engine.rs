//! The reconciliation of the floating address.
//!
//! ```text
//!                    Hold{e}                         claim succeeded
//!   ┌───────────────────────────────▶ Claiming ─────────────────────────▶ Held
//!   │                                 │  ▲  failed: again after a pause    │ every required source sees
//!   │                                 │  │                                 │ it: verified
//!   │                                 │  └─────────────────────────────────┤
//!   │                         Release │    drift: a required source does   │ Release
//!   │                                 ▼    not see it                      ▼
//! Released ◀───────────────────── Releasing ◀──────────────────────────────┘
//!   │      no source sees it          ▲  failed or still seen: again after a pause
//!   └─────────────────────────────────┘
//!      drift: a source sees it
//! ```
//!
//! It is level-triggered: nothing is concluded from an attempt having been made, only from what the sources
//! show after it, and they are looked at for ever. The machine starts in `Releasing`, so that an address
//! left behind by a killed predecessor goes away. At most one operation (claim or release) is in flight;
//! an operation that is no longer wanted is abandoned before the next starts.

use std::collections::VecDeque;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::AddressConfig;
use super::announce::Announcements;
use super::backoff;
use super::source::{Failure, ObservationId, Presence, Source, SourcePolicy};
use super::status::{AddressCounters, AddressPhase, AddressStatus};
use super::views::Views;
use crate::types::{Desired, Epoch, Event, Transition};

/// A repair that comes sooner than this after the previous one waits: someone is fighting over the address.
const CALM: Duration = Duration::from_secs(5);

/// For so long after a claim the sources are looked at this often: what a former owner had asked of a slow control plane
/// may take effect after what we saw.
const VIGILANCE: Duration = Duration::from_secs(30);
const VIGILANT_INTERVAL: Duration = Duration::from_secs(1);

/// Names one claim or release; results of others are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Bring the address here. Answer with `handle_result`.
    Claim {
        id: OperationId,
        epoch: Epoch,
    },
    /// Take the address away from here. Answer with `handle_result`.
    Release {
        id: OperationId,
    },
    /// Stop working on this operation: its effects must not come after those of the next one.
    Abandon {
        id: OperationId,
    },
    /// Look at a source. Answer with `handle_observation`.
    Observe {
        id: ObservationId,
        source: Source,
    },
    /// Tell the neighbours, this many times. No answer wanted.
    Announce {
        epoch: Epoch,
        copies: u8,
    },
    Transition(Transition),
}

/// Why `poll_timeout` wants a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerReason {
    /// The next attempt of a claim or release.
    Retry,
    Observe(Source),
    Announce,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    epoch: Epoch,
    since: Duration,
    verified: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// `left` is the epoch whose hold ends here; none when there was none.
    Releasing {
        left: Option<Epoch>,
    },
    Released,
    Claiming {
        epoch: Epoch,
    },
    Held(Held),
}

/// The progress since the desired place last changed.
#[derive(Clone, Copy, Debug)]
struct Goal {
    since: Duration,
    claimed_after: Option<Duration>,
    verified_after: Option<Duration>,
}

#[derive(Debug)]
pub struct AddressEngine {
    announces: bool,
    rng: StdRng,
    now: Duration,
    desired: Desired,
    /// The highest epoch ever desired.
    epoch: Epoch,
    state: State,
    goal: Goal,
    in_flight: Option<OperationId>,
    /// Set while an operation waits for its time; never together with `in_flight`.
    retry_at: Option<Duration>,
    attempts: u32,
    /// Repairs in a row that came less than `CALM` after the previous one.
    repairs: u32,
    last_repair: Option<Duration>,
    last_failure: Option<Failure>,
    views: Views,
    announcements: Announcements,
    next_id: u64,
    commands: VecDeque<Command>,
    counters: AddressCounters,
}

impl AddressEngine {
    /// Starts by removing what a predecessor may have left behind.
    pub fn new(config: AddressConfig, seed: u64, now: Duration) -> AddressEngine {
        let mut engine = AddressEngine {
            announces: config.announces,
            rng: StdRng::seed_from_u64(seed),
            now,
            desired: Desired::Release,
            epoch: Epoch::default(),
            state: State::Releasing { left: None },
            goal: Goal {
                since: now,
                claimed_after: None,
                verified_after: None,
            },
            in_flight: None,
            retry_at: None,
            attempts: 0,
            repairs: 0,
            last_repair: None,
            last_failure: None,
            views: Views::new(&config.sources, now),
            announcements: Announcements::default(),
            next_id: 0,
            commands: VecDeque::new(),
            counters: AddressCounters::default(),
        };
        engine.start_operation();
        engine
    }

    /// The desired place, as often as it is known; repeating it changes nothing.
    pub fn handle_desired(&mut self, desired: Desired, now: Duration) {
        self.advance(now);
        match (self.desired, desired) {
            (Desired::Release, Desired::Release) => {}
            (Desired::Hold { epoch: current }, Desired::Hold { epoch }) if epoch == current => {}
            (Desired::Release | Desired::Hold { .. }, Desired::Hold { epoch }) => {
                if epoch < self.epoch {
                    self.counters.stale_epochs += 1;
                } else {
                    self.epoch = epoch;
                    self.aim(desired, State::Claiming { epoch });
                }
            }
            (Desired::Hold { epoch }, Desired::Release) => {
                self.aim(desired, State::Releasing { left: Some(epoch) });
            }
        }
        self.check();
    }

    /// The result of the operation `id`.
    pub fn handle_result(&mut self, id: OperationId, result: Result<(), Failure>, now: Duration) {
        self.advance(now);
        if self.in_flight != Some(id) {
            self.counters.stale_results += 1;
            return;
        }
        self.in_flight = None;
        match (self.state, result) {
            (State::Claiming { epoch }, Ok(())) => self.claimed(epoch),
            (State::Claiming { .. }, Err(failure)) => {
                self.counters.claim_failures += 1;
                self.last_failure = Some(failure);
                self.retry();
            }
            (State::Releasing { .. }, Ok(())) => {
                self.look_afresh(|policy| policy.required_to_release);
            }
            (State::Releasing { .. }, Err(failure)) => {
                self.counters.release_failures += 1;
                self.last_failure = Some(failure);
                self.retry();
            }
            // Neither state has an operation in flight (`check`).
            (State::Released | State::Held(_), Ok(()) | Err(_)) => self.counters.stale_results += 1,
        }
        self.check();
    }

    /// What the look `id` at `source` showed.
    pub fn handle_observation(
        &mut self,
        id: ObservationId,
        source: Source,
        result: Result<Presence, Failure>,
        now: Duration,
    ) {
        self.advance(now);
        let Some(view) = self.views.awaiting(source, id) else {
            self.counters.stale_results += 1;
            return;
        };
        view.pending = None;
        let policy = view.policy;
        let wanted = match (self.state, &result) {
            (State::Held(_), Ok(presence)) => {
                *presence == Presence::All || !policy.required_to_hold
            }
            (State::Releasing { .. } | State::Released, Ok(presence)) => {
                *presence == Presence::None || !policy.required_to_release
            }
            (State::Claiming { .. }, Ok(_)) => true,
            (_, Err(_)) => false,
        };
        view.misses = if wanted {
            0
        } else {
            view.misses.saturating_add(1)
        };
        // Only where something is waiting for the answer is a miss asked again soon.
        let hurry = match self.state {
            State::Held(_) | State::Releasing { .. } => !wanted,
            State::Claiming { .. } | State::Released => false,
        };
        let calm = match self.state {
            State::Held(held) if self.now < held.since + VIGILANCE => {
                policy.interval.min(VIGILANT_INTERVAL)
            }
            State::Held(_) | State::Claiming { .. } | State::Releasing { .. } | State::Released => {
                policy.interval
            }
        };
        let pause = match hurry {
            true => backoff::pause(view.misses, &mut self.rng).min(calm),
            false => calm,
        };
        view.next_at = self.now + pause;
        self.counters.observation_failures += u64::from(result.is_err());
        view.last = Some(result);
        let again = std::mem::take(&mut view.again);
        self.reconcile(source);
        if again {
            self.look_at(source);
        }
        self.check();
    }

    /// Something changed at this source: look now.
    pub fn handle_hint(&mut self, source: Source, now: Duration) {
        self.advance(now);
        self.look_at(source);
    }

    /// A link or a path came back: neighbours may have missed the announcements, and another node may have
    /// taken the address meanwhile.
    pub fn handle_heal(&mut self, now: Duration) {
        self.advance(now);
        if let State::Held(_) = self.state {
            self.start_announcing();
            self.look_afresh(|policy| policy.required_to_hold);
        }
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        self.advance(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.start_operation();
        }
        for source in self.views.due(now) {
            self.look_at(source);
        }
        self.announce_due();
        self.check();
    }

    /// The time at which `handle_timeout` must be called, and why.
    pub fn poll_timeout(&self) -> Option<(Duration, TimerReason)> {
        let retry = self.retry_at.map(|at| (at, TimerReason::Retry));
        let announce = self
            .announcements
            .poll_timeout()
            .map(|at| (at, TimerReason::Announce));
        let observe = self.views.poll_timeout();
        let observe = observe.map(|(at, source)| (at, TimerReason::Observe(source)));
        [retry, announce, observe]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// The shell drains this after every input.
    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub fn status(&self) -> AddressStatus {
        let (phase, holds, verified) = match self.state {
            State::Releasing { .. } => (AddressPhase::Releasing, false, false),
            State::Released => (AddressPhase::Released, false, false),
            State::Claiming { .. } => (AddressPhase::Claiming, false, false),
            State::Held(held) => (AddressPhase::Held, true, held.verified),
        };
        let verified_by = match holds {
            true => self.views.showing(Presence::All),
            false => Vec::new(),
        };
        let epoch = match self.desired {
            Desired::Hold { epoch } => Some(epoch),
            Desired::Release => None,
        };
        let failure = self
            .last_failure
            .as_ref()
            .or_else(|| self.views.first_failure());
        AddressStatus {
            phase,
            epoch,
            holds,
            verified,
            verified_by,
            attempts: self.attempts,
            last_error: failure.map(|failure| failure.text.clone()),
            last_error_kind: failure.map(|failure| failure.kind),
            claimed_after_ms: self.goal.claimed_after.map(milliseconds),
            verified_after_ms: self.goal.verified_after.map(milliseconds),
            sources: self.views.status(),
            counters: self.counters,
        }
    }

    fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// A new desired place: nothing of the old one counts any more.
    fn aim(&mut self, desired: Desired, state: State) {
        self.desired = desired;
        self.state = state;
        self.goal = Goal {
            since: self.now,
            claimed_after: None,
            verified_after: None,
        };
        self.attempts = 0;
        self.repairs = 0;
        self.last_repair = None;
        self.last_failure = None;
        self.announcements.stop();
        self.start_operation();
    }

    fn start_operation(&mut self) {
        if let Some(id) = self.in_flight.take() {
            self.commands.push_back(Command::Abandon { id });
        }
        self.retry_at = None;
        self.next_id += 1;
        let id = OperationId(self.next_id);
        let command = match self.state {
            State::Claiming { epoch } => {
                self.counters.claims += 1;
                Command::Claim { id, epoch }
            }
            State::Releasing { .. } => {
                self.counters.releases += 1;
                Command::Release { id }
            }
            State::Released | State::Held(_) => return,
        };
        self.attempts = self.attempts.saturating_add(1);
        self.in_flight = Some(id);
        self.views.forget();
        self.commands.push_back(command);
    }

    fn claimed(&mut self, epoch: Epoch) {
        self.state = State::Held(Held {
            epoch,
            since: self.now,
            verified: false,
        });
        self.last_failure = None;
        self.goal
            .claimed_after
            .get_or_insert(self.now.saturating_sub(self.goal.since));
        self.report(Event::AddressClaimed, epoch);
        self.start_announcing();
        self.look_afresh(|policy| policy.required_to_hold);
    }

    /// Compares what `source` just showed with what should be.
    fn reconcile(&mut self, source: Source) {
        let Some((policy, seen)) = self.views.last(source) else {
            return;
        };
        match self.state {
            State::Claiming { .. } => {}
            State::Held(held) if policy.required_to_hold => match seen {
                Presence::All => self.verify(held),
                Presence::Some | Presence::None => {
                    self.state = State::Held(Held {
                        verified: false,
                        ..held
                    });
                    if self.now >= held.since + policy.settle {
                        self.state = State::Claiming { epoch: held.epoch };
                        self.repair();
                    }
                }
            },
            State::Releasing { left } if policy.required_to_release => match seen {
                Presence::None => self.finish_release(left),
                Presence::All | Presence::Some => {
                    if self.is_idle() {
                        self.retry();
                    }
                }
            },
            State::Released if policy.required_to_release => match seen {
                Presence::None => {}
                Presence::All | Presence::Some => {
                    self.state = State::Releasing { left: None };
                    self.repair();
                }
            },
            State::Held(_) | State::Releasing { .. } | State::Released => {}
        }
    }

    fn verify(&mut self, held: Held) {
        if held.verified
            || !self
                .views
                .all_show(Presence::All, |policy| policy.required_to_hold)
        {
            return;
        }
        self.state = State::Held(Held {
            verified: true,
            ..held
        });
        self.goal
            .verified_after
            .get_or_insert(self.now.saturating_sub(self.goal.since));
        self.report(Event::AddressVerified, held.epoch);
    }

    fn finish_release(&mut self, left: Option<Epoch>) {
        if !self.is_idle()
            || !self
                .views
                .all_show(Presence::None, |policy| policy.required_to_release)
        {
            return;
        }
        self.state = State::Released;
        self.last_failure = None;
        if let Some(epoch) = left {
            self.report(Event::AddressReleased, epoch);
        }
    }

    /// A state that had been reached is no more: at once, unless the last repair is too recent.
    fn repair(&mut self) {
        self.counters.drifts += 1;
        self.announcements.stop();
        self.attempts = 0;
        let calm = self
            .last_repair
            .is_none_or(|at| self.now.saturating_sub(at) >= CALM);
        self.last_repair = Some(self.now);
        if calm {
            self.repairs = 0;
            self.start_operation();
        } else {
            self.repairs = self.repairs.saturating_add(1);
            self.retry_at = Some(self.now + backoff::pause(self.repairs, &mut self.rng));
        }
    }

    fn retry(&mut self) {
        self.retry_at = Some(self.now + backoff::pause(self.attempts, &mut self.rng));
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.retry_at.is_none()
    }

    /// Looks that began before now do not count for these sources.
    fn look_afresh(&mut self, of: impl Fn(&SourcePolicy) -> bool) {
        for source in self.views.drop_looks(of) {
            self.look_at(source);
        }
    }

    fn look_at(&mut self, source: Source) {
        if let Some(id) = self.views.look(source, self.now) {
            self.commands.push_back(Command::Observe { id, source });
        }
    }

    fn start_announcing(&mut self) {
        if self.announces {
            self.announcements.start(self.now);
            self.announce_due();
        }
    }

    fn announce_due(&mut self) {
        let State::Held(held) = self.state else {
            return;
        };
        if let Some(copies) = self.announcements.due(self.now) {
            self.counters.announcements += u64::from(copies);
            self.commands.push_back(Command::Announce {
                epoch: held.epoch,
                copies,
            });
        }
    }

    fn report(&mut self, event: Event, epoch: Epoch) {
        let transition = Transition {
            event,
            epoch,
            at: self.now,
        };
        self.commands.push_back(Command::Transition(transition));
    }

    /// What must hold after every step.
    fn check(&self) {
        debug_assert!(
            self.in_flight.is_none() || self.retry_at.is_none(),
            "an operation in flight and another one waiting"
        );
        match (self.state, self.desired) {
            (State::Claiming { epoch }, Desired::Hold { epoch: desired }) => {
                debug_assert_eq!(epoch, desired);
                debug_assert!(
                    !self.is_idle(),
                    "claiming without an operation or a time for it"
                );
            }
            (State::Held(held), Desired::Hold { epoch }) => {
                debug_assert_eq!(held.epoch, epoch);
                debug_assert!(self.is_idle(), "held with an operation in flight");
            }
            (State::Released, Desired::Release) => debug_assert!(self.is_idle()),
            (State::Releasing { .. }, Desired::Release) => {}
            (State::Claiming { .. } | State::Held(_), Desired::Release)
            | (State::Releasing { .. } | State::Released, Desired::Hold { .. }) => {
                debug_assert!(false, "the state contradicts what is desired");
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
