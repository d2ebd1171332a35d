//! Network partitions: which ports of a fabric exchange nothing, without any link going down.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::host::HostId;
use crate::host::namespace::Namespace;
use crate::host::tool::{self, ToolError};

/// A way to cut a node off. The node's links stay up: it notices nothing but silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// From everything.
    Everything,
    /// From the other nodes: data node and witness. Calls still reach it.
    Peers,
    /// From one other node.
    Peer(HostId),
    /// From PBX and trunk; the nodes still see each other.
    Clients,
    /// What the node sends is lost, what is sent to it arrives.
    Outbound,
    /// What is sent to the node is lost, what it sends arrives.
    Inbound,
}

/// The rules that keep ports apart; one set of them for the bridges of a LAN and for a router.
#[derive(Debug)]
pub(super) struct Partition {
    namespace: Namespace,
    family: Family,
    cuts: BTreeSet<Rule>,
}

/// Which nftables family sees the packets that pass between the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Bridge,
    Ip,
}

/// One dropped direction, by port name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    From(String),
    To(String),
    Between(String, String),
}

impl Partition {
    pub(super) fn new(namespace: &Namespace, family: Family) -> Result<Partition, ToolError> {
        let partition = Partition {
            namespace: namespace.clone(),
            family,
            cuts: BTreeSet::new(),
        };
        tool::nft(namespace, &table(family))?;
        Ok(partition)
    }

    /// Adds rules; those that are there already stay.
    pub(super) fn add(&mut self, rules: impl IntoIterator<Item = Rule>) -> Result<(), ToolError> {
        self.cuts.extend(rules);
        self.load()
    }

    /// Removes every rule that names one of these ports.
    pub(super) fn heal(&mut self, ports: &[String]) -> Result<(), ToolError> {
        self.cuts.retain(|rule| match rule {
            Rule::From(port) | Rule::To(port) => !ports.contains(port),
            Rule::Between(from, to) => !ports.contains(from) && !ports.contains(to),
        });
        self.load()
    }

    fn load(&self) -> Result<(), ToolError> {
        tool::nft(&self.namespace, &transaction(self.family, &self.cuts))
    }
}

/// Both directions between two ports.
pub(super) fn apart(one: &str, other: &str) -> [Rule; 2] {
    [
        Rule::Between(one.to_owned(), other.to_owned()),
        Rule::Between(other.to_owned(), one.to_owned()),
    ]
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Bridge => "bridge",
        Family::Ip => "ip",
    }
}

/// Before every other rule on the way in, after every other on the way out.
fn table(family: Family) -> String {
    let family = family_name(family);
    format!(
        "table {family} partition {{
            set muted {{ type ifname; }}
            set deaf {{ type ifname; }}
            set apart {{ type ifname . ifname; }}
            chain arriving {{
                type filter hook prerouting priority -400; policy accept;
                iifname @muted drop
            }}
            chain passing {{
                type filter hook forward priority -400; policy accept;
                iifname . oifname @apart drop
            }}
            chain leaving {{
                type filter hook postrouting priority 400; policy accept;
                oifname @deaf drop
            }}
        }}\n"
    )
}

fn transaction(family: Family, cuts: &BTreeSet<Rule>) -> String {
    let family = family_name(family);
    let mut script = String::new();
    for set in ["muted", "deaf", "apart"] {
        // Writing to a String cannot fail.
        let _ = writeln!(script, "flush set {family} partition {set}");
    }
    for rule in cuts {
        let (set, element) = match rule {
            Rule::From(port) => ("muted", format!("{port:?}")),
            Rule::To(port) => ("deaf", format!("{port:?}")),
            Rule::Between(from, to) => ("apart", format!("{from:?} . {to:?}")),
        };
        let _ = writeln!(
            script,
            "add element {family} partition {set} {{ {element} }}"
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_replaces_every_set() {
        let cuts = BTreeSet::from([
            Rule::From("node-a".to_owned()),
            Rule::To("node-a".to_owned()),
            Rule::Between("node-a".to_owned(), "node-b".to_owned()),
        ]);
        assert_eq!(
            transaction(Family::Bridge, &cuts),
            "flush set bridge partition muted\n\
             flush set bridge partition deaf\n\
             flush set bridge partition apart\n\
             add element bridge partition muted { \"node-a\" }\n\
             add element bridge partition deaf { \"node-a\" }\n\
             add element bridge partition apart { \"node-a\" . \"node-b\" }\n"
        );
    }
}
