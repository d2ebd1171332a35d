//! Test programs whose scenarios each need a sandbox of their own.
//!
//! A sandbox is entered once in a process's life, and before any thread exists, so libtest cannot run
//! these. The program starts itself again for each scenario; one that lacks something here says what
//! and counts as skipped.

use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode, Stdio};

use crate::drill::default_binary;
use crate::node_process::NodeFiles;
use crate::sandbox;

/// Exit status of a scenario that cannot run here.
const SKIPPED: u8 = 77;

/// What a scenario runs as; it gets an empty directory that is kept when it fails.
pub type Run = for<'a> fn(&'a Path) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// One test.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    /// Programs it starts besides `tandem`.
    pub programs: &'static [&'static str],
    pub run: Run,
}

/// The `main` of a test program.
#[must_use]
pub fn main(scenarios: &[Scenario]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = arguments.as_slice()
        && flag == "--scenario"
    {
        return match scenarios.iter().find(|scenario| scenario.name == name) {
            Some(scenario) => scenario.run_here(),
            None => {
                say(&format!("no scenario {name}"));
                ExitCode::FAILURE
            }
        };
    }
    // libtest's arguments: a filter by name is honoured, flags are not.
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = |scenario: &&Scenario| filter.is_none_or(|filter| scenario.name.contains(filter));
    let mut failed = false;
    for scenario in scenarios.iter().filter(wanted) {
        let status = std::env::current_exe().and_then(|program| {
            Command::new(program)
                .args(["--scenario", scenario.name])
                .status()
        });
        let result = match status.map(|status| status.code()) {
            Ok(Some(0)) => "ok",
            Ok(Some(code)) if code == i32::from(SKIPPED) => "skipped",
            Ok(_) | Err(_) => {
                failed = true;
                "FAILED"
            }
        };
        say(&format!("test {} ... {result}", scenario.name));
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The `tandem` to test, on the `standard` profile, with its files below `directory`.
pub fn node_files(directory: &Path) -> anyhow::Result<NodeFiles> {
    Ok(NodeFiles {
        binary: default_binary()?,
        directory: directory.to_owned(),
        profile: "standard".into(),
        calls: 0,
    })
}

/// A test's result is its output.
pub fn say(line: &str) {
    // A reader that has gone away misses nothing.
    let _ = writeln!(std::io::stdout(), "{line}");
}

impl Scenario {
    fn run_here(&self) -> ExitCode {
        let Scenario {
            name,
            programs,
            run,
        } = self;
        if let Err(missing) = requirements(programs) {
            say(&format!("{name}: skipped: needs {missing}"));
            return ExitCode::from(SKIPPED);
        }
        match sandbox::enter() {
            Ok(()) => {}
            Err(error) if error.is_not_permitted() => {
                say(&format!("{name}: skipped: needs namespaces: {error}"));
                return ExitCode::from(SKIPPED);
            }
            Err(error) => {
                say(&format!("{name}: {error}"));
                return ExitCode::FAILURE;
            }
        }
        match run_in_directory(name, *run) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("{name}: {error:#}"));
                ExitCode::FAILURE
            }
        }
    }
}

fn run_in_directory(name: &str, run: Run) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new()
        .prefix(&format!("tandem-{name}-"))
        .tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(directory.path()));
    if result.is_err() {
        let kept: PathBuf = directory.keep();
        say(&format!("logs: {}", kept.display()));
    }
    result
}

fn requirements(programs: &[&str]) -> Result<(), String> {
    for program in programs {
        let found = Command::new(program)
            .arg("-v")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.map_err(|_| format!("the program {program}"))?;
    }
    default_binary()
        .map(|_| ())
        .map_err(|error| format!("{error:#}"))
}
