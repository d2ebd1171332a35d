#![allow(clippy::unwrap_used)]

use super::*;

const GOOD: &str = r#"
[node]
slot = "b"
state_dir = "/tmp/state"
[pair]
keys = "/tmp/keys"
a = "10.0.0.11:7600"
b = "10.0.0.12:7600"
witness = "10.0.0.13:7600"
profile = "fast"
durability = "memory"
on_single = "serve"
[floating]
mover = "ec2"
interface = "eth0"
addresses = ["10.0.0.100/24"]
[floating.ec2]
region = "eu-central-1"
endpoint = "http://10.0.0.1:7700"
[floating.ec2.eni]
a = "eni-0a"
b = "eni-0b"
[[realm]]
name = "pbx"
bind = "10.0.0.100:5060"
media_ports = "20000-20999"
[[realm]]
name = "trunk"
bind = "10.0.0.100:5070"
advertise = "203.0.113.100:5070"
media_ports = "21000-21999"
[[group]]
name = "carrier"
realm = "trunk"
targets = [{ address = "198.51.100.20:5060" }]
[[route]]
from = "pbx"
to = "carrier"
"#;

fn complain(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the test edits nothing: {from}");
    let text = GOOD.replacen(from, to, 1);
    let Located { at, problem } = Config::parse(&text).unwrap_err();
    let line = at.map(|offset| line_of(&text, offset));
    ConfigError {
        file: "t.toml".into(),
        line,
        problem,
    }
    .to_string()
}

#[test]
fn a_good_file_becomes_valid_types() {
    let config = Config::parse(GOOD).unwrap();
    assert_eq!(config.slot, Slot::B);
    assert_eq!(config.pair.durability, Durability::Memory);
    assert_eq!(config.pair.on_single, OnSingle::Serve);
    let border = config.border.unwrap();
    assert_eq!(border.realms[0].advertise, border.realms[0].bind);
    assert_eq!(
        border.realms[1].advertise,
        "203.0.113.100:5070".parse().unwrap()
    );
    assert_eq!((border.routes[0].from, border.routes[0].to), (0, 0));
    assert_eq!(border.cdr_path, Path::new("/tmp/state/cdr.jsonl"));
    assert!(matches!(border.floating.mover, Mover::Ec2 { own_eni, .. } if own_eni == "eni-0b"));
}

#[test]
fn each_broken_relation_names_file_line_and_key() {
    for (from, to, wanted) in [
        (
            "on_single = \"serve\"",
            "on_single = \"go\"",
            "t.toml:12: pair.on_single: \"go\" is not \"stop\" or \"serve\"",
        ),
        (
            "slot = \"b\"",
            "slot = \"c\"",
            "t.toml:3: node.slot: \"c\" is not",
        ),
        (
            "slot = \"b\"",
            "slot = \"b\"\nrealtime = \"on\"",
            "t.toml:4: node.realtime: \"on\" is not",
        ),
        (
            "state_dir",
            "statedir",
            "t.toml:4: unknown field `statedir`",
        ),
        (
            "10.0.0.12:7600",
            "10.0.0.11:7600",
            "t.toml:8: pair.b: \"10.0.0.11:7600\" is given twice",
        ),
        (
            "\"fast\"",
            "\"quick\"",
            "t.toml:10: pair.profile: \"quick\" is not",
        ),
        (
            "\"memory\"",
            "\"fsync\"",
            "t.toml:11: pair.durability: \"fsync\" is not \"durable\" or \"memory\"",
        ),
        (
            "mover = \"ec2\"",
            "mover = \"arp\"",
            "t.toml:14: floating.mover: \"arp\" is not",
        ),
        (
            "10.0.0.100/24",
            "10.0.0.100",
            "t.toml:16: floating.addresses: \"10.0.0.100\" is not",
        ),
        (
            "b = \"eni-0b\"",
            "b = \"i-0b\"",
            "t.toml:22: floating.ec2.eni: \"i-0b\" is not",
        ),
        (
            "10.0.0.100:5060",
            "10.0.0.99:5060",
            "t.toml:25: realm.bind: 10.0.0.99 is not on a floating",
        ),
        (
            "20000-20999",
            "20001-20999",
            "t.toml:26: realm.media_ports: \"20001-20999\" is not",
        ),
        (
            "21000-21999",
            "20500-21999",
            "t.toml:31: realm.media_ports: pbx and trunk share ports",
        ),
        (
            "name = \"trunk\"",
            "name = \"pbx\"",
            "t.toml:28: realm.name: \"pbx\" is given twice",
        ),
        (
            "\"203.0.113.100:5070\"",
            "\"[fd00::1]:5070\"",
            "t.toml:30: realm.advertise: 10.0.0.100 and fd00::1",
        ),
        (
            "realm = \"trunk\"",
            "realm = \"wan\"",
            "t.toml:34: group.realm: there is no realm named \"wan\"",
        ),
        (
            "198.51.100.20:5060",
            "carrier.example",
            "t.toml:35: group.targets.address: \"carrier.example\" is not",
        ),
        (
            "to = \"carrier\"",
            "to = \"nobody\"",
            "t.toml:38: route.to: there is no group named \"nobody\"",
        ),
        (
            "[[route]]",
            "[limits]\ncalls = 0\n[[route]]",
            "t.toml:37: limits.calls: \"0\" is not between 1 and",
        ),
    ] {
        let complaint = complain(from, to);
        assert!(
            complaint.starts_with(wanted),
            "wanted {wanted:?}, got {complaint:?}"
        );
    }
}

#[test]
fn every_profile_is_accepted_by_its_name() {
    let names = ["turbo", "fast", "standard", "relaxed"];
    for (name, profile) in names.into_iter().zip(Profile::ALL) {
        let text = GOOD.replacen("\"fast\"", &format!("{name:?}"), 1);
        assert_eq!(Config::parse(&text).unwrap().pair.profile, profile);
    }
}

#[test]
fn a_witness_serves_nothing() {
    let complaint = complain("slot = \"b\"", "slot = \"witness\"");
    assert!(
        complaint.contains("[floating] does not belong in a witness's"),
        "{complaint}"
    );
}

#[test]
fn a_data_node_needs_a_floating_address() {
    let head = GOOD.split("[floating]").next().unwrap();
    let Located { problem, .. } = Config::parse(head).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "[floating] is missing: a data node needs it"
    );
}
