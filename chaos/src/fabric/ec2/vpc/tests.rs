//! The simulator's contract ("What the EC2 simulator must do"), item by item, in virtual time.

#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::super::ids::{AllocationId, AssociationId, InstanceId, InterfaceId, SubnetId};
use super::super::state::{AssociationName, ElasticName, NetworkInterface, Target};
use super::*;

const FLOATING: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 101);
const PRIMARY_A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
const PRIMARY_B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 100);
const OTHER_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 101);
const LIMIT: usize = 3;
const NOW: Duration = Duration::ZERO;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn eni(name: &str) -> InterfaceId {
    InterfaceId::new(format!("eni-{name}"))
}

fn interface(name: &str, network: [u8; 4], primary: Ipv4Addr) -> NetworkInterface {
    NetworkInterface {
        id: eni(name),
        instance: InstanceId::new(format!("i-{name}")),
        subnet: SubnetId::new(format!("subnet-{}", network[2])),
        cidr: Ipv4Net::new(network.into(), 24).unwrap(),
        primary,
        secondaries: [].into(),
        secondary_limit: LIMIT,
    }
}

/// a and b in one subnet, c in another; two Elastic IPs, unbound.
fn vpc() -> Vpc {
    let interfaces = [
        interface("a", [10, 0, 0, 0], PRIMARY_A),
        interface("b", [10, 0, 0, 0], PRIMARY_B),
        interface("c", [10, 0, 1, 0], Ipv4Addr::new(10, 0, 1, 20)),
    ];
    let elastic = [
        (AllocationId::new("eipalloc-1"), PUBLIC),
        (AllocationId::new("eipalloc-2"), OTHER_PUBLIC),
    ];
    let mut vpc = Vpc::new(State::new(interfaces, elastic), NOW);
    assert!(matches!(vpc.next_command(), Some(Command::Program(_))));
    vpc
}

fn assign(name: &str, addresses: &[Ipv4Addr], allow_reassignment: bool) -> Change {
    Change::Assign {
        interface: eni(name),
        addresses: addresses.to_vec(),
        allow_reassignment,
    }
}

fn unassign(name: &str, address: Ipv4Addr) -> Change {
    Change::Unassign {
        interface: eni(name),
        addresses: vec![address],
    }
}

fn associate(number: u8, name: &str, private: Option<Ipv4Addr>, allow: bool) -> Change {
    Change::Associate {
        elastic: ElasticName::Allocation(AllocationId::new(format!("eipalloc-{number}"))),
        target: Target::Interface(eni(name)),
        private,
        allow_reassociation: allow,
    }
}

fn at_once(vpc: &mut Vpc, change: &Change) -> Result<Changed, ApiError> {
    vpc.handle_change(change, Duration::ZERO, NOW)
}

fn holder(state: &State, address: Ipv4Addr) -> Option<&str> {
    state.holder(address).map(|interface| interface.id.as_str())
}

fn public_of(state: &State, private: Ipv4Addr) -> Option<Ipv4Addr> {
    state.elastic_of(private).map(|(elastic, _)| elastic.public)
}

#[test]
fn a_held_address_is_refused_without_allow_reassignment() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    let refused = at_once(&mut vpc, &assign("b", &[FLOATING], false)).unwrap_err();
    assert_eq!(refused.code(), "InvalidParameterValue");
    assert_eq!(holder(vpc.effective(), FLOATING), Some("eni-a"));
}

#[test]
fn with_allow_reassignment_the_old_interface_loses_the_address() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    at_once(&mut vpc, &assign("b", &[FLOATING], true)).unwrap();
    assert_eq!(holder(vpc.effective(), FLOATING), Some("eni-b"));
    assert!(
        !vpc.effective()
            .interface(&eni("a"))
            .unwrap()
            .holds(FLOATING)
    );
}

#[test]
fn assigning_what_is_held_already_changes_nothing() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    vpc.next_command();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    assert_eq!(vpc.next_command(), None);
}

#[test]
fn several_addresses_move_all_or_none() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING, SECOND], false)).unwrap();
    let outside = Ipv4Addr::new(10, 0, 1, 5);
    at_once(&mut vpc, &assign("b", &[FLOATING, SECOND, outside], true)).unwrap_err();
    assert_eq!(holder(vpc.effective(), FLOATING), Some("eni-a"));
    assert_eq!(holder(vpc.effective(), SECOND), Some("eni-a"));
    at_once(&mut vpc, &assign("b", &[FLOATING, SECOND], true)).unwrap();
    assert_eq!(holder(vpc.effective(), FLOATING), Some("eni-b"));
    assert_eq!(holder(vpc.effective(), SECOND), Some("eni-b"));
}

