//! No false takeover: both processors busy with other work, 5 % of the peer link's datagrams lost, and the owner stays
//! the owner.
//!
//! `TANDEM_SATURATED_SECONDS` says how long (600 is the stated test), `TANDEM_SATURATED_PROFILE` which timing profile.
//! The `standard` profile with real-time scheduling must hold; others are reported.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use tandem_chaos::drill::Pair;
use tandem_chaos::fabric::{Fabric, PEER_PORT};
use tandem_chaos::host::HostId;
use tandem_chaos::host::tool::{self, Tool};
use tandem_chaos::node_process::NodeFiles;
use tandem_chaos::scenario::{Scenario, node_files, say};
use tokio::task::block_in_place;

const READY_WITHIN: Duration = Duration::from_secs(60);
const SECONDS_VARIABLE: &str = "TANDEM_SATURATED_SECONDS";
const SECONDS: u64 = 20;
const PROFILE_VARIABLE: &str = "TANDEM_SATURATED_PROFILE";
const PROMISED: &str = "standard";
/// Threads that do nothing but compute, for each processor: an ordinary thread waits for two of them.
const BUSY_PER_PROCESSOR: usize = 2;

fn main() -> ExitCode {
    tandem_chaos::scenario::main(&[Scenario {
        name: "saturated",
        programs: &[],
        run: |directory| Box::pin(saturated(directory)),
    }])
}

async fn saturated(directory: &Path) -> anyhow::Result<()> {
    let profile = std::env::var(PROFILE_VARIABLE).unwrap_or_else(|_| PROMISED.into());
    let seconds = match std::env::var(SECONDS_VARIABLE) {
        Ok(text) => text.parse().context(SECONDS_VARIABLE)?,
        Err(_) => SECONDS,
    };
    let fabric = Fabric::lan()?;
    let files = NodeFiles {
        profile: profile.clone(),
        ..node_files(directory)?
    };
    let mut pair = Pair::start(&fabric, &files)?;
    let before = pair.await_protected(READY_WITHIN).await?;
    let realtime = block_in_place(|| pair.node(before.id)?.status())?
        .guard
        .realtime;
    lose(&fabric)?;
    let busy = Busy::start()?;
    // The length of the strain is what is tested.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    drop(busy);

    let opened = |id: &HostId| {
        let transitions = pair.node(*id).map(|node| node.transitions());
        let later = transitions.unwrap_or_default().into_iter();
        later
            .filter(|seen| seen.event == "gate_opened" && seen.epoch > before.epoch)
            .count()
    };
    let takeovers: usize = HostId::DATA_NODES.iter().map(opened).sum();
    let mut ended = 0;
    for id in HostId::NODES {
        ended += block_in_place(|| pair.node(id)?.status())?
            .guard
            .workers_ended;
    }
    let lost = block_in_place(|| lost(&fabric))?;
    say(&format!(
        "{profile}, realtime {realtime}: {takeovers} takeovers, {ended} workers ended, {lost} datagrams lost \
         in {seconds} s"
    ));
    ensure!(lost > seconds, "the link lost only {lost} datagrams");
    let promised = profile == PROMISED && realtime.starts_with("on");
    ensure!(
        !promised || (takeovers, ended) == (0, 0),
        "the owner was replaced {takeovers} times, {ended} workers were killed"
    );
    pair.await_protected(READY_WITHIN).await?;
    Ok(())
}

/// One in twenty of the datagrams between the nodes does not arrive.
fn lose(fabric: &Fabric) -> anyhow::Result<()> {
    for id in HostId::NODES {
        let rules = format!(
            "table inet loss {{
                chain arriving {{
                    type filter hook input priority -300; policy accept;
                    udp dport {PEER_PORT} numgen random mod 100 < 5 counter drop
                }}
            }}"
        );
        tool::nft(fabric.host(id).namespace(), &rules)?;
    }
    Ok(())
}

/// How many did not.
fn lost(fabric: &Fabric) -> anyhow::Result<u64> {
    let mut total = 0;
    for id in HostId::NODES {
        let namespace = Some(fabric.host(id).namespace());
        let listed = tool::run(namespace, Tool::Nft, &["list", "table", "inet", "loss"], "")?;
        let (_, counter) = listed
            .split_once("counter packets ")
            .with_context(|| format!("a counter in {listed}"))?;
        let digits = counter.split_whitespace().next().unwrap_or_default();
        total += digits.parse::<u64>().context("the counter")?;
    }
    Ok(total)
}

/// Other work, until dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Busy {
    fn start() -> anyhow::Result<Busy> {
        let stop = Arc::new(AtomicBool::new(false));
        let processors = thread::available_parallelism()?.get();
        let work = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        Ok(Busy {
            threads: (0..BUSY_PER_PROCESSOR * processors).map(work).collect(),
            stop,
        })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}
