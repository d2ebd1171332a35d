//! Counters of the relay threads, and the form in which they leave.

use std::io;
use tandem_media::{Totals, Traffic};

/// Whether a value only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SampleKind {
    Counter,
    Gauge,
}

/// One value under its metric name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    pub name: &'static str,
    pub kind: SampleKind,
    pub labels: Vec<(&'static str, String)>,
    pub value: u64,
}

/// A snapshot of the whole data path; samples of one name stand together.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    pub samples: Vec<Sample>,
}

impl Stats {
    /// The sum of all samples of this name that carry all of these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                labels
                    .iter()
                    .all(|(key, value)| sample.labels.iter().any(|(k, v)| k == key && v == value))
            })
            .map(|sample| sample.value)
            .sum()
    }

    pub(crate) fn push(
        &mut self,
        name: &'static str,
        kind: SampleKind,
        labels: &[(&'static str, &str)],
        value: u64,
    ) {
        let labels = labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        self.samples.push(Sample {
            name,
            kind,
            labels,
            value,
        });
    }
}

/// Packets that the kernel refused to send, by what to do about it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct SendErrors {
    /// No route, or the floating address is not on this host yet.
    pub(crate) unreachable: u64,
    /// The kernel's queues are full.
    pub(crate) congested: u64,
    pub(crate) other: u64,
}

impl SendErrors {
    pub(crate) fn count(&mut self, error: &io::Error) {
        use io::ErrorKind;
        let counter = match error.kind() {
            // EINVAL is what a source address that is not on any interface gives.
            ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::AddrNotAvailable
            | ErrorKind::InvalidInput => &mut self.unreachable,
            ErrorKind::WouldBlock | ErrorKind::OutOfMemory => &mut self.congested,
            _ if error.raw_os_error() == Some(nix::libc::ENOBUFS) => &mut self.congested,
            _ => &mut self.other,
        };
        *counter += 1;
    }
}

/// Counters of one relay thread.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct RelayCounters {
    pub(crate) received: u64,
    pub(crate) receive_errors: u64,
    /// Longer than a buffer.
    pub(crate) oversized: u64,
    /// Came while the gate was closed; not looked at.
    pub(crate) closed_at_receipt: u64,
    /// The gate closed between receiving and sending.
    pub(crate) closed_at_send: u64,
    pub(crate) sent: Traffic,
    pub(crate) send_errors: SendErrors,
}

/// What a relay thread answers to a request for its statistics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelayStatistics {
    pub(crate) counters: RelayCounters,
    pub(crate) totals: Totals,
    pub(crate) sessions: usize,
    pub(crate) sockets: usize,
}

/// The samples of every relay; `None` stands for one that did not answer in time.
pub(crate) fn samples(relays: &[Option<RelayStatistics>]) -> Stats {
    use SampleKind::{Counter, Gauge};
    let names: Vec<String> = (0..relays.len()).map(|place| place.to_string()).collect();
    let mut stats = Stats::default();
    for (relay, name) in relays.iter().zip(&names) {
        let answered = u64::from(relay.is_some());
        stats.push("tandem_media_relay_up", Gauge, &[("relay", name)], answered);
    }
    type Read = fn(&RelayStatistics) -> u64;
    let plain: [(&'static str, SampleKind, Read); 9] = [
        ("tandem_media_sessions", Gauge, |r| r.sessions as u64),
        ("tandem_media_sockets", Gauge, |r| r.sockets as u64),
        ("tandem_media_received_packets_total", Counter, |r| {
            r.counters.received
        }),
        ("tandem_media_receive_errors_total", Counter, |r| {
            r.counters.receive_errors
        }),
        ("tandem_media_sent_packets_total", Counter, |r| {
            r.counters.sent.packets
        }),
        ("tandem_media_sent_bytes_total", Counter, |r| {
            r.counters.sent.bytes
        }),
        ("tandem_media_routed_packets_total", Counter, |r| {
            r.totals.forwarded.packets
        }),
        ("tandem_media_latched_total", Counter, |r| r.totals.latched),
        ("tandem_media_events_deferred_total", Counter, |r| {
            r.totals.events_deferred
        }),
    ];
    for (metric, kind, read) in plain {
        for (relay, name) in relays.iter().zip(&names) {
            if let Some(relay) = relay {
                stats.push(metric, kind, &[("relay", name)], read(relay));
            }
        }
    }
    for (relay, name) in relays.iter().zip(&names) {
        if let Some(relay) = relay {
            push_reasons(&mut stats, relay, name);
        }
    }
    for (relay, name) in relays.iter().zip(&names) {
        if let Some(relay) = relay {
            let errors = relay.counters.send_errors;
            for (reason, value) in [
                ("unreachable", errors.unreachable),
                ("congested", errors.congested),
                ("other", errors.other),
            ] {
                let labels = [("relay", name.as_str()), ("reason", reason)];
                stats.push("tandem_media_send_errors_total", Counter, &labels, value);
            }
        }
    }
    stats
}

fn push_reasons(stats: &mut Stats, relay: &RelayStatistics, name: &str) {
    let own = [
        ("gate_closed", relay.counters.closed_at_receipt),
        ("gate_closed_at_send", relay.counters.closed_at_send),
        ("oversized", relay.counters.oversized),
    ];
    let core = relay.totals.drops.iter();
    for (reason, value) in own.into_iter().chain(core.map(|(r, v)| (r.name(), v))) {
        let labels = [("relay", name), ("reason", reason)];
        let kind = SampleKind::Counter;
        stats.push("tandem_media_dropped_packets_total", kind, &labels, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn errors_by_what_to_do_about_them() {
        let mut errors = SendErrors::default();
        for errno in [
            Errno::ENETUNREACH,
            Errno::EHOSTUNREACH,
            Errno::EADDRNOTAVAIL,
            Errno::EINVAL,
            Errno::EAGAIN,
            Errno::ENOBUFS,
            Errno::EPERM,
        ] {
            errors.count(&io::Error::from(errno));
        }
        assert_eq!(
            (errors.unreachable, errors.congested, errors.other),
            (4, 2, 1)
        );
    }

    #[test]
    fn a_silent_relay_shows() {
        let stats = samples(&[None]);
        assert_eq!(stats.value("tandem_media_relay_up", &[("relay", "0")]), 0);
        assert_eq!(stats.samples.len(), 1);
    }
}
