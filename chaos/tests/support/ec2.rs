//! The EC2 fabric: control plane and data plane agree.

use std::net::Ipv4Addr;
use std::time::Duration;

use tandem_chaos::clock::boottime;
use tandem_chaos::fabric::{Cut, Fabric, Fault, FaultRule, Faults, Outage, Outcome};
use tandem_chaos::host::HostId::{NodeA, NodeB, Pbx, Trunk, Witness};

use super::{
    add_address, announce, as_ec2, call, call_within, expect, node_b_hardware, receive, send,
    socket, take_over,
};
use crate::Test;

const FLOATING: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const ELASTIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 100);
const FLOATING_NET: &str = "10.0.0.100/32";
/// For a call that is meant to go unanswered.
const SHORT: Duration = Duration::from_millis(300);

pub(crate) const TESTS: &[Test] = &[
    (
        "ec2::the_api_moves_the_address_inside_the_vpc",
        the_api_moves_the_address_inside_the_vpc,
    ),
    (
        "ec2::the_source_check_drops_and_counts",
        the_source_check_drops_and_counts,
    ),
    (
        "ec2::the_elastic_ip_follows_one_flow",
        the_elastic_ip_follows_one_flow,
    ),
    (
        "ec2::gratuitous_arp_moves_nothing",
        gratuitous_arp_moves_nothing,
    ),
    ("ec2::no_elastic_ip_no_internet", no_elastic_ip_no_internet),
    ("ec2::an_effect_can_be_late", an_effect_can_be_late),
    ("ec2::describe_can_be_stale", describe_can_be_stale),
    (
        "ec2::refusals_have_status_and_code",
        refusals_have_status_and_code,
    ),
    (
        "ec2::a_lost_response_takes_effect",
        a_lost_response_takes_effect,
    ),
    ("ec2::a_hung_call_does_not", a_hung_call_does_not),
    ("ec2::the_endpoint_can_be_away", the_endpoint_can_be_away),
    ("ec2::describe_answers_like_ec2", describe_answers_like_ec2),
    (
        "ec2::partitions_cut_what_they_name",
        partitions_cut_what_they_name,
    ),
    (
        "ec2::a_capture_sees_what_leaves_the_node",
        a_capture_sees_what_leaves_the_node,
    ),
    ("ec2::calls_are_logged", calls_are_logged),
];

fn the_api_moves_the_address_inside_the_vpc() {
    let fabric = Fabric::ec2().unwrap();
    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    for node in [NodeA, NodeB] {
        add_address(fabric.host(node), FLOATING_NET);
    }
    let on_a = socket(fabric.host(NodeA), FLOATING);
    let on_b = socket(fabric.host(NodeB), FLOATING);

    assert_eq!(fabric.address_holder().unwrap(), Some(NodeA));
    send(&pbx, FLOATING, "one");
    expect(&on_a, "one", fabric.address(Pbx));
    send(&on_a, fabric.address(Pbx), "answer");
    expect(&pbx, "answer", FLOATING);

    let (status, body) = call(fabric.host(NodeB), &take_over(NodeB, FLOATING)).unwrap();
    assert_eq!(status, 200, "{body}");
    assert_eq!(fabric.address_holder().unwrap(), Some(NodeB));
    send(&pbx, FLOATING, "two");
    expect(&on_b, "two", fabric.address(Pbx));
    send(&on_b, fabric.address(Pbx), "answer");
    expect(&pbx, "answer", FLOATING);
}

fn the_source_check_drops_and_counts() {
    let fabric = Fabric::ec2().unwrap();
    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    add_address(fabric.host(NodeB), FLOATING_NET);
    let floating = socket(fabric.host(NodeB), FLOATING);
    let own = socket(fabric.host(NodeB), fabric.address(NodeB));

    send(&floating, fabric.address(Pbx), "forged");
    // Sent after it on the same path: had the first passed, it would come first.
    send(&own, fabric.address(Pbx), "honest");
    expect(&pbx, "honest", fabric.address(NodeB));
    assert_eq!(as_ec2(&fabric).source_check_drops(NodeB).unwrap(), 1);
    assert_eq!(as_ec2(&fabric).source_check_drops(NodeA).unwrap(), 0);

    as_ec2(&fabric).move_floating(NodeB).unwrap();
    send(&floating, fabric.address(Pbx), "mine");
    expect(&pbx, "mine", FLOATING);
    assert_eq!(as_ec2(&fabric).source_check_drops(NodeB).unwrap(), 1);
}

