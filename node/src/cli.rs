//! The command line: what an operator can ask, and the exit codes of the answers.

use std::{
    io::{IsTerminal, Write, stdout},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{admin, config::Config, guard, logging, preflight, status, worker};

/// sysexits.h EX_CONFIG is 78, but linkerd2-proxy and others taught operators 64 (EX_USAGE) for "you
/// gave me something that cannot work".
const EXIT_CONFIG: u8 = 64;
const EXIT_FAILED: u8 = 1;

/// A SIP session border controller that runs as an active-standby pair.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a pair's certificate authority and the keys of its three replicas.
    Init {
        /// Name of the pair; stands in its certificates.
        #[arg(long, env = "TANDEM_PAIR")]
        pair: String,
        /// Directory to write; must not hold a pair yet.
        #[arg(long)]
        out: PathBuf,
    },
    /// Check a configuration file and what it needs on this host; binds nothing.
    Check(ConfigArgs),
    /// Run this node: a guard process that starts and watches the worker.
    Run(RunArgs),
    /// The worker itself; started by the guard.
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Move a lost or corrupt store aside, so that this node comes back under a new incarnation.
    ///
    /// The node must be stopped. Its calls come back from the others. The old store is kept below state_dir.
    Rejoin {
        #[command(flatten)]
        args: ConfigArgs,
        /// Yes, what only this node's store holds may be lost.
        #[arg(long)]
        yes: bool,
    },
    /// Serve from this node's store although others may hold more. LOSES what they committed beyond it.
    ///
    /// For when no quorum comes back: the active died while this standby was behind what the witness holds, or two
    /// replicas are gone for ever. Refused while a leader is known.
    ForceStaleTakeover {
        /// Admin address of the data node that is to serve.
        #[arg(long, env = "TANDEM_ADMIN", default_value = "127.0.0.1:7610")]
        admin: SocketAddr,
        /// Yes, what the others hold beyond this store is lost.
        #[arg(long)]
        yes_lose_data: bool,
    },
    /// Show the node's state; exit status 1 when the pair is not fully protected.
    Status {
        /// The node's admin address.
        #[arg(long, env = "TANDEM_ADMIN", default_value = "127.0.0.1:7610")]
        admin: SocketAddr,
        /// Print the node's own JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// Configuration file.
    #[arg(long, env = "TANDEM_CONFIG", default_value = "/etc/tandem/tandem.toml")]
    config: PathBuf,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunArgs {
    /// Configuration file.
    #[arg(long, env = "TANDEM_CONFIG", default_value = "/etc/tandem/tandem.toml")]
    pub(crate) config: PathBuf,
    /// Form of the log on standard output.
    #[arg(long, env = "TANDEM_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What to log, as tracing filters such as `info,tandem=debug`.
    #[arg(
        long,
        env = "TANDEM_LOG",
        default_value = "info,quinn=warn,quinn_udp=error,sled=warn,netlink_packet_route=error"
    )]
    pub(crate) log: String,
}

#[derive(Debug, Clone, clap::Args)]
struct WorkerArgs {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// What a guard tells the worker that it starts, for the worker's status to show.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct GuardArgs {
    /// A random number of this worker.
    #[arg(long, default_value_t = 0)]
    pub(crate) life: u64,
    /// Workers that ended before this one.
    #[arg(long, default_value_t = 0)]
    pub(crate) workers_ended: u64,
    /// Those of them that had stopped beating.
    #[arg(long, default_value_t = 0)]
    pub(crate) workers_frozen: u64,
    /// Death certificates that left for them, repetitions included.
    #[arg(long, default_value_t = 0)]
    pub(crate) certificates_sent: u64,
}

impl GuardArgs {
    /// As on the command line.
    pub(crate) fn to_arguments(self) -> [String; 4] {
        let GuardArgs {
            life,
            workers_ended,
            workers_frozen,
            certificates_sent,
        } = self;
        [
            format!("--life={life}"),
            format!("--workers-ended={workers_ended}"),
            format!("--workers-frozen={workers_frozen}"),
            format!("--certificates-sent={certificates_sent}"),
        ]
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

impl Cli {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Init { pair, out } => finish(init(&pair, &out)),
            Command::Check(args) => with_config(&args.config, |config| {
                let report = preflight::check(&config);
                say(&report.to_string());
                if report.passed() {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::from(EXIT_FAILED)
                }
            }),
            Command::Run(args) => with_config(&args.config, |config| {
                start_logging(&args);
                let result = guard::run(&config, &args);
                logging::flush();
                finish(result)
            }),
            Command::Worker(args) => with_config(&args.run.config, |config| {
                start_logging(&args.run);
                let result = worker::run(config, args.guard);
                logging::flush();
                finish(result)
            }),
            Command::Rejoin { args, yes } => {
                with_config(&args.config, |config| finish(rejoin(&config, yes)))
            }
            Command::ForceStaleTakeover {
                admin,
                yes_lose_data,
            } => finish(admin::force_stale_takeover(admin, yes_lose_data).map(|text| say(&text))),
            Command::Status { admin, json } => match status::fetch(admin) {
                Ok(status) => {
                    say(&if json {
                        status.to_json()
                    } else {
                        status.to_string()
                    });
                    ExitCode::from(if status.protected { 0 } else { EXIT_FAILED })
                }
                Err(error) => complain(&error),
            },
        }
    }
}

/// The keys of a pair are made once, on any machine, and carried to the three hosts.
fn init(pair: &str, out: &Path) -> anyhow::Result<()> {
    tandem_replication::pki::create_pair(out, pair)?;
    say(&format!(
        "pair {pair:?}: {0}/ca.pem, and one directory of keys for each host: {0}/a, {0}/b, {0}/witness\n\
         copy each to [pair] keys on its host; keep {0}/ca.key offline",
        out.display()
    ));
    Ok(())
}

/// What a store has acknowledged counts on it. Without it the slot must be somebody else in the pair's eyes.
fn rejoin(config: &Config, yes: bool) -> anyhow::Result<()> {
    let place = config.state_dir.display();
    anyhow::ensure!(
        yes,
        "this moves the store in {place} aside for good; repeat with --yes once the other two replicas run: \
         what only this node holds would be lost"
    );
    match tandem_replication::move_aside(&config.state_dir)? {
        Some(aside) => say(&format!(
            "the store is now in {}; start the node, and it joins the pair as a new incarnation",
            aside.display()
        )),
        None => say(&format!(
            "there is no store in {place}; start the node, and it asks the others who it is"
        )),
    }
    Ok(())
}

fn with_config(path: &Path, run: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(path) {
        Ok(config) => run(config),
        Err(error) => {
            // Before logging exists, and for a person: plain text on standard error.
            let _ = writeln!(std::io::stderr(), "tandem: {error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

fn complain(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "tandem: {error:#}");
    ExitCode::from(EXIT_FAILED)
}

/// A closed pipe is the reader's choice, not our failure.
fn say(text: &str) {
    let _ = writeln!(stdout(), "{}", text.trim_end());
}

fn start_logging(args: &RunArgs) {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log).unwrap_or_else(|error| {
        let _ = writeln!(
            std::io::stderr(),
            "tandem: --log {:?}: {error}; using \"info\"",
            args.log
        );
        tracing_subscriber::EnvFilter::new("info")
    });
    let lines = match logging::Lines::start() {
        Ok(lines) => lines,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tandem: no log: {error}");
            return;
        }
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(stdout().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
