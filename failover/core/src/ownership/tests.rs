//! The transition table, the order of a takeover, and arbitrary sequences.

use proptest::prelude::*;

use super::*;

const SLOT: Slot = Slot::A;
const EPOCH: Epoch = Epoch(7);

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn drain(machine: &mut Ownership) -> Vec<Command> {
    std::iter::from_fn(|| machine.next_command()).collect()
}

fn without_reports(commands: Vec<Command>) -> Vec<Command> {
    commands
        .into_iter()
        .filter(|command| !matches!(command, Command::Transition(_)))
        .collect()
}

fn events(commands: &[Command]) -> Vec<Event> {
    let event = |command: &Command| match command {
        Command::Transition(transition) => Some(transition.event),
        _ => None,
    };
    commands.iter().filter_map(event).collect()
}

fn own() -> Input {
    Input::OwnerApplied {
        slot: SLOT,
        epoch: EPOCH,
    }
}

fn foreign() -> Input {
    Input::OwnerApplied {
        slot: Slot::B,
        epoch: EPOCH,
    }
}

fn lease(until: u64) -> Input {
    Input::Lease {
        epoch: EPOCH,
        until: at(until),
    }
}

/// A machine in the phase, under `EPOCH`, at 100 ms; when serving with a lease until 1 s.
fn machine_in(phase: Phase) -> Ownership {
    let mut machine = Ownership::new(SLOT);
    let inputs: &[Input] = match phase {
        Phase::Standby => &[],
        Phase::Electing => &[Input::Leader { epoch: EPOCH }],
        Phase::Committed => &[Input::Leader { epoch: EPOCH }, own()],
        Phase::Serving => &[Input::Leader { epoch: EPOCH }, lease(1000), own()],
    };
    for input in inputs {
        machine.handle_input(*input, at(100));
    }
    drain(&mut machine);
    assert_eq!(machine.status().phase, phase);
    machine
}

const ACTIVATE: [Command; 3] = [
    Command::Activate { epoch: EPOCH },
    Command::OpenGate {
        epoch: EPOCH,
        until: Duration::from_millis(1000),
    },
    Command::Desire(Desired::Hold { epoch: EPOCH }),
];
const STOP: [Command; 3] = [
    Command::CloseGate,
    Command::Deactivate,
    Command::Desire(Desired::Release),
];
const COMMIT: Command = Command::CommitOwner { epoch: EPOCH };

/// Every state with every input of the current epoch: the state after it, and the commands.
#[test]
fn transition_table() {
    use Phase::{Committed, Electing, Serving, Standby};
    let stop_and_commit = [&STOP[..], &[COMMIT]].concat();
    let leader = Input::Leader { epoch: EPOCH };
    let lost = Input::LeaseLost { epoch: EPOCH };
    let refused = Input::CommitRefused { epoch: EPOCH };
    let yielded = Input::Yield { epoch: EPOCH };
    let verified = Input::AddressReport {
        epoch: EPOCH,
        verified: true,
    };
    let extended = Command::ExtendGate {
        epoch: EPOCH,
        until: at(1500),
    };
    let table: Vec<(Phase, Input, Phase, &[Command])> = vec![
        (Standby, leader, Electing, &[COMMIT]),
        (Standby, Input::NotLeader, Standby, &[]),
        (Standby, own(), Standby, &[]),
        (Standby, foreign(), Standby, &[]),
        (Standby, lease(1000), Standby, &[]),
        (Standby, lost, Standby, &[]),
        (Standby, refused, Standby, &[]),
        (Standby, verified, Standby, &[]),
        (Standby, yielded, Standby, &[]),
        (Electing, leader, Electing, &[]),
        (Electing, Input::NotLeader, Standby, &[]),
        (Electing, own(), Committed, &[]),
        (Electing, foreign(), Standby, &[]),
        (Electing, lease(1000), Electing, &[]),
        (Electing, lost, Electing, &[]),
        (Electing, refused, Electing, &[]),
        (Electing, verified, Electing, &[]),
        (Electing, yielded, Standby, &[]),
        (Committed, leader, Committed, &[]),
        (Committed, Input::NotLeader, Standby, &[]),
        (Committed, own(), Committed, &[]),
        (Committed, foreign(), Standby, &[]),
        (Committed, lease(1000), Serving, &ACTIVATE),
        (Committed, lease(100), Committed, &[]), // over already
        (Committed, lost, Committed, &[]),
        (Committed, refused, Committed, &[]),
        (Committed, verified, Committed, &[]),
        (Committed, yielded, Standby, &[]),
        (Serving, leader, Serving, &[]),
        (Serving, Input::NotLeader, Standby, &STOP),
        (Serving, own(), Serving, &[]),
        (Serving, foreign(), Standby, &STOP),
        (
            Serving,
            lease(1500),
            Serving,
            std::slice::from_ref(&extended),
        ),
        (Serving, lease(900), Serving, &[]), // never shortens
        (Serving, lost, Electing, &stop_and_commit),
        (Serving, refused, Serving, &[]),
        (Serving, verified, Serving, &[]),
        (Serving, yielded, Standby, &STOP),
    ];
    for (before, input, after, commands) in table {
        let mut machine = machine_in(before);
        machine.handle_input(input, at(100));
        assert_eq!(machine.status().phase, after, "{before:?} {input:?}");
        assert_eq!(
            without_reports(drain(&mut machine)),
            commands,
            "{before:?} {input:?}"
        );
    }
}

