//! What an operator does when hosts are lost for good: a lost disk, a forced takeover, the way back. The real
//! program on three hosts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tandem_chaos::fabric::Fabric;
use tandem_chaos::host::HostId;
use tandem_chaos::node_process::{NodeFiles, NodeProcess};
use tandem_chaos::scenario::{Scenario, node_files};
use tokio::task::block_in_place;

const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "lost_disk",
        programs: &[],
        run: |directory| Box::pin(lost_disk(directory)),
    },
    Scenario {
        name: "forced_takeover",
        programs: &[],
        run: |directory| Box::pin(forced_takeover(directory)),
    },
];

fn main() -> ExitCode {
    tandem_chaos::scenario::main(&SCENARIOS)
}

struct Hosts {
    fabric: Fabric,
    files: NodeFiles,
    nodes: BTreeMap<HostId, NodeProcess>,
}

impl Hosts {
    fn start_all(directory: &Path) -> anyhow::Result<Hosts> {
        let files = node_files(directory)?;
        files.create_keys()?;
        let mut hosts = Hosts {
            fabric: Fabric::lan()?,
            files,
            nodes: BTreeMap::new(),
        };
        HostId::NODES
            .into_iter()
            .try_for_each(|id| hosts.start(id))?;
        Ok(hosts)
    }

    fn start(&mut self, id: HostId) -> anyhow::Result<()> {
        let node = NodeProcess::start(&self.fabric, id, &self.files)?;
        self.nodes.insert(id, node);
        Ok(())
    }

    /// As a host that dies.
    fn kill(&mut self, id: HostId) {
        self.nodes.remove(&id);
    }

    fn state_dir(&self, id: HostId) -> PathBuf {
        self.files.directory.join(id.name()).join("state")
    }

    /// Waits until `tandem status` on a host says all of this.
    async fn await_status(&self, id: HostId, wanted: &[&str]) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let (_, text) = block_in_place(|| self.tandem(id, &["status"]))?;
            if wanted.iter().all(|part| text.contains(part)) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < WITHIN,
                "{id} never said {wanted:?}:\n{text}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    async fn await_owner(&self) -> anyhow::Result<HostId> {
        let begun = Instant::now();
        loop {
            for (id, node) in &self.nodes {
                if block_in_place(|| node.status()).is_ok_and(|status| status.is_owner()) {
                    return Ok(*id);
                }
            }
            ensure!(begun.elapsed() < WITHIN, "no owner");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Runs the program on a host; its exit code and all it says.
    fn tandem(&self, id: HostId, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        let complaints = self.files.directory.join("complaints");
        let mut command = Command::new(&self.files.binary);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&complaints)?);
        let mut process = self.fabric.host(id).spawn(command)?;
        let mut text = String::new();
        process
            .take_stdout()
            .context("standard output is piped")?
            .read_to_string(&mut text)?;
        let code = process.wait()?.code();
        text.push_str(&fs::read_to_string(&complaints)?);
        Ok((code, text))
    }
}

fn other(owner: HostId) -> HostId {
    if owner == HostId::NodeA {
        HostId::NodeB
    } else {
        HostId::NodeA
    }
}

const PROTECTED: &str = "protected: any one host may be lost";
const FIRST: &str = "members  a.1, b.1, witness.1";

async fn lost_disk(directory: &Path) -> anyhow::Result<()> {
    let mut hosts = Hosts::start_all(directory)?;
    let owner = hosts.await_owner().await?;
    hosts.await_status(owner, &[FIRST, PROTECTED]).await?;
    let standby = other(owner);
    hosts.kill(standby);
    fs::remove_dir_all(hosts.state_dir(standby))?;
    hosts.start(standby)?;
    let members = if standby == HostId::NodeA {
        "members  a.2, b.1, witness.1"
    } else {
        "members  a.1, b.2, witness.1"
    };
    for id in HostId::NODES {
        hosts.await_status(id, &[members, PROTECTED]).await?;
    }
    Ok(())
}

async fn forced_takeover(directory: &Path) -> anyhow::Result<()> {
    let mut hosts = Hosts::start_all(directory)?;
    let owner = hosts.await_owner().await?;
    let standby = other(owner);
    for id in HostId::NODES {
        hosts.await_status(id, &[FIRST, PROTECTED]).await?;
    }
    let force = |hosts: &Hosts, consent: &[&str]| {
        let arguments = [&["force-stale-takeover"], consent].concat();
        block_in_place(|| hosts.tandem(standby, &arguments))
    };
    let (code, text) = force(&hosts, &["--yes-lose-data"])?;
    ensure!(
        code == Some(1) && text.contains("nothing to force"),
        "{code:?}: {text}"
    );

    hosts.kill(owner);
    hosts.kill(HostId::Witness);
    hosts.await_status(standby, &["there is no leader"]).await?;
    let (code, text) = force(&hosts, &[])?;
    let warned = text.contains("WARNING") && text.contains("--yes-lose-data");
    ensure!(code == Some(1) && warned, "{code:?}: {text}");
    let (code, text) = force(&hosts, &["--yes-lose-data"])?;
    ensure!(
        code == Some(0) && text.contains("generation 1"),
        "{code:?}: {text}"
    );
    ensure!(hosts.await_owner().await? == standby);
    hosts
        .await_status(
            standby,
            &["alone: this node decides", "a takeover was forced"],
        )
        .await?;

    // The old pair comes back, and stands down.
    for id in [owner, HostId::Witness] {
        hosts.start(id)?;
    }
    for id in [owner, HostId::Witness] {
        hosts
            .await_status(id, &["a takeover was forced elsewhere"])
            .await?;
    }
    ensure!(hosts.await_owner().await? == standby);
    for id in [owner, HostId::Witness] {
        hosts.kill(id);
        let config = hosts.files.directory.join(id.name()).join("tandem.toml");
        let config = config.to_str().context("a path in UTF-8")?;
        let arguments = ["rejoin", "--yes", "--config", config];
        let (code, text) = block_in_place(|| hosts.tandem(id, &arguments))?;
        ensure!(code == Some(0), "{code:?}: {text}");
        hosts.start(id)?;
    }
    for id in HostId::NODES {
        hosts
            .await_status(id, &["members  a.2, b.2, witness.2", PROTECTED])
            .await?;
    }
    Ok(())
}
