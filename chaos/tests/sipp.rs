//! Contract 2 with phones of other make: SIPp on both sides, once also through Kamailio, loses no
//! call when the active host loses power, whether established or ringing.
//!
//! Needs the packages `sip-tester` and `kamailio`, the right to create namespaces, and a built
//! `tandem`. A sandbox is entered once in a process's life, so each scenario runs in a process of
//! its own, which this program starts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tandem_chaos::capture::dual_owner_packets;
use tandem_chaos::drill::{FaultKind, Pair, inject};
use tandem_chaos::fabric::{CLIENT_SIP_PORT, Fabric, PBX_SIP_PORT};
use tandem_chaos::host::{HostId, Process};
use tandem_chaos::scenario::{Scenario, node_files};
use tandem_chaos::speech::Clip;
use tokio::task::block_in_place;

const CALLER: &str = include_str!("sipp/caller.xml");
const CALLEE: &str = include_str!("sipp/callee.xml");
const KAMAILIO: &str = include_str!("sipp/kamailio.cfg");

const CALLS: usize = 100;
/// How long half of the calls ring. The fault has to come before.
const RING: Duration = Duration::from_secs(20);
/// Answered calls talk beyond the takeover.
const TALK: Duration = Duration::from_secs(28);
/// Calls answered after the takeover.
const TALK_AFTER_RINGING: Duration = Duration::from_secs(4);
/// Port of the callee when a proxy has the trunk's.
const BEHIND_PROXY: u16 = 5090;

const READY_WITHIN: Duration = Duration::from_secs(60);
const TAKEOVER_WITHIN: Duration = Duration::from_secs(30);
const DONE_WITHIN: Duration = Duration::from_secs(90);
const RECORDS_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
enum Trunk {
    Sipp,
    KamailioAndSipp,
}

const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "sipp_on_ec2",
        programs: &["sipp"],
        run: |directory| Box::pin(scenario(Trunk::Sipp, directory)),
    },
    Scenario {
        name: "sipp_behind_kamailio_on_lan",
        programs: &["sipp", "kamailio"],
        run: |directory| Box::pin(scenario(Trunk::KamailioAndSipp, directory)),
    },
];

fn main() -> ExitCode {
    tandem_chaos::scenario::main(&SCENARIOS)
}

/// The calls come up, the owner's host dies, and SIPp counts.
async fn scenario(trunk: Trunk, directory: &Path) -> anyhow::Result<()> {
    let fabric = match trunk {
        Trunk::Sipp => Fabric::ec2()?,
        Trunk::KamailioAndSipp => Fabric::lan()?,
    };
    let capture = fabric.capture()?;
    let files = node_files(directory)?;
    let mut pair = Pair::start(&fabric, &files)?;
    let owner = pair.await_protected(READY_WITHIN).await?;
    let mut peers = Peers::start(&fabric, trunk, directory)?;
    let started = Instant::now();
    while block_in_place(|| pair.node(owner.id)?.status())?.calls < CALLS {
        ensure!(
            started.elapsed() < RING / 2,
            "{CALLS} calls did not come up in time"
        );
        tokio::time::sleep(POLL).await;
    }
    ensure!(
        started.elapsed() < RING / 2,
        "the machine is too slow: no call would ring any more"
    );
    inject(&fabric, &pair, &owner, FaultKind::KillHost)?;
    let takeover = pair.await_takeover(&owner, TAKEOVER_WITHIN).await?;
    ensure!(
        started.elapsed() < RING,
        "the takeover took until the ringing calls were answered"
    );
    peers.finish(directory).await?;
    let records = pair
        .count_records(&[takeover.survivor], CALLS, RECORDS_WITHIN)
        .await?;
    ensure!(
        records.written == CALLS && records.duplicated == 0,
        "call detail records: {records:?}"
    );
    let captured = block_in_place(|| capture.finish());
    let dual = dual_owner_packets(&captured.packets, &pair.serve_times());
    ensure!(
        dual.is_empty(),
        "{} packets of two owners, the first {:?}",
        dual.len(),
        dual.first()
    );
    Ok(())
}

/// SIPp on both sides, and what stands before the callee.
struct Peers {
    caller: Process,
    callee: Process,
    _proxy: Option<Process>,
}

