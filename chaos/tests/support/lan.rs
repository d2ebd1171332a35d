//! The LAN fabric: a gratuitous ARP moves the address, as on a switch.

use std::net::Ipv4Addr;

use tandem_chaos::fabric::{Cut, Fabric};
use tandem_chaos::host::HostId::{NodeA, NodeB, Pbx, Trunk, Witness};

use super::{add_address, announce, expect, node_b_hardware, remove_address, send, socket};
use crate::Test;

const FLOATING: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const FLOATING_NET: &str = "10.77.0.100/24";

pub(crate) const TESTS: &[Test] = &[
    (
        "lan::a_gratuitous_arp_moves_the_address",
        a_gratuitous_arp_moves_the_address,
    ),
    ("lan::two_holders_are_seen", two_holders_are_seen),
    (
        "lan::peers_and_clients_can_be_cut_apart",
        peers_and_clients_can_be_cut_apart,
    ),
    (
        "lan::a_capture_tells_the_nodes_apart",
        a_capture_tells_the_nodes_apart,
    ),
];

fn a_gratuitous_arp_moves_the_address() {
    let fabric = Fabric::lan().unwrap();
    add_address(fabric.host(NodeA), FLOATING_NET);
    let on_a = socket(fabric.host(NodeA), FLOATING);
    let clients = [Pbx, Trunk].map(|client| socket(fabric.host(client), fabric.address(client)));
    for client in &clients {
        // Fills the client's ARP entry.
        send(client, FLOATING, "one");
        expect(&on_a, "one", client.local_addr().map(ipv4).unwrap());
    }

    // The old owner keeps the address, as after a partition; only ARP says who is meant.
    add_address(fabric.host(NodeB), FLOATING_NET);
    let on_b = socket(fabric.host(NodeB), FLOATING);
    for client in &clients {
        send(client, FLOATING, "two");
        expect(&on_a, "two", client.local_addr().map(ipv4).unwrap());
    }
    announce(fabric.host(NodeB), node_b_hardware(), FLOATING);
    for client in &clients {
        send(client, FLOATING, "three");
        expect(&on_b, "three", client.local_addr().map(ipv4).unwrap());
        send(&on_b, client.local_addr().map(ipv4).unwrap(), "answer");
        expect(client, "answer", FLOATING);
    }
}

fn ipv4(address: std::net::SocketAddr) -> Ipv4Addr {
    match address {
        std::net::SocketAddr::V4(address) => *address.ip(),
        std::net::SocketAddr::V6(_) => panic!("not IPv4"),
    }
}

fn two_holders_are_seen() {
    let fabric = Fabric::lan().unwrap();
    assert_eq!(fabric.address_holders().unwrap(), []);
    add_address(fabric.host(NodeA), FLOATING_NET);
    assert_eq!(fabric.address_holder().unwrap(), Some(NodeA));
    add_address(fabric.host(NodeB), FLOATING_NET);
    assert_eq!(fabric.address_holders().unwrap(), [NodeA, NodeB]);
    assert_eq!(fabric.address_holder().unwrap(), None);
    remove_address(fabric.host(NodeA), FLOATING_NET);
    assert_eq!(fabric.address_holder().unwrap(), Some(NodeB));
}

fn peers_and_clients_can_be_cut_apart() {
    let fabric = Fabric::lan().unwrap();
    let back = |node: u8| Ipv4Addr::new(10, 78, 0, node);
    let [a, b, witness] = [(NodeA, 11), (NodeB, 12), (Witness, 13)]
        .map(|(node, octet)| socket(fabric.host(node), back(octet)));
    let front_a = socket(fabric.host(NodeA), fabric.address(NodeA));
    let front_b = socket(fabric.host(NodeB), fabric.address(NodeB));
    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    // Every ARP entry is there before the first cut: a packet that waits for one would arrive
    // later.
    send(&b, back(11), "connected");
    expect(&a, "connected", back(12));
    send(&front_b, fabric.address(NodeA), "connected");
    expect(&front_a, "connected", fabric.address(NodeB));

    fabric.cut(NodeA, Cut::Peer(NodeB)).unwrap();
    send(&b, back(11), "cut");
    send(&witness, back(11), "witness");
    expect(&a, "witness", back(13));
    send(&front_b, fabric.address(NodeA), "cut");
    send(&pbx, fabric.address(NodeA), "client");
    expect(&front_a, "client", fabric.address(Pbx));
    fabric.heal(NodeB).unwrap();

    fabric.cut(NodeA, Cut::Clients).unwrap();
    send(&pbx, fabric.address(NodeA), "cut");
    send(&front_b, fabric.address(NodeA), "peer");
    expect(&front_a, "peer", fabric.address(NodeB));
    fabric.heal(NodeA).unwrap();

    fabric.isolate(NodeA).unwrap();
    send(&b, back(11), "cut");
    fabric.heal(NodeA).unwrap();
    send(&b, back(11), "healed");
    expect(&a, "healed", back(12));
}

fn a_capture_tells_the_nodes_apart() {
    let fabric = Fabric::lan().unwrap();
    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    let sockets = [NodeA, NodeB].map(|node| {
        add_address(fabric.host(node), FLOATING_NET);
        socket(fabric.host(node), FLOATING)
    });
    let capture = fabric.capture().unwrap();
    announce(fabric.host(NodeB), node_b_hardware(), FLOATING);
    for socket in &sockets {
        send(socket, fabric.address(Pbx), "from the floating address");
        expect(&pbx, "from the floating address", FLOATING);
    }
    let captured = capture.finish();
    assert!(captured.is_complete());
    let nodes: Vec<_> = captured.packets.iter().map(|packet| packet.node).collect();
    assert_eq!(nodes, [NodeA, NodeB]);
}