/// The same five-tuple from end to end, before and after: connection tracking would hold it at a.
fn the_elastic_ip_follows_one_flow() {
    let fabric = Fabric::ec2().unwrap();
    let trunk = socket(fabric.host(Trunk), fabric.address(Trunk));
    for node in [NodeA, NodeB] {
        add_address(fabric.host(node), FLOATING_NET);
        let served = socket(fabric.host(node), FLOATING);
        call(fabric.host(node), &take_over(node, FLOATING)).unwrap();
        send(&trunk, ELASTIC, "in");
        expect(&served, "in", fabric.address(Trunk));
        send(&served, fabric.address(Trunk), "out");
        expect(&trunk, "out", ELASTIC);
    }
}

fn gratuitous_arp_moves_nothing() {
    let fabric = Fabric::ec2().unwrap();
    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    // On the nodes' own subnet, where a LAN would listen to it.
    let witness = socket(fabric.host(Witness), fabric.address(Witness));
    for node in [NodeA, NodeB] {
        add_address(fabric.host(node), FLOATING_NET);
    }
    let on_a = socket(fabric.host(NodeA), FLOATING);
    announce(fabric.host(NodeB), node_b_hardware(), FLOATING);
    send(&pbx, FLOATING, "routed");
    expect(&on_a, "routed", fabric.address(Pbx));
    send(&witness, FLOATING, "same subnet");
    expect(&on_a, "same subnet", fabric.address(Witness));
}

fn no_elastic_ip_no_internet() {
    let fabric = Fabric::ec2().unwrap();
    let trunk = socket(fabric.host(Trunk), fabric.address(Trunk));
    add_address(fabric.host(NodeA), FLOATING_NET);
    let own = socket(fabric.host(NodeA), fabric.address(NodeA));
    let floating = socket(fabric.host(NodeA), FLOATING);
    send(&own, fabric.address(Trunk), "private");
    send(&floating, fabric.address(Trunk), "public");
    expect(&trunk, "public", ELASTIC);
    assert_eq!(as_ec2(&fabric).no_public_address_drops().unwrap(), 1);
}

fn an_effect_can_be_late() {
    let fabric = Fabric::ec2().unwrap();
    let delay = Duration::from_millis(500);
    let late = Faults {
        effect_delay: delay,
        ..Faults::default()
    };
    as_ec2(&fabric).set_faults(late).unwrap();
    let called = boottime();
    let (status, _) = call(fabric.host(NodeB), &take_over(NodeB, FLOATING)).unwrap();
    assert_eq!(status, 200);
    assert_eq!(
        fabric.address_holder().unwrap(),
        Some(NodeA),
        "the call has only returned"
    );
    while fabric.address_holder().unwrap() != Some(NodeB) {
        assert!(
            boottime() < called + Duration::from_secs(10),
            "the effect never came"
        );
        std::thread::yield_now();
    }
    let effects = as_ec2(&fabric).effects();
    let effect = effects.last().unwrap();
    assert!(effect.at >= called + delay, "{effects:?}");
    assert_eq!(effect.holders[&FLOATING].as_str(), "eni-00000000000000002");

    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    add_address(fabric.host(NodeB), FLOATING_NET);
    let on_b = socket(fabric.host(NodeB), FLOATING);
    send(&pbx, FLOATING, "late");
    expect(&on_b, "late", fabric.address(Pbx));
}

fn describe_can_be_stale() {
    let fabric = Fabric::ec2().unwrap();
    let describe = "Action=DescribeAddresses&PublicIp.1=203.0.113.100";
    let stale = Faults {
        staleness: Duration::from_secs(3600),
        ..Faults::default()
    };
    as_ec2(&fabric).set_faults(stale).unwrap();
    call(fabric.host(NodeB), &take_over(NodeB, FLOATING)).unwrap();
    assert_eq!(
        fabric.address_holder().unwrap(),
        Some(NodeB),
        "packets follow at once"
    );
    let (_, body) = call(fabric.host(NodeB), describe).unwrap();
    assert!(body.contains("eni-00000000000000001"), "{body}");
    as_ec2(&fabric).set_faults(Faults::default()).unwrap();
    let (_, body) = call(fabric.host(NodeB), describe).unwrap();
    assert!(body.contains("eni-00000000000000002"), "{body}");
}

