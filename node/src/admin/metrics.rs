//! `/metrics` in the OpenMetrics text form, from the same snapshots that `/status` shows.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tandem_datapath::{Sample, SampleKind};

use super::Observed;
use crate::status::{NodeStatus, Times};

pub(super) const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of this node.
pub(super) fn text(observed: &Observed) -> Result<String, fmt::Error> {
    let mut samples = of_status(&observed.status());
    if let Some(node) = &observed.node {
        samples.extend(node.datapath.stats().samples);
    }
    render(samples)
}

fn render(samples: Vec<Sample>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(samples)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn of_status(status: &NodeStatus) -> Vec<Sample> {
    let mut samples = vec![
        gauge("tandem_protected", &[], u64::from(status.protected)),
        gauge("tandem_owner", &[], u64::from(status.role == "owner")),
        gauge("tandem_epoch", &[], status.epoch),
        gauge("tandem_calls", &[], status.calls as u64),
        gauge("tandem_held_messages", &[], status.held as u64),
        gauge("tandem_raft_term", &[], status.replication.term),
        gauge("tandem_raft_commit_index", &[], status.replication.commit),
        gauge("tandem_raft_applied_index", &[], status.replication.applied),
    ];
    for (name, value) in [
        ("tandem_alone", u64::from(status.replication.alone)),
        (
            "tandem_waiting",
            u64::from(status.replication.waiting.is_some()),
        ),
        (
            "tandem_generation",
            u64::from(status.replication.generation),
        ),
        (
            "tandem_cluster_version",
            u64::from(status.replication.cluster_version),
        ),
    ] {
        samples.push(gauge(name, &[], value));
    }
    for member in &status.replication.members {
        let labels = [("id", member.id.as_str()), ("part", member.part.as_str())];
        samples.push(gauge("tandem_member", &labels, 1));
    }
    for peer in &status.replication.peers {
        let labels = [("peer", peer.slot.as_str())];
        samples.push(gauge(
            "tandem_peer_connected",
            &labels,
            u64::from(peer.connected),
        ));
        if let Some(lag) = peer.lag {
            samples.push(gauge("tandem_peer_lag_entries", &labels, lag));
        }
    }
    let replication = &status.replication;
    samples.extend(quantiles(
        "tandem_store_sync_microseconds",
        replication.sync_us,
    ));
    samples.extend(quantiles(
        "tandem_raft_tick_late_microseconds",
        replication.tick_late_us,
    ));
    if let Some(margin) = replication.worst_lease_margin_us {
        let name = "tandem_raft_worst_lease_margin_microseconds";
        samples.push(gauge(name, &[], margin));
    }
    let disk = &status.replication.disk;
    samples.push(gauge("tandem_store_free_bytes", &[], disk.free_bytes));
    samples.push(gauge("tandem_store_disk_low", &[], u64::from(disk.low)));
    for (result, total) in &status.replication.certificates {
        samples.push(counter(
            "tandem_death_certificates_received_total",
            &[("result", result)],
            *total,
        ));
    }
    let guard = &status.guard;
    samples.extend([
        counter(
            "tandem_death_certificates_sent_total",
            &[],
            guard.certificates_sent,
        ),
        counter("tandem_workers_ended_total", &[], guard.workers_ended),
        counter("tandem_workers_frozen_total", &[], guard.workers_frozen),
        gauge("tandem_realtime", &[], u64::from(guard.realtime_on)),
    ]);
    if let Some(address) = &status.address {
        samples.push(gauge("tandem_address_held", &[], u64::from(address.holds)));
    }
    if let Some(cdr) = &status.cdr {
        samples.push(counter("tandem_cdrs_written_total", &[], cdr.written));
        samples.push(gauge("tandem_cdrs_waiting", &[], cdr.waiting as u64));
    }
    for (name, value) in &status.counters {
        samples.push(counter("tandem_events_total", &[("event", name)], *value));
    }
    samples
}

fn quantiles(name: &'static str, times: Times) -> [Sample; 3] {
    [("0.5", times.p50), ("0.99", times.p99), ("1", times.max)]
        .map(|(quantile, value)| gauge(name, &[("quantile", quantile)], value))
}

fn gauge(name: &'static str, labels: &[(&'static str, &str)], value: u64) -> Sample {
    sample(name, SampleKind::Gauge, labels, value)
}