#[test]
fn the_subnet_bounds_what_can_be_assigned() {
    let mut vpc = vpc();
    let outside = [
        Ipv4Addr::new(10, 0, 1, 100),
        Ipv4Addr::new(10, 0, 0, 0),
        Ipv4Addr::new(10, 0, 0, 1),
        Ipv4Addr::new(10, 0, 0, 3),
        Ipv4Addr::new(10, 0, 0, 255),
    ];
    for address in outside {
        let refused = at_once(&mut vpc, &assign("a", &[address], true)).unwrap_err();
        assert_eq!(refused, ApiError::OutsideSubnet { address });
    }
    for last_octet in [4, 254] {
        let address = Ipv4Addr::new(10, 0, 0, last_octet);
        at_once(&mut vpc, &assign("a", &[address], true)).unwrap();
    }
}

#[test]
fn an_address_cannot_leave_its_subnet() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    let refused = at_once(&mut vpc, &assign("c", &[FLOATING], true)).unwrap_err();
    assert_eq!(refused, ApiError::OutsideSubnet { address: FLOATING });
    assert_eq!(holder(vpc.effective(), FLOATING), Some("eni-a"));
}

#[test]
fn an_interface_holds_no_more_than_its_limit() {
    let mut vpc = vpc();
    let many: Vec<_> = (50..54)
        .map(|octet| Ipv4Addr::new(10, 0, 0, octet))
        .collect();
    let refused = at_once(&mut vpc, &assign("a", &many, false)).unwrap_err();
    assert_eq!(refused.code(), "PrivateIpAddressLimitExceeded");
    assert_eq!(holder(vpc.effective(), many[0]), None);
    at_once(&mut vpc, &assign("a", &many[..LIMIT], false)).unwrap();
    at_once(&mut vpc, &assign("a", &[many[LIMIT]], false)).unwrap_err();
    // What is there already does not count again.
    at_once(&mut vpc, &assign("a", &many[..LIMIT], false)).unwrap();
}

#[test]
fn a_primary_address_never_moves() {
    let mut vpc = vpc();
    for (name, change) in [
        ("own", assign("a", &[PRIMARY_A], true)),
        ("other's", assign("b", &[PRIMARY_A], true)),
        ("unassigned", unassign("a", PRIMARY_A)),
    ] {
        let refused = at_once(&mut vpc, &change).unwrap_err();
        assert_eq!(refused.code(), "InvalidParameterValue", "{name}");
    }
}

#[test]
fn unassigning_needs_the_address_to_be_there() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    let refused = at_once(&mut vpc, &unassign("b", FLOATING)).unwrap_err();
    assert_eq!(refused.code(), "InvalidParameterValue");
    at_once(&mut vpc, &unassign("a", FLOATING)).unwrap();
    assert_eq!(holder(vpc.effective(), FLOATING), None);
}

#[test]
fn an_elastic_ip_follows_its_private_address() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    at_once(&mut vpc, &associate(1, "a", Some(FLOATING), false)).unwrap();
    at_once(&mut vpc, &assign("b", &[FLOATING], true)).unwrap();
    assert_eq!(public_of(vpc.effective(), FLOATING), Some(PUBLIC));
    assert_eq!(holder(vpc.effective(), FLOATING), Some("eni-b"));
}

#[test]
fn unassigning_loses_the_elastic_ip_for_good() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    at_once(&mut vpc, &associate(1, "a", Some(FLOATING), false)).unwrap();
    at_once(&mut vpc, &unassign("a", FLOATING)).unwrap();
    at_once(&mut vpc, &assign("b", &[FLOATING], false)).unwrap();
    assert_eq!(public_of(vpc.effective(), FLOATING), None);
}

#[test]
fn associate_honours_the_private_address() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    at_once(&mut vpc, &associate(1, "a", Some(FLOATING), false)).unwrap();
    at_once(&mut vpc, &associate(2, "a", None, false)).unwrap();
    assert_eq!(public_of(vpc.effective(), FLOATING), Some(PUBLIC));
    assert_eq!(public_of(vpc.effective(), PRIMARY_A), Some(OTHER_PUBLIC));
    let refused = at_once(&mut vpc, &associate(1, "b", Some(FLOATING), true)).unwrap_err();
    assert_eq!(refused.code(), "InvalidParameterValue");
}

