//! A `tandem` process on a host: its files, its log, its status.
//!
//! The log on standard output is followed by a thread, which keeps every line in `log.jsonl` and
//! publishes the transitions among them; it ends with the process. Status is asked over HTTP inside
//! the host's network.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::sync::watch;

use crate::fabric::Fabric;
use crate::host::namespace::Namespace;
use crate::host::{HostId, Process};

/// Where every node answers for its status, on its own host.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7610);

/// A node that does not answer within this is asked again by whoever waits.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest status believed; a longer one is cut and so fails to parse.
const STATUS_LIMIT: u64 = 1 << 20;

/// Transitions kept of one node; a node that makes more flaps, and its log has them all.
const KEPT_TRANSITIONS: usize = 10_000;

/// Target of the log lines that are transitions.
const TRANSITION_TARGET: &str = "tandem::transition";

/// What a node said it did, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub event: String,
    pub epoch: u64,
    /// CLOCK_BOOTTIME.
    pub at: Duration,
}

/// The part of a node's status that a drill acts on.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct NodeStatus {
    pub role: String,
    pub epoch: u64,
    pub protected: bool,
    pub reasons: Vec<String>,
    pub calls: usize,
    pub worker_pid: i32,
    pub counters: BTreeMap<String, u64>,
    pub guard: GuardStatus,
    pub replication: ReplicationStatus,
}

/// What a node says of its guard.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct GuardStatus {
    pub realtime: String,
    pub workers_ended: u64,
    pub workers_frozen: u64,
    pub certificates_sent: u64,
}

/// What a node says of its replica.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct ReplicationStatus {
    /// Death certificates received, by what became of them.
    pub certificates: BTreeMap<String, u64>,
    pub tick_late_us: Times,
    pub worst_lease_margin_us: Option<u64>,
}

/// Quantiles as a node states them.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
pub struct Times {
    pub p99: u64,
    pub max: u64,
}

impl NodeStatus {
    /// Death certificates received that came to this.
    pub fn certificates(&self, result: &str) -> u64 {
        let certificates = &self.replication.certificates;
        certificates.get(result).copied().unwrap_or_default()
    }

    /// Whether the node serves.
    pub fn is_owner(&self) -> bool {
        self.role == "owner"
    }
}

/// A node's worker process.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    pid: Pid,
}

impl Worker {
    pub fn pid(self) -> Pid {
        self.pid
    }

    /// Kills it, not its guard.
    pub fn kill(self) -> anyhow::Result<()> {
        kill(self.pid, Signal::SIGKILL).with_context(|| format!("kill worker {}", self.pid))
    }

    /// Stops it in its tracks: it lives, and does nothing.
    pub fn freeze(self) -> anyhow::Result<()> {
        kill(self.pid, Signal::SIGSTOP).with_context(|| format!("stop worker {}", self.pid))
    }
}

/// What the nodes of one run share.
#[derive(Debug, Clone)]
pub struct NodeFiles {
    /// The `tandem` binary.
    pub binary: PathBuf,
    /// Directory of the run; each node has a directory in it.
    pub directory: PathBuf,
    /// Timing profile of the pair.
    pub profile: String,
    /// Calls that a data node admits; 0: as many as it does by default.
    pub calls: u32,
}

