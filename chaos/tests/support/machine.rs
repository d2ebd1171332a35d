//! Hosts as machines: processes, power, links.

use std::io::Read;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tandem_chaos::fabric::Fabric;
use tandem_chaos::host::HostId::{NodeA, NodeB, Pbx};
use tandem_chaos::host::{Host, Process};

use super::{add_address, expect, send, socket};
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "machine::a_power_cut_leaves_nothing",
        a_power_cut_leaves_nothing,
    ),
    (
        "machine::a_dropped_process_is_dead",
        a_dropped_process_is_dead,
    ),
    (
        "machine::a_paused_host_runs_nothing",
        a_paused_host_runs_nothing,
    ),
    ("machine::a_link_goes_down_and_up", a_link_goes_down_and_up),
    (
        "machine::a_failed_command_says_why",
        a_failed_command_says_why,
    ),
    ("machine::node_configs_are_toml", node_configs_are_toml),
];

/// A shell with a child in a session of its own, as a daemon has; both are running on return.
fn family(host: &Host) -> Process {
    let mut command = Command::new("sh");
    command
        .args(["-c", "setsid sleep 1000 & echo started; wait"])
        .stdout(Stdio::piped());
    let mut process = host.spawn(command).unwrap();
    let mut started = [0; 8];
    process
        .take_stdout()
        .unwrap()
        .read_exact(&mut started)
        .unwrap();
    process
}

fn a_power_cut_leaves_nothing() {
    let fabric = Fabric::lan().unwrap();
    let node = fabric.host(NodeA);
    let mut process = family(node);
    add_address(node, "10.77.0.100/24");
    assert!(node.processes().unwrap().contains(&process.pid()));
    node.power_cut().unwrap();
    assert_eq!(node.processes().unwrap(), []);
    assert!(!process.wait().unwrap().success());
    assert_eq!(node.addresses().unwrap(), Vec::<std::net::Ipv4Addr>::new());

    node.power_on().unwrap();
    let own = fabric.address(NodeA);
    assert!(node.addresses().unwrap().contains(&own));
    assert!(!node.addresses().unwrap().contains(&fabric.floating()));
    let a = socket(node, own);
    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    send(&a, fabric.address(Pbx), "back");
    expect(&pbx, "back", own);
}

fn a_dropped_process_is_dead() {
    let fabric = Fabric::lan().unwrap();
    let mut command = Command::new("sleep");
    command.arg("1000");
    let process = fabric.host(NodeB).spawn(command).unwrap();
    let pid = process.pid();
    assert!(fabric.host(NodeB).processes().unwrap().contains(&pid));
    assert!(!fabric.host(NodeA).processes().unwrap().contains(&pid));
    drop(process);
    assert_eq!(fabric.host(NodeB).processes().unwrap(), []);
}

fn a_paused_host_runs_nothing() {
    let fabric = Fabric::lan().unwrap();
    let node = fabric.host(NodeA);
    let process = family(node);
    node.pause().unwrap();
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    // The signal is delivered when the process is next scheduled.
    while state() != 'T' {
        std::thread::yield_now();
    }
    node.resume().unwrap();
    while state() == 'T' {
        std::thread::yield_now();
    }
    process.signal(Signal::SIGTERM).unwrap();
}

fn a_link_goes_down_and_up() {
    let fabric = Fabric::lan().unwrap();
    let node = fabric.host(NodeA);
    let pbx = socket(fabric.host(Pbx), fabric.address(Pbx));
    let own = socket(node, fabric.address(NodeA));
    node.set_link("eth0", false).unwrap();
    own.send_to(b"down", (fabric.address(Pbx), super::PORT))
        .unwrap_err();
    node.set_link("eth0", true).unwrap();
    send(&own, fabric.address(Pbx), "up");
    expect(&pbx, "up", fabric.address(NodeA));
    node.set_link("eth7", true).unwrap_err();
}

fn a_failed_command_says_why() {
    let fabric = Fabric::lan().unwrap();
    let namespace = fabric.host(NodeA).namespace();
    let error = tandem_chaos::host::tool::ip(Some(namespace), "link set nowhere up").unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

fn node_configs_are_toml() {
    // One at a time: both would name their namespaces alike.
    for mover in ["ec2", "l2"] {
        let fabric = match mover {
            "ec2" => Fabric::ec2(),
            _ => Fabric::lan(),
        };
        let fabric = fabric.unwrap();
        let keys = std::path::Path::new("/tmp/k e\"ys");
        let config = fabric.node_config(NodeA, keys, "fast");
        let config: toml::Table = config.parse().unwrap();
        assert_eq!(config["pair"]["keys"].as_str(), Some("/tmp/k e\"ys"));
        assert_eq!(config["floating"]["mover"].as_str(), Some(mover));
        let trunk = &config["realm"][1];
        let advertised = format!("{}:5070", fabric.public());
        assert_eq!(trunk["advertise"].as_str(), Some(advertised.as_str()));
        assert_eq!(config["route"].as_array().unwrap().len(), 2);
        let witness = fabric.node_config(tandem_chaos::host::HostId::Witness, keys, "fast");
        let witness: toml::Table = witness.parse().unwrap();
        assert!(!witness.contains_key("floating"));
    }
}
