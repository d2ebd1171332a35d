//! Running `ip` and `nft`, in a given network namespace.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::namespace::Namespace;

/// Searched after PATH: Debian leaves the sbin directories out of an ordinary user's PATH.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The system tools that the fabrics are built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Ip,
    Nft,
}

impl Tool {
    fn program(self) -> &'static str {
        match self {
            Tool::Ip => "ip",
            Tool::Nft => "nft",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Tool::Ip => "iproute2",
            Tool::Nft => "nftables",
        }
    }

    fn locate(self) -> Result<PathBuf, ToolError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(SYSTEM_DIRECTORIES.map(PathBuf::from))
            .map(|directory| directory.join(self.program()))
            .find(|candidate| candidate.is_file())
            .ok_or(ToolError::Missing {
                program: self.program(),
                package: self.package(),
            })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("`{program}` is not installed: install the Debian package {package}")]
    Missing {
        program: &'static str,
        package: &'static str,
    },
    #[error("cannot run `{program}`: {error}")]
    Start {
        program: &'static str,
        error: io::Error,
    },
    #[error("`{program} {arguments}` failed: {message}\n{input}")]
    Failed {
        program: &'static str,
        arguments: String,
        message: String,
        input: String,
    },
}

/// Fails with the name of the package to install when one of `tools` is missing.
pub fn require(tools: &[Tool]) -> Result<(), ToolError> {
    tools.iter().try_for_each(|tool| tool.locate().map(drop))
}

/// Runs a tool to its end with `input` on its standard input and returns its standard output.
///
/// Without a namespace it runs in the caller's.
pub fn run(
    namespace: Option<&Namespace>,
    tool: Tool,
    arguments: &[&str],
    input: &str,
) -> Result<String, ToolError> {
    let program = tool.program();
    let start = |error| ToolError::Start { program, error };
    let mut command = Command::new(tool.locate()?);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(namespace) = namespace {
        namespace.enter_on_spawn(&mut command);
    }
    let mut child = command.spawn().map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // A tool that ends early says why on its standard error.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(start(error)),
            Ok(()) | Err(_) => {}
        }
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(ToolError::Failed {
        program,
        arguments: arguments.join(" "),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        input: input.to_owned(),
    })
}

/// Runs a batch of `ip` commands, one a line, stopping at the first that fails.
pub fn ip(namespace: Option<&Namespace>, batch: &str) -> Result<(), ToolError> {
    run(namespace, Tool::Ip, &["-batch", "-"], batch).map(drop)
}

/// Loads an nftables script as one transaction: all of it takes effect at once, or none.
pub fn nft(namespace: &Namespace, script: &str) -> Result<(), ToolError> {
    run(Some(namespace), Tool::Nft, &["-f", "-"], script).map(drop)
}