#[test]
fn a_takeover_comes_in_its_order() {
    let mut machine = Ownership::new(SLOT);
    machine.handle_input(Input::Leader { epoch: EPOCH }, at(10));
    let elected = drain(&mut machine);
    assert_eq!(events(&elected), [Event::Elected]);
    assert_eq!(without_reports(elected), [COMMIT]);

    machine.handle_input(lease(1000), at(20));
    assert_eq!(drain(&mut machine), [], "a lease alone opens nothing");

    machine.handle_input(own(), at(30));
    let commands = drain(&mut machine);
    assert_eq!(
        events(&commands),
        [Event::OwnerCommitted, Event::GateOpened]
    );
    assert_eq!(without_reports(commands), ACTIVATE);
    assert_eq!(
        machine.poll_timeout(),
        Some((at(1000), TimerReason::LeaseDeadline))
    );

    machine.handle_input(
        Input::AddressReport {
            epoch: EPOCH,
            verified: true,
        },
        at(40),
    );
    assert!(machine.status().address_verified);
}

/// A stopped process hears of nothing: the deadline alone must end it (contract 1).
#[test]
fn the_deadline_passing_stops_serving() {
    let mut machine = machine_in(Phase::Serving);
    machine.handle_timeout(at(999));
    assert_eq!(drain(&mut machine), []);
    machine.handle_timeout(at(1000));
    let commands = drain(&mut machine);
    assert_eq!(events(&commands), [Event::GateClosed]);
    assert_eq!(without_reports(commands), [&STOP[..], &[COMMIT]].concat());
    assert_eq!(machine.counters().leases_expired, 1);
}

/// The lease that arrives after the deadline does not glue the gap: the gate was closed in between.
#[test]
fn a_late_lease_serves_again_only_behind_a_barrier() {
    let mut machine = machine_in(Phase::Serving);
    machine.handle_input(lease(3000), at(2000));
    assert_eq!(
        without_reports(drain(&mut machine)),
        [&STOP[..], &[COMMIT]].concat()
    );
    assert_eq!(machine.status().phase, Phase::Electing);
    machine.handle_input(own(), at(2010));
    let commands = without_reports(drain(&mut machine));
    assert_eq!(commands.first(), Some(&Command::Activate { epoch: EPOCH }));
    assert_eq!(machine.status().until, Some(at(3000)));
}

#[test]
fn a_refused_owner_entry_is_proposed_again() {
    let mut machine = machine_in(Phase::Electing);
    machine.handle_input(Input::CommitRefused { epoch: EPOCH }, at(100));
    let retry_at = at(100) + COMMIT_RETRY;
    assert_eq!(
        machine.poll_timeout(),
        Some((retry_at, TimerReason::CommitRetry))
    );
    machine.handle_timeout(retry_at);
    assert_eq!(drain(&mut machine), [COMMIT]);
    assert_eq!(machine.poll_timeout(), None);
}