fn refusals_have_status_and_code() {
    let fabric = Fabric::ec2().unwrap();
    let node = fabric.host(NodeB);
    let take = take_over(NodeB, FLOATING);
    let faulty = |fault| Faults {
        rules: vec![FaultRule::next(1, fault).from_caller(fabric.address(NodeB))],
        ..Faults::default()
    };
    for (fault, status, code) in [
        (Fault::Throttled, 503, "RequestLimitExceeded"),
        (Fault::Unauthorized, 403, "UnauthorizedOperation"),
        (Fault::InternalError, 500, "InternalError"),
        (Fault::Unavailable, 503, "Unavailable"),
    ] {
        as_ec2(&fabric).set_faults(faulty(fault)).unwrap();
        let (got, body) = call(node, &take).unwrap();
        assert_eq!(got, status);
        assert!(
            body.contains(&format!("<Response><Errors><Error><Code>{code}</Code>")),
            "{body}"
        );
        assert_eq!(
            fabric.address_holder().unwrap(),
            Some(NodeA),
            "{code} has no effect"
        );
    }
    let (status, body) = call(node, "Action=LaunchRocket&Version=2016-11-15").unwrap();
    assert_eq!(status, 400);
    assert!(body.contains("<Code>InvalidAction</Code>"), "{body}");
    let polite = take.replace("AllowReassignment=true", "AllowReassignment=false");
    let (status, body) = call(node, &polite).unwrap();
    assert_eq!(status, 400);
    assert!(
        body.contains("<Code>InvalidParameterValue</Code>"),
        "{body}"
    );
    assert_eq!(fabric.address_holder().unwrap(), Some(NodeA));
}

fn a_lost_response_takes_effect() {
    let fabric = Fabric::ec2().unwrap();
    let faults = Faults {
        rules: vec![FaultRule::next(1, Fault::LostResponse)],
        ..Faults::default()
    };
    as_ec2(&fabric).set_faults(faults).unwrap();
    call(fabric.host(NodeB), &take_over(NodeB, FLOATING)).unwrap_err();
    assert_eq!(fabric.address_holder().unwrap(), Some(NodeB));
}

fn a_hung_call_does_not() {
    let fabric = Fabric::ec2().unwrap();
    let faults = Faults {
        rules: vec![FaultRule::next(1, Fault::Hang)],
        ..Faults::default()
    };
    as_ec2(&fabric).set_faults(faults).unwrap();
    let take = take_over(NodeB, FLOATING);
    let error = call_within(fabric.host(NodeB), &take, SHORT).unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::WouldBlock,
        "a timeout, not an end: {error}"
    );
    assert_eq!(fabric.address_holder().unwrap(), Some(NodeA));
    call(fabric.host(NodeB), &take).unwrap();
    assert_eq!(fabric.address_holder().unwrap(), Some(NodeB));
}

fn the_endpoint_can_be_away() {
    let fabric = Fabric::ec2().unwrap();
    let take = take_over(NodeB, FLOATING);
    for outage in [Outage::Reset, Outage::Silent] {
        let faults = Faults {
            outage: Some(outage),
            ..Faults::default()
        };
        as_ec2(&fabric).set_faults(faults).unwrap();
        let error = call_within(fabric.host(NodeB), &take, SHORT).unwrap_err();
        let timed_out = matches!(
            error.kind(),
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock
        );
        assert_eq!(timed_out, outage == Outage::Silent, "{outage:?}: {error}");
    }
    assert_eq!(fabric.address_holder().unwrap(), Some(NodeA));
    as_ec2(&fabric).set_faults(Faults::default()).unwrap();
    call(fabric.host(NodeB), &take).unwrap();
    assert_eq!(fabric.address_holder().unwrap(), Some(NodeB));
}

fn describe_answers_like_ec2() {
    let fabric = Fabric::ec2().unwrap();
    let node = fabric.host(NodeA);
    let (_, body) = call(
        node,
        "Action=DescribeNetworkInterfaces&Filter.1.Name=addresses.private-ip-address\
         &Filter.1.Value.1=10.0.0.100",
    )
    .unwrap();
    assert!(body.contains("<networkInterfaceId>eni-00000000000000001</networkInterfaceId>"));
    assert_eq!(body.matches("<networkInterfaceId>").count(), 1, "{body}");
    assert!(body.contains(
        "<item><privateIpAddress>10.0.0.100</privateIpAddress><primary>false</primary>\
         <association><publicIp>203.0.113.100</publicIp>"
    ));
    // Addresses match whole: 10.0.0.10 is nobody's.
    let (_, body) = call(
        node,
        "Action=DescribeNetworkInterfaces&Filter.1.Name=addresses.private-ip-address\
         &Filter.1.Value.1=10.0.0.10",
    )
    .unwrap();
    assert!(
        body.contains("<networkInterfaceSet></networkInterfaceSet>"),
        "{body}"
    );
    let (_, body) = call(node, "Action=DescribeInstances").unwrap();
    assert_eq!(body.matches("<instancesSet>").count(), 4, "{body}");
    let (status, body) = call(
        node,
        "Action=DescribeNetworkInterfaces&NetworkInterfaceId.1=eni-9",
    )
    .unwrap();
    assert_eq!(status, 400);
    assert!(
        body.contains("<Code>InvalidNetworkInterfaceID.NotFound</Code>"),
        "{body}"
    );
}