impl NodeFiles {
    /// Creates the pair's keys with `tandem init`.
    pub fn create_keys(&self) -> anyhow::Result<()> {
        let output = Command::new(&self.binary)
            .args(["init", "--pair", "drill", "--out"])
            .arg(self.keys())
            .output()
            .with_context(|| format!("start {}", self.binary.display()))?;
        if !output.status.success() {
            bail!(
                "tandem init: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    fn keys(&self) -> PathBuf {
        self.directory.join("keys")
    }
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct NodeProcess {
    id: HostId,
    process: Process,
    namespace: Namespace,
    state_dir: PathBuf,
    transitions: watch::Receiver<Vec<Transition>>,
}

impl NodeProcess {
    /// Writes the node's configuration and starts `tandem run` on its host. The state directory is
    /// kept from an earlier start.
    pub fn start(fabric: &Fabric, id: HostId, files: &NodeFiles) -> anyhow::Result<NodeProcess> {
        let slot = id.slot().with_context(|| format!("{id} is not a node"))?;
        let directory = files.directory.join(id.name());
        let state_dir = directory.join("state");
        fs::create_dir_all(&state_dir)
            .with_context(|| format!("create {}", state_dir.display()))?;
        let config = directory.join("tandem.toml");
        let keys = files.keys().join(slot);
        fs::write(
            &config,
            configuration(fabric, id, slot, &state_dir, &keys, files),
        )
        .with_context(|| format!("write {}", config.display()))?;
        let mut command = Command::new(&files.binary);
        command
            .args(["run", "--log-format", "json", "--config"])
            .arg(&config)
            // The endpoint of the EC2 fabric accepts any credentials; the client insists on having
            // some.
            .env("AWS_ACCESS_KEY_ID", "drill")
            .env("AWS_SECRET_ACCESS_KEY", "drill")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(append(&directory.join("stderr.log"))?);
        let host = fabric.host(id);
        let mut process = host
            .spawn(command)
            .with_context(|| format!("start tandem on {id}"))?;
        let output = process.take_stdout().context("standard output is piped")?;
        let log = append(&directory.join("log.jsonl"))?;
        let (publish, transitions) = watch::channel(Vec::new());
        std::thread::Builder::new()
            .name(format!("log-{id}"))
            .spawn(move || follow(output, log, &publish))?;
        Ok(NodeProcess {
            id,
            process,
            namespace: host.namespace().clone(),
            state_dir,
            transitions,
        })
    }

    pub fn id(&self) -> HostId {
        self.id
    }

    /// Asks the node how it is.
    pub fn status(&self) -> anyhow::Result<NodeStatus> {
        let body = self
            .namespace
            .run_in(fetch_status)?
            .with_context(|| format!("status of {}", self.id))?;
        serde_json::from_slice(&body).with_context(|| format!("status of {}", self.id))
    }

    /// Whether the process has ended, and how.
    pub fn exit(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// The worker under the guard, as the status names it now.
    pub fn worker(&self) -> anyhow::Result<Worker> {
        Ok(Worker {
            pid: Pid::from_raw(self.status()?.worker_pid),
        })
    }

    /// Everything the node said it did so far.
    pub fn transitions(&self) -> Vec<Transition> {
        self.transitions.borrow().clone()
    }

    /// Waits for the first transition that is as `wanted`. Does not return when the node ends
    /// first; bound it.
    pub async fn await_transition(&self, wanted: impl Fn(&Transition) -> bool) -> Transition {
        let mut watched = self.transitions.clone();
        let found = watched.wait_for(|seen| seen.iter().any(&wanted)).await;
        let first = found
            .ok()
            .and_then(|seen| seen.iter().find(|seen| wanted(seen)).cloned());
        match first {
            Some(transition) => transition,
            None => std::future::pending().await,
        }
    }

    /// Lines of the node's call detail records, each one JSON object.
    pub fn call_records(&self) -> anyhow::Result<Vec<Value>> {
        let path = self.state_dir.join("cdr.jsonl");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        // The last line may be in the middle of being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))
            })
            .collect()
    }
}

fn configuration(
    fabric: &Fabric,
    id: HostId,
    slot: &str,
    state_dir: &Path,
    keys: &Path,
    files: &NodeFiles,
) -> String {
    // A TOML basic string escapes as JSON does.
    let state_dir = Value::from(state_dir.to_string_lossy());
    let network = fabric.node_config(id, keys, &files.profile);
    let records = match (HostId::DATA_NODES.contains(&id), files.calls) {
        (true, 0) => "[cdr]\npath = \"cdr.jsonl\"\n".to_owned(),
        (true, calls) => format!("[cdr]\npath = \"cdr.jsonl\"\n[limits]\ncalls = {calls}\n"),
        (false, _) => String::new(),
    };
    format!(
        "[node]\nslot = \"{slot}\"\nstate_dir = {state_dir}\n[admin]\nlisten = \"{ADMIN}\"\n{network}{records}"
    )
}

fn append(path: &Path) -> anyhow::Result<File> {
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| format!("open {}", path.display()))
}

/// Reads the log until the process, and whoever inherited its standard output, is gone.
fn follow(output: ChildStdout, mut log: File, publish: &watch::Sender<Vec<Transition>>) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(mut line) = line else { return };
        if let Some(transition) = read_transition(&line) {
            publish.send_modify(|seen| {
                if seen.len() < KEPT_TRANSITIONS {
                    seen.push(transition);
                }
            });
        }
        line.push(b'\n');
        // A full disk costs the record of the run, not its result.
        let _ = log.write_all(&line);
    }
}

/// A line of `tracing`'s JSON, with its fields flattened or under `fields`.
fn read_transition(line: &[u8]) -> Option<Transition> {
    let line: Value = serde_json::from_slice(line).ok()?;
    if line.get("target")?.as_str()? != TRANSITION_TARGET {
        return None;
    }
    let fields = line.get("fields").unwrap_or(&line);
    Some(Transition {
        event: fields.get("event")?.as_str()?.to_owned(),
        epoch: fields.get("epoch")?.as_u64()?,
        at: Duration::from_nanos(fields.get("boottime_ns")?.as_u64()?),
    })
}

/// One HTTP/1.0 exchange: the server closes, so there is no framing to undo.
fn fetch_status() -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&ADMIN, STATUS_TIMEOUT)?;
    stream.set_read_timeout(Some(STATUS_TIMEOUT))?;
    stream.set_write_timeout(Some(STATUS_TIMEOUT))?;
    stream.write_all(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(STATUS_LIMIT).read_to_end(&mut answer)?;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("no HTTP answer")?;
    let body = answer.split_off(end + 4);
    if !answer.starts_with(b"HTTP/1.0 200") && !answer.starts_with(b"HTTP/1.1 200") {
        bail!(
            "{}",
            String::from_utf8_lossy(&answer)
                .lines()
                .next()
                .unwrap_or("no status line")
        );
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::{Transition, read_transition};
    use std::time::Duration;

    #[test]
    fn transitions_are_read_flattened_or_not() {
        let expected = Some(Transition {
            event: "gate_opened".into(),
            epoch: 4,
            at: Duration::from_nanos(12_000_000_345),
        });
        let nested = br#"{"level":"INFO","fields":{"event":"gate_opened","slot":"b","epoch":4,
            "boottime_ns":12000000345},"target":"tandem::transition"}"#;
        let flat = br#"{"level":"INFO","event":"gate_opened","slot":"b","epoch":4,
            "boottime_ns":12000000345,"target":"tandem::transition"}"#;
        assert_eq!(read_transition(nested), expected);
        assert_eq!(read_transition(flat), expected);
    }

    #[test]
    fn other_lines_are_not_transitions() {
        for line in [
            &b"plain text"[..],
            br#"{"fields":{"event":"gate_opened","epoch":4,"boottime_ns":1},"target":"tandem::engine"}"#,
            br#"{"fields":{"event":"gate_opened"},"target":"tandem::transition"}"#,
        ] {
            assert_eq!(read_transition(line), None);
        }
    }
}