/// A transfer is asked for behind a closed gate. When it is refused, this node goes on behind a barrier.
#[test]
fn a_yield_stops_for_good_unless_the_transfer_is_refused() {
    let mut machine = machine_in(Phase::Serving);
    machine.handle_input(Input::Yield { epoch: EPOCH }, at(100));
    assert_eq!(without_reports(drain(&mut machine)), STOP);
    machine.handle_input(lease(2000), at(110));
    assert_eq!(drain(&mut machine), [], "not by a lease");
    machine.handle_input(Input::Leader { epoch: EPOCH }, at(120));
    assert_eq!(without_reports(drain(&mut machine)), [COMMIT]);
}

/// Contract 5.
#[test]
fn lower_epochs_are_dropped_and_counted() {
    let lower = Epoch(6);
    let inputs = [
        Input::Leader { epoch: lower },
        Input::OwnerApplied {
            slot: Slot::B,
            epoch: lower,
        },
        Input::CommitRefused { epoch: lower },
        Input::Lease {
            epoch: lower,
            until: at(9000),
        },
        Input::LeaseLost { epoch: lower },
        Input::AddressReport {
            epoch: lower,
            verified: true,
        },
    ];
    for phase in [Phase::Electing, Phase::Committed, Phase::Serving] {
        let mut machine = machine_in(phase);
        let before = machine.status();
        for input in inputs {
            machine.handle_input(input, at(100));
        }
        assert_eq!(drain(&mut machine), []);
        assert_eq!(machine.status(), before);
        assert_eq!(machine.counters().stale_epoch, 6);
    }
}

#[test]
fn a_higher_epoch_ends_the_current_one() {
    let higher = Epoch(8);
    for input in [
        Input::OwnerApplied {
            slot: Slot::B,
            epoch: higher,
        },
        Input::Lease {
            epoch: higher,
            until: at(9000),
        },
        Input::LeaseLost { epoch: higher },
    ] {
        let mut machine = machine_in(Phase::Serving);
        machine.handle_input(input, at(100));
        assert_eq!(without_reports(drain(&mut machine)), STOP, "{input:?}");
        assert_eq!(machine.status().epoch, higher);
    }

    let mut machine = machine_in(Phase::Serving);
    machine.handle_input(Input::Leader { epoch: higher }, at(100));
    let commit = Command::CommitOwner { epoch: higher };
    assert_eq!(
        without_reports(drain(&mut machine)),
        [&STOP[..], &[commit]].concat()
    );
}

/// Two claims of one term cannot happen under Raft; if they do, nobody here serves.
#[test]
fn an_epoch_of_the_other_slot_is_not_taken() {
    let mut machine = Ownership::new(SLOT);
    machine.handle_input(foreign(), at(10));
    machine.handle_input(Input::Leader { epoch: EPOCH }, at(20));
    assert_eq!(drain(&mut machine), []);
    assert_eq!(machine.status().phase, Phase::Standby);
    assert_eq!(machine.counters().conflicts, 1);
}

#[test]
fn time_does_not_run_back() {
    let mut machine = machine_in(Phase::Committed);
    machine.handle_timeout(at(5000));
    machine.handle_input(lease(4000), at(200));
    assert_eq!(
        machine.status().phase,
        Phase::Committed,
        "the lease is over at 5 s"
    );
}

fn any_input() -> impl Strategy<Value = Input> {
    let epoch = (0u64..5).prop_map(Epoch);
    let slot = prop_oneof![Just(Slot::A), Just(Slot::B)];
    prop_oneof![
        3 => epoch.clone().prop_map(|epoch| Input::Leader { epoch }),
        1 => Just(Input::NotLeader),
        4 => (slot, epoch.clone()).prop_map(|(slot, epoch)| Input::OwnerApplied { slot, epoch }),
        1 => epoch.clone().prop_map(|epoch| Input::CommitRefused { epoch }),
        4 => (epoch.clone(), 0u64..3000)
            .prop_map(|(epoch, until)| Input::Lease { epoch, until: at(until) }),
        1 => epoch.clone().prop_map(|epoch| Input::LeaseLost { epoch }),
        1 => epoch.clone().prop_map(|epoch| Input::Yield { epoch }),
        1 => (epoch, any::<bool>())
            .prop_map(|(epoch, verified)| Input::AddressReport { epoch, verified }),
    ]
}

