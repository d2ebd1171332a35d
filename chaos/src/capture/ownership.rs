//! Contract 1 ("one owner") as a question to a capture.

use std::time::Duration;

use super::CapturedPacket;
use crate::host::HostId;

/// When a node began to serve an epoch: its gate opened, CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeTime {
    pub node: HostId,
    pub epoch: u64,
    pub from: Duration,
}

/// The packets that left from the floating address by a node after another had begun to serve a
/// later epoch. The contract holds when there are none.
///
/// At any time the owner is the node with the highest epoch begun by then. Before the first serve
/// time nobody is owner and nothing is counted.
#[must_use]
pub fn dual_owner_packets(
    packets: &[CapturedPacket],
    serve_times: &[ServeTime],
) -> Vec<CapturedPacket> {
    let owner_at = |time: Duration| {
        serve_times
            .iter()
            .filter(|serve| serve.from <= time)
            .max_by_key(|serve| serve.epoch)
            .map(|serve| serve.node)
    };
    packets
        .iter()
        .filter(|packet| owner_at(packet.at).is_some_and(|owner| owner != packet.node))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;
    use HostId::{NodeA, NodeB};

    fn packet(node: HostId, ms: u64) -> CapturedPacket {
        CapturedPacket {
            at: Duration::from_millis(ms),
            node,
            destination: SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 20), 5060),
            source_port: Some(5060),
        }
    }

    fn serve(node: HostId, epoch: u64, ms: u64) -> ServeTime {
        ServeTime {
            node,
            epoch,
            from: Duration::from_millis(ms),
        }
    }

    #[test]
    fn a_clean_takeover_has_none() {
        let packets = [packet(NodeA, 10), packet(NodeA, 99), packet(NodeB, 100)];
        let serves = [serve(NodeA, 2, 0), serve(NodeB, 3, 100)];
        assert_eq!(dual_owner_packets(&packets, &serves), []);
    }

    #[test]
    fn the_old_owner_after_the_new_one_began_is_found() {
        let packets = [packet(NodeA, 99), packet(NodeA, 100), packet(NodeB, 101)];
        let serves = [serve(NodeA, 2, 0), serve(NodeB, 3, 100)];
        let found = dual_owner_packets(&packets, &serves);
        assert_eq!(found, [packet(NodeA, 100)]);
    }

    #[test]
    fn the_new_owner_before_it_began_is_found() {
        let packets = [packet(NodeB, 50)];
        let serves = [serve(NodeA, 2, 0), serve(NodeB, 3, 100)];
        assert_eq!(dual_owner_packets(&packets, &serves), [packet(NodeB, 50)]);
    }

    #[test]
    fn ownership_may_come_back() {
        let packets = [packet(NodeA, 50), packet(NodeB, 150), packet(NodeA, 250)];
        let serves = [
            serve(NodeA, 2, 0),
            serve(NodeB, 3, 100),
            serve(NodeA, 4, 200),
        ];
        assert_eq!(dual_owner_packets(&packets, &serves), []);
    }

    #[test]
    fn a_stale_epoch_begun_later_does_not_make_an_owner() {
        let packets = [packet(NodeA, 160), packet(NodeB, 170)];
        let serves = [serve(NodeB, 3, 100), serve(NodeA, 2, 150)];
        assert_eq!(dual_owner_packets(&packets, &serves), [packet(NodeA, 160)]);
    }

    #[test]
    fn nothing_counts_before_anyone_serves() {
        assert_eq!(dual_owner_packets(&[packet(NodeB, 1)], &[]), []);
    }
}