fn partitions_cut_what_they_name() {
    let fabric = Fabric::ec2().unwrap();
    let a = socket(fabric.host(NodeA), fabric.address(NodeA));
    let b = socket(fabric.host(NodeB), fabric.address(NodeB));
    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    let witness = socket(fabric.host(Witness), fabric.address(Witness));
    let (to_a, to_b) = (fabric.address(NodeA), fabric.address(NodeB));

    fabric.cut(NodeA, Cut::Peer(NodeB)).unwrap();
    send(&b, to_a, "cut");
    send(&witness, to_a, "witness");
    expect(&a, "witness", fabric.address(Witness));
    fabric.cut(NodeA, Cut::Peers).unwrap();
    send(&witness, to_a, "cut");
    send(&pbx, to_a, "client");
    expect(&a, "client", fabric.address(Pbx));
    fabric.heal(NodeA).unwrap();

    fabric.cut(NodeA, Cut::Outbound).unwrap();
    send(&a, to_b, "cut");
    send(&b, to_a, "one way");
    expect(&a, "one way", to_b);
    fabric.heal(NodeA).unwrap();

    fabric.isolate(NodeA).unwrap();
    send(&b, to_a, "cut");
    send(&a, to_b, "cut");
    call_within(fabric.host(NodeA), "Action=DescribeAddresses", SHORT).unwrap_err();
    fabric.heal(NodeA).unwrap();
    send(&b, to_a, "healed");
    expect(&a, "healed", to_b);
    send(&a, to_b, "healed");
    expect(&b, "healed", to_a);
    call(fabric.host(NodeA), "Action=DescribeAddresses").unwrap();
}

fn a_capture_sees_what_leaves_the_node() {
    let fabric = Fabric::ec2().unwrap();
    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    for node in [NodeA, NodeB] {
        add_address(fabric.host(node), FLOATING_NET);
    }
    let on_a = socket(fabric.host(NodeA), FLOATING);
    let on_b = socket(fabric.host(NodeB), FLOATING);
    let before = boottime();
    let capture = fabric.capture().unwrap();
    announce(fabric.host(NodeB), node_b_hardware(), FLOATING);
    send(&on_a, fabric.address(Pbx), "from a");
    assert_eq!(receive(&pbx).0, "from a");
    // The source check drops it; it left the node all the same.
    send(&on_b, fabric.address(Trunk), "from b");
    while as_ec2(&fabric).source_check_drops(NodeB).unwrap() == 0 {
        assert!(
            boottime() < before + Duration::from_secs(10),
            "nothing dropped"
        );
    }
    send(&pbx, FLOATING, "to a");
    assert_eq!(receive(&on_a).0, "to a");
    let captured = capture.finish();
    assert!(captured.is_complete());
    let seen: Vec<_> = captured
        .packets
        .iter()
        .map(|packet| (packet.node, packet.source_port, *packet.destination.ip()))
        .collect();
    let expected = [
        (NodeA, Some(super::PORT), fabric.address(Pbx)),
        (NodeB, Some(super::PORT), fabric.address(Trunk)),
    ];
    assert_eq!(seen, expected, "no ARP, nothing towards the address");
    let after = boottime();
    for packet in &captured.packets {
        assert!(
            (before..after).contains(&packet.at),
            "{packet:?} not in {before:?}..{after:?}"
        );
    }
}

fn calls_are_logged() {
    let fabric = Fabric::ec2().unwrap();
    let before = boottime();
    call(fabric.host(NodeB), &take_over(NodeB, FLOATING)).unwrap();
    call(fabric.host(NodeA), "Action=LaunchRocket").unwrap();
    let calls = as_ec2(&fabric).calls();
    let [first, second] = calls.as_slice() else {
        panic!("{calls:?}");
    };
    assert_eq!(first.action, "AssignPrivateIpAddresses");
    assert_eq!(first.caller, fabric.address(NodeB));
    assert_eq!(first.outcome, Outcome::Succeeded);
    assert!(before <= first.received && first.received <= first.decided);
    assert!(
        first.parameters.contains("PrivateIpAddress.1=10.0.0.100"),
        "{first:?}"
    );
    assert_eq!(second.outcome, Outcome::Failed("InvalidAction"));
}