#[test]
fn associate_honours_allow_reassociation() {
    let mut vpc = vpc();
    let first = at_once(&mut vpc, &associate(1, "a", None, false)).unwrap();
    assert_eq!(
        at_once(&mut vpc, &associate(1, "a", None, false)),
        Ok(first)
    );
    for taken in [
        associate(1, "b", None, false),
        associate(2, "a", None, false),
    ] {
        let refused = at_once(&mut vpc, &taken).unwrap_err();
        assert_eq!(refused.code(), "Resource.AlreadyAssociated");
    }
    at_once(&mut vpc, &associate(1, "b", None, true)).unwrap();
    assert_eq!(public_of(vpc.effective(), PRIMARY_A), None);
    assert_eq!(public_of(vpc.effective(), PRIMARY_B), Some(PUBLIC));
    // The private address gives up the Elastic IP that it had.
    at_once(&mut vpc, &associate(2, "b", None, true)).unwrap();
    assert_eq!(public_of(vpc.effective(), PRIMARY_B), Some(OTHER_PUBLIC));
}

#[test]
fn disassociate_by_id_or_public_address() {
    let mut vpc = vpc();
    let Ok(Changed::Associated(id)) = at_once(&mut vpc, &associate(1, "a", None, false)) else {
        panic!("associate failed");
    };
    let by_id = |association| Change::Disassociate {
        association: AssociationName::Association(association),
    };
    at_once(&mut vpc, &by_id(id.clone())).unwrap();
    assert_eq!(public_of(vpc.effective(), PRIMARY_A), None);
    let refused = at_once(&mut vpc, &by_id(id.clone())).unwrap_err();
    assert_eq!(refused, ApiError::UnknownAssociation(id.clone()));

    let again = at_once(&mut vpc, &associate(1, "a", None, false)).unwrap();
    assert_ne!(
        again,
        Changed::Associated(id),
        "association ids are not used twice"
    );
    let by_public = Change::Disassociate {
        association: AssociationName::Public(PUBLIC),
    };
    at_once(&mut vpc, &by_public).unwrap();
    assert_eq!(public_of(vpc.effective(), PRIMARY_A), None);
}

#[test]
fn unknown_resources_have_codes_of_their_own() {
    let mut vpc = vpc();
    let unknown_association = Change::Disassociate {
        association: AssociationName::Association(AssociationId::new("eipassoc-x")),
    };
    let cases = [
        (
            assign("x", &[FLOATING], true),
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            unassign("x", FLOATING),
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            associate(9, "a", None, true),
            "InvalidAllocationID.NotFound",
        ),
        (
            associate(1, "x", None, true),
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (unknown_association, "InvalidAssociationID.NotFound"),
    ];
    for (change, code) in cases {
        assert_eq!(
            at_once(&mut vpc, &change).unwrap_err().code(),
            code,
            "{change:?}"
        );
    }
}

#[test]
fn a_delayed_effect_comes_when_due_and_not_before() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    vpc.next_command();
    vpc.handle_change(&assign("b", &[FLOATING], true), seconds(3), seconds(1))
        .unwrap();
    assert_eq!(
        vpc.poll_timeout(),
        Some((seconds(4), TimerReason::EffectDue))
    );
    vpc.handle_timeout(seconds(4) - Duration::from_nanos(1));
    assert_eq!(vpc.next_command(), None);
    assert_eq!(holder(vpc.effective(), FLOATING), Some("eni-a"));
    assert_eq!(
        holder(vpc.described(Duration::ZERO, seconds(4)), FLOATING),
        Some("eni-a")
    );
    vpc.handle_timeout(seconds(4));
    let Some(Command::Program(state)) = vpc.next_command() else {
        panic!("nothing to program");
    };
    assert_eq!(holder(&state, FLOATING), Some("eni-b"));
    assert_eq!(vpc.poll_timeout(), None);
}

#[test]
fn the_next_call_is_checked_against_what_was_accepted() {
    let mut vpc = vpc();
    vpc.handle_change(&assign("a", &[FLOATING], false), seconds(5), NOW)
        .unwrap();
    let refused = vpc
        .handle_change(&assign("b", &[FLOATING], false), NOW, NOW)
        .unwrap_err();
    assert_eq!(refused.code(), "InvalidParameterValue");
}

