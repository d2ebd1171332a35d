//! Random loss on the peer link: at each port of the switch, on the way in.

use super::config::PEER_PORT;
use crate::host::namespace::Namespace;
use crate::host::tool::{self, Tool};
use anyhow::Context;

/// What the loss has met so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LossCount {
    /// Packets of the peer link.
    pub seen: u64,
    /// Of them dropped.
    pub dropped: u64,
}

/// Replaces the loss at `ports`; only replication's packets are lost.
pub(super) fn set(switch: &Namespace, ports: &[String], percent: u8) -> anyhow::Result<()> {
    // Created first, so that deleting it succeeds also the first time.
    let script = format!(
        "table netdev loss\ndelete table netdev loss\n{}",
        table(ports, percent)
    );
    Ok(tool::nft(switch, &script)?)
}

/// Of all ports together.
pub(super) fn count(switch: &Namespace) -> anyhow::Result<LossCount> {
    let listing = tool::run(
        Some(switch),
        Tool::Nft,
        &["list", "table", "netdev", "loss"],
        "",
    )?;
    parse(&listing).with_context(|| format!("counters in {listing}"))
}

fn table(ports: &[String], percent: u8) -> String {
    let ports: Vec<String> = ports.iter().map(|port| format!("{port:?}")).collect();
    let ports = ports.join(", ");
    format!(
        "table netdev loss {{
            counter seen {{ }}
            counter dropped {{ }}
            chain arriving {{
                type filter hook ingress devices = {{ {ports} }} priority 0; policy accept;
                meta protocol ip udp dport {PEER_PORT} jump lossy
                meta protocol ip udp sport {PEER_PORT} jump lossy
            }}
            chain lossy {{
                counter name seen
                numgen random mod 100 < {percent} counter name dropped drop
                accept
            }}
        }}\n"
    )
}

/// `counter NAME { packets N bytes M }`, over lines.
fn parse(listing: &str) -> Option<LossCount> {
    let packets = |name: &str| -> Option<u64> {
        let (_, rest) = listing.split_once(&format!("counter {name} {{"))?;
        let (_, rest) = rest.split_once("packets ")?;
        rest.split_whitespace().next()?.parse().ok()
    };
    Some(LossCount {
        seen: packets("seen")?,
        dropped: packets("dropped")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{LossCount, parse};

    #[test]
    fn counters_are_read_from_a_listing() {
        let listing = "table netdev loss {\n\tcounter seen {\n\t\tpackets 200 bytes 9\n\t}\n\n\
                       \tcounter dropped {\n\t\tpackets 11 bytes 3\n\t}\n\n\tchain lossy {\n\t}\n}\n";
        assert_eq!(
            parse(listing),
            Some(LossCount {
                seen: 200,
                dropped: 11
            })
        );
        assert_eq!(parse("table netdev loss {\n}\n"), None);
    }
}
