//! What the driver threads measure of themselves.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tandem_replication_core::Write;

use crate::store::{Durability, SpaceChange};

/// Samples a percentile is taken from; older ones are forgotten.
const WINDOW: usize = 1024;

/// Percentiles over the last samples, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// How many samples there were, ever.
    pub count: u64,
    /// Median of the last 1,024.
    pub p50_us: u64,
    /// 99th percentile of the last 1,024.
    pub p99_us: u64,
    /// Largest ever.
    pub max_us: u64,
}

#[derive(Debug, Default)]
struct Samples {
    window: VecDeque<u64>,
    count: u64,
    max: u64,
}

/// Collects durations.
#[derive(Debug, Default)]
pub(crate) struct LatencyMeter(Mutex<Samples>);

impl LatencyMeter {
    pub(crate) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut samples = self.0.lock().expect("no holder of this lock panics");
        if samples.window.len() == WINDOW {
            samples.window.pop_front();
        }
        samples.window.push_back(micros);
        samples.count += 1;
        samples.max = samples.max.max(micros);
    }

    pub(crate) fn latency(&self) -> Latency {
        let samples = self.0.lock().expect("no holder of this lock panics");
        let mut window: Vec<u64> = samples.window.iter().copied().collect();
        let (count, max_us) = (samples.count, samples.max);
        drop(samples);
        window.sort_unstable();
        let quantile = |percent: usize| {
            let rank = (window.len() * percent).div_ceil(100).saturating_sub(1);
            window.get(rank).copied().unwrap_or(0)
        };
        Latency {
            count,
            p50_us: quantile(50),
            p99_us: quantile(99),
            max_us,
        }
    }
}

/// What the store thread did.
#[derive(Debug, Default)]
pub(crate) struct StoreMeter {
    sync: LatencyMeter,
    writes: AtomicU64,
    entries: AtomicU64,
    syncs: AtomicU64,
    in_memory: AtomicBool,
    free_bytes: AtomicU64,
    disk_low: AtomicBool,
}

/// The store since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// From the start of a group of writes until it was as durable as the mode asks for.
    pub sync: Latency,
    /// Writes executed.
    pub writes: u64,
    /// Log entries appended.
    pub entries: u64,
    /// How often the disk was synced for them.
    pub syncs: u64,
    /// Whether acknowledgements rest on the machine's memory.
    pub in_memory: bool,
    /// Room left on the state directory's file system, looked at each second; 0 before the first look.
    pub free_bytes: u64,
    /// Whether that is below the low-water mark.
    pub disk_low: bool,
}

impl StoreStatus {
    /// What an acknowledged entry survives.
    pub fn durability(&self) -> Durability {
        if self.in_memory {
            Durability::Memory
        } else {
            Durability::Durable
        }
    }
}

impl StoreMeter {
    pub(crate) fn new(durability: Durability) -> StoreMeter {
        let meter = StoreMeter::default();
        let in_memory = durability == Durability::Memory;
        meter.in_memory.store(in_memory, Ordering::Relaxed);
        meter
    }

    pub(crate) fn looked(&self, free_bytes: u64, change: Option<SpaceChange>) {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        if let Some(change) = change {
            let low = matches!(change, SpaceChange::Low { .. });
            self.disk_low.store(low, Ordering::Relaxed);
        }
    }

    pub(crate) fn synced(&self, duration: Duration) {
        self.sync.record(duration);
    }

    /// `syncs` is how many the store has needed so far.
    pub(crate) fn written(&self, group: &[Write], syncs: u64) {
        self.syncs.store(syncs, Ordering::Relaxed);
        let entries: usize = group.iter().map(|write| write.entries.len()).sum();
        self.writes.fetch_add(group.len() as u64, Ordering::Relaxed);
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
    }

    pub(crate) fn status(&self) -> StoreStatus {
        StoreStatus {
            sync: self.sync.latency(),
            writes: self.writes.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            in_memory: self.in_memory.load(Ordering::Relaxed),
            free_bytes: self.free_bytes.load(Ordering::Relaxed),
            disk_low: self.disk_low.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_window_and_the_maximum_is_for_ever() {
        let meter = LatencyMeter::default();
        assert_eq!(meter.latency(), Latency::default());
        meter.record(Duration::from_secs(1));
        for micros in 1..=1000 {
            meter.record(Duration::from_micros(micros));
        }
        for _ in 0..24 {
            meter.record(Duration::from_micros(1));
        }
        let latency = meter.latency();
        assert_eq!((latency.count, latency.max_us), (1025, 1_000_000));
        assert_eq!((latency.p50_us, latency.p99_us), (488, 990));
    }
}