#[test]
fn effects_keep_the_order_of_their_calls() {
    let mut vpc = vpc();
    vpc.handle_change(&assign("a", &[FLOATING], true), seconds(5), NOW)
        .unwrap();
    vpc.handle_change(&assign("b", &[FLOATING], true), seconds(1), NOW)
        .unwrap();
    vpc.handle_timeout(seconds(1));
    assert_eq!(
        holder(vpc.effective(), FLOATING),
        None,
        "the earlier call is still to come"
    );
    vpc.handle_timeout(seconds(5));
    assert_eq!(
        holder(vpc.effective(), FLOATING),
        Some("eni-b"),
        "the last writer wins"
    );
}

#[test]
fn describe_can_be_stale() {
    let mut vpc = vpc();
    at_once(&mut vpc, &assign("a", &[FLOATING], false)).unwrap();
    vpc.handle_change(&assign("b", &[FLOATING], true), Duration::ZERO, seconds(10))
        .unwrap();
    let stale = seconds(4);
    assert_eq!(
        holder(vpc.described(stale, seconds(13)), FLOATING),
        Some("eni-a")
    );
    assert_eq!(
        holder(vpc.described(stale, seconds(14)), FLOATING),
        Some("eni-b")
    );
    assert_eq!(
        holder(vpc.described(Duration::ZERO, seconds(10)), FLOATING),
        Some("eni-b")
    );
    // Further back than the VPC exists: its first version.
    assert_eq!(
        holder(vpc.described(seconds(99), seconds(14)), PRIMARY_A),
        Some("eni-a")
    );
}

#[test]
fn a_dry_run_changes_nothing() {
    let vpc = vpc();
    vpc.check(&associate(1, "a", None, false)).unwrap();
    vpc.check(&associate(9, "a", None, false)).unwrap_err();
    assert_eq!(public_of(vpc.effective(), PRIMARY_A), None);
}

#[test]
fn pending_effects_are_bounded() {
    let mut vpc = vpc();
    for round in 0..MAX_PENDING {
        let name = if round % 2 == 0 { "a" } else { "b" };
        vpc.handle_change(&assign(name, &[FLOATING], true), seconds(60), NOW)
            .unwrap();
    }
    let refused = vpc.handle_change(&assign("a", &[FLOATING], true), seconds(60), NOW);
    assert_eq!(refused, Err(ApiError::RequestLimitExceeded));
    vpc.handle_timeout(seconds(60));
    at_once(&mut vpc, &assign("a", &[FLOATING], true)).unwrap();
}

#[test]
fn history_is_bounded() {
    let mut vpc = vpc();
    for round in 0..=MAX_HISTORY as u64 {
        let name = if round % 2 == 0 { "a" } else { "b" };
        let change = assign(name, &[FLOATING], true);
        vpc.handle_change(&change, Duration::ZERO, seconds(round))
            .unwrap();
    }
    assert_eq!(vpc.history.len(), MAX_HISTORY);
}

fn any_change() -> impl Strategy<Value = Change> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("x")];
    let address = (95_u8..105).prop_map(|octet| Ipv4Addr::new(10, 0, 0, octet));
    let addresses = proptest::collection::vec(address.clone(), 1..4);
    prop_oneof![
        (name.clone(), addresses, any::<bool>())
            .prop_map(|(name, addresses, allow)| assign(name, &addresses, allow)),
        (name.clone(), address.clone()).prop_map(|(name, address)| unassign(name, address)),
        (1_u8..4, name, proptest::option::of(address), any::<bool>())
            .prop_map(|(number, name, private, allow)| associate(number, name, private, allow)),
        any::<bool>().prop_map(|first| Change::Disassociate {
            association: AssociationName::Public(if first { PUBLIC } else { OTHER_PUBLIC }),
        }),
    ]
}

proptest! {
    /// `State` checks its invariants after each change (one holder, bound means held); here, that
    /// effects end where the calls left the table, whatever their delays.
    #[test]
    fn the_data_plane_ends_at_what_was_accepted(
        calls in proptest::collection::vec((any_change(), 0_u64..10, 0_u64..3), 1..40)
    ) {
        let mut vpc = vpc();
        let mut now = NOW;
        let mut programmed = vpc.effective().clone();
        for (change, delay, pause) in calls {
            now += seconds(pause);
            // Refusals are part of the sequence.
            let _ = vpc.handle_change(&change, seconds(delay), now);
            if let Some(Command::Program(state)) = vpc.next_command() {
                programmed = state;
            }
            prop_assert_eq!(&programmed, vpc.effective());
        }
        vpc.handle_timeout(now + seconds(10));
        if let Some(Command::Program(state)) = vpc.next_command() {
            programmed = state;
        }
        prop_assert_eq!(&programmed, &vpc.accepted);
        prop_assert_eq!(vpc.poll_timeout(), None);
    }
}