fn counter(name: &'static str, labels: &[(&'static str, &str)], value: u64) -> Sample {
    sample(name, SampleKind::Counter, labels, value)
}

fn sample(
    name: &'static str,
    kind: SampleKind,
    labels: &[(&'static str, &str)],
    value: u64,
) -> Sample {
    let labels = labels
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()))
        .collect();
    Sample {
        name,
        kind,
        labels,
        value,
    }
}

/// A moment's samples as a collector.
#[derive(Debug)]
struct Snapshot(Vec<Sample>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
        for sample in &self.0 {
            families.entry(sample.name).or_default().push(sample);
        }
        for (name, samples) in families {
            // The encoder itself appends `_total` to a counter's name.
            let name = name.strip_suffix("_total").unwrap_or(name);
            let Some(first) = samples.first() else {
                continue;
            };
            let metric_type = metric(first).metric_type();
            let mut family = encoder.encode_descriptor(name, help(name), None, metric_type)?;
            for sample in samples {
                metric(sample).encode(family.encode_family(&sample.labels)?)?;
            }
        }
        Ok(())
    }
}

fn metric(sample: &Sample) -> Box<dyn EncodeMetric> {
    match sample.kind {
        SampleKind::Counter => Box::new(ConstCounter::new(sample.value)),
        // Gauges are counts and indices far below i64::MAX.
        SampleKind::Gauge => Box::new(ConstGauge::new(
            i64::try_from(sample.value).unwrap_or(i64::MAX),
        )),
    }
}

fn help(name: &str) -> &'static str {
    match name {
        "tandem_protected" => "1 when the loss of any one host would lose nothing",
        "tandem_owner" => "1 on the node that serves",
        "tandem_epoch" => "Raft term in which ownership was committed",
        "tandem_calls" => "Calls in the table",
        "tandem_held_messages" => "SIP messages waiting for their commit",
        "tandem_store_free_bytes" => "Room on the state directory's file system",
        "tandem_store_disk_low" => "1 when that is below the low-water mark",
        "tandem_alone" => "1 when this node is the only voter",
        "tandem_waiting" => "1 while this node's store is empty and it waits for the others",
        "tandem_generation" => "Forced takeovers this store knows of",
        "tandem_cluster_version" => "Newest form of records that every member can read",
        "tandem_member" => "Members of the pair, by incarnation and part",
        "tandem_store_sync_microseconds" => "Time to make a write durable",
        "tandem_death_certificates_received" => "Death certificates by what became of them",
        "tandem_death_certificates_sent" => {
            "Death certificates this node's guard sent, repetitions included"
        }
        "tandem_workers_ended" => "Workers of this node that ended since its guard started",
        "tandem_workers_frozen" => "Those of them that had stopped beating and were killed",
        "tandem_realtime" => "1 when what carries heartbeats has real-time scheduling",
        "tandem_events" => "Events by name since the worker started",
        _ if name.starts_with("tandem_media") => "Media relay",
        _ if name.starts_with("tandem_peer") => "Another replica as this one sees it",
        _ if name.starts_with("tandem_raft") => "Raft",
        _ if name.starts_with("tandem_cdrs") => "Call detail records",
        _ => "Failover",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn samples_of_one_name_are_one_family_with_a_type() {
        let text = render(vec![
            gauge("tandem_peer_connected", &[("peer", "b")], 1),
            counter("tandem_events_total", &[("event", "sent")], 7),
            gauge("tandem_peer_connected", &[("peer", "witness")], 0),
        ])
        .unwrap();
        assert_eq!(
            text,
            "# HELP tandem_events Events by name since the worker started\n\
             # TYPE tandem_events counter\n\
             tandem_events_total{event=\"sent\"} 7\n\
             # HELP tandem_peer_connected Another replica as this one sees it\n\
             # TYPE tandem_peer_connected gauge\n\
             tandem_peer_connected{peer=\"b\"} 1\n\
             tandem_peer_connected{peer=\"witness\"} 0\n\
             # EOF\n"
        );
    }
}