impl Peers {
    fn start(fabric: &Fabric, trunk: Trunk, directory: &Path) -> anyhow::Result<Peers> {
        // 12 s of speech, repeated.
        let clip = Clip::synthesise(1, 600);
        let speech: Vec<u8> = (0..clip.len())
            .flat_map(|index| *clip.frame(index))
            .collect();
        fs::write(directory.join("speech.ulaw"), speech)?;
        fs::write(directory.join("caller.xml"), CALLER)?;
        fs::write(
            directory.join("callee.xml"),
            CALLEE.replace("RING_MS", &RING.as_millis().to_string()),
        )?;
        fs::write(directory.join("calls.csv"), numbers())?;
        let (trunk_address, pbx_address) =
            (fabric.address(HostId::Trunk), fabric.address(HostId::Pbx));
        let (proxy, port) = match trunk {
            Trunk::Sipp => (None, CLIENT_SIP_PORT),
            Trunk::KamailioAndSipp => (
                Some(start_kamailio(fabric, trunk_address, directory)?),
                BEHIND_PROXY,
            ),
        };
        let mut callee = sipp("callee", trunk_address, port, directory)?;
        let mut caller = sipp("caller", pbx_address, CLIENT_SIP_PORT, directory)?;
        let proxy_address = format!("{}:{PBX_SIP_PORT}", fabric.floating());
        caller.args([
            "-inf",
            "calls.csv",
            "-r",
            "50",
            "-l",
            &CALLS.to_string(),
            &proxy_address,
        ]);
        callee.args(["-l", &(2 * CALLS).to_string()]);
        Ok(Peers {
            callee: fabric.host(HostId::Trunk).spawn(callee)?,
            caller: fabric.host(HostId::Pbx).spawn(caller)?,
            _proxy: proxy,
        })
    }

    /// Waits for both and reads their own statistics.
    async fn finish(&mut self, directory: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + DONE_WITHIN;
        for (name, process) in [("caller", &mut self.caller), ("callee", &mut self.callee)] {
            let status = wait(process, deadline).await?;
            let counts = statistics(&directory.join(format!("{name}.csv")));
            let errors =
                fs::read_to_string(directory.join(format!("{name}.err"))).unwrap_or_default();
            let first: String = errors.chars().take(600).collect();
            let counts =
                counts.with_context(|| format!("{name}: {status}, no statistics; {first}"))?;
            let count = |key: &str| counts.get(key).copied().unwrap_or(-1);
            let (good, bad) = (count("SuccessfulCall(C)"), count("FailedCall(C)"));
            ensure!(
                status.success() && good == CALLS as i64 && bad == 0,
                "{name}: {status}, {good} calls succeeded, {bad} failed; {first}"
            );
        }
        Ok(())
    }
}

/// The first half is answered at once, the second rings.
fn numbers() -> String {
    let mut lines = String::from("SEQUENTIAL\n");
    for call in 0..CALLS {
        let (first, talk) = if call < CALLS / 2 {
            (2, TALK)
        } else {
            (3, TALK_AFTER_RINGING)
        };
        lines.push_str(&format!("{first}{call:05};{}\n", talk.as_millis()));
    }
    lines
}

fn sipp(role: &str, address: Ipv4Addr, port: u16, directory: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new("sipp");
    let address = address.to_string();
    command
        .current_dir(directory)
        .env("TERM", "dumb")
        .args([
            "-sf",
            &format!("{role}.xml"),
            "-i",
            &address,
            "-mi",
            &address,
            "-p",
            &port.to_string(),
        ])
        .args([
            "-m",
            &CALLS.to_string(),
            "-nostdin",
            "-trace_err",
            "-error_file",
            &format!("{role}.err"),
        ])
        .args(["-trace_stat", "-stf", &format!("{role}.csv"), "-fd", "1"])
        .stdin(Stdio::null())
        .stdout(File::create(directory.join(format!("{role}.out")))?)
        .stderr(Stdio::null());
    Ok(command)
}

fn start_kamailio(fabric: &Fabric, address: Ipv4Addr, directory: &Path) -> anyhow::Result<Process> {
    let config = KAMAILIO
        .replace("ADDRESS", &address.to_string())
        .replace("PROXY_PORT", &CLIENT_SIP_PORT.to_string())
        .replace("CALLEE_PORT", &BEHIND_PROXY.to_string());
    fs::write(directory.join("kamailio.cfg"), config)?;
    let runtime = directory.join("kamailio");
    fs::create_dir_all(&runtime)?;
    let mut command = Command::new("kamailio");
    command
        .args(["-DD", "-E", "-f"])
        .arg(directory.join("kamailio.cfg"))
        .arg("-Y")
        .arg(&runtime)
        .arg("-P")
        .arg(runtime.join("pid"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(directory.join("kamailio.log"))?);
    fabric
        .host(HostId::Trunk)
        .spawn(command)
        .context("start kamailio")
}

async fn wait(process: &mut Process, deadline: Instant) -> anyhow::Result<ExitStatus> {
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            bail!("SIPp did not end within {DONE_WITHIN:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last line of SIPp's statistics, by column.
fn statistics(path: &Path) -> anyhow::Result<BTreeMap<String, i64>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let (head, last) = (text.lines().next(), text.lines().last());
    let (head, last) = head.zip(last).context("empty statistics")?;
    let number = |(name, value): (&str, &str)| Some((name.to_owned(), value.parse().ok()?));
    Ok(head
        .split(';')
        .zip(last.split(';'))
        .filter_map(number)
        .collect())
}