/// What a shell would have in hand after executing the commands.
#[derive(Default)]
struct Shell {
    gate: Option<Duration>,
    active: bool,
    holds: bool,
    epoch: Epoch,
    owner_applied: Option<Epoch>,
    lease: Duration,
}

impl Shell {
    fn execute(&mut self, command: Command, now: Duration) -> Result<(), TestCaseError> {
        match command {
            Command::CommitOwner { epoch } => self.rise(epoch)?,
            Command::Activate { epoch } => {
                self.rise(epoch)?;
                prop_assert!(!self.active, "activated twice");
                prop_assert_eq!(
                    self.owner_applied,
                    Some(epoch),
                    "active before it was committed"
                );
                self.active = true;
            }
            Command::OpenGate { epoch, until } => {
                self.rise(epoch)?;
                prop_assert!(self.active && self.gate.is_none());
                self.gate = Some(until);
                self.promised(until, now)?;
            }
            Command::ExtendGate { epoch, until } => {
                self.rise(epoch)?;
                prop_assert!(self.gate.is_some_and(|gate| gate < until));
                self.gate = Some(until);
                self.promised(until, now)?;
            }
            Command::CloseGate => self.gate = None,
            Command::Deactivate => {
                prop_assert!(self.gate.is_none(), "the gate closes first");
                self.active = false;
            }
            Command::Desire(Desired::Hold { epoch }) => {
                self.rise(epoch)?;
                prop_assert!(self.gate.is_some());
                self.holds = true;
            }
            Command::Desire(Desired::Release) => self.holds = false,
            Command::Transition(transition) => self.rise(transition.epoch)?,
        }
        Ok(())
    }

    fn rise(&mut self, epoch: Epoch) -> Result<(), TestCaseError> {
        prop_assert!(epoch >= self.epoch, "a command of a lower epoch");
        self.epoch = epoch;
        Ok(())
    }

    /// The gate is only ever open for a time that a lease of this epoch promised.
    fn promised(&self, until: Duration, now: Duration) -> Result<(), TestCaseError> {
        prop_assert!(
            until > now && until <= self.lease,
            "open without a valid lease"
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_sequence_keeps_the_gate_within_the_lease(
        steps in prop::collection::vec((any_input(), 0u64..200), 1..80),
    ) {
        let mut machine = Ownership::new(SLOT);
        let mut shell = Shell::default();
        let mut now = Duration::ZERO;
        for (input, pause) in steps {
            now += at(pause);
            let before = machine.status().epoch;
            // The shell's own bookkeeping of what it was told, for the promises above.
            match input {
                Input::OwnerApplied { slot, epoch } => {
                    if epoch >= before && slot == SLOT {
                        shell.owner_applied = Some(epoch);
                    }
                }
                Input::Lease { epoch, until } => {
                    if epoch > before {
                        shell.lease = until;
                    } else if epoch == before {
                        shell.lease = shell.lease.max(until);
                    }
                }
                Input::Leader { epoch } => {
                    if epoch > before {
                        shell.lease = Duration::ZERO;
                    }
                }
                Input::NotLeader
                | Input::CommitRefused { .. }
                | Input::LeaseLost { .. }
                | Input::Yield { .. }
                | Input::AddressReport { .. } => {}
            }
            machine.handle_input(input, now);
            while let Some(command) = machine.next_command() {
                shell.execute(command, now)?;
            }
            let status = machine.status();
            prop_assert!(status.epoch >= before, "the epoch fell");
            prop_assert_eq!(shell.gate, status.until);
            prop_assert_eq!(shell.active, status.phase == Phase::Serving);
            prop_assert_eq!(shell.holds, shell.active);
            prop_assert!(shell.gate.is_none_or(|gate| gate > now), "the gate is open past its time");
        }
    }
}
