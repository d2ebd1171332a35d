//! The fabrics as networks: packets between real sockets on built hosts.
//!
//! Not a libtest binary: the sandbox has to be entered before any thread exists. Each test builds
//! its own fabric; a machine that does not allow namespaces skips them all, visibly. Takes a filter
//! on the names, as libtest does.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use tandem_chaos::sandbox;

type Test = (&'static str, fn());

const MODULES: [&[Test]; 3] = [
    support::ec2::TESTS,
    support::lan::TESTS,
    support::machine::TESTS,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tests = || MODULES.into_iter().flatten();
    if arguments.iter().any(|argument| argument == "--list") {
        tests().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    match sandbox::enter() {
        Ok(()) => {}
        Err(error) if error.is_not_permitted() => {
            println!("SKIPPED, all fabric tests: {error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("cannot enter the sandbox: {error}");
            return ExitCode::FAILURE;
        }
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let mut failed = Vec::new();
    for (name, test) in tests() {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        // Each test makes and drops its own fabric, so nothing half-changed is seen afterwards.
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {failed:?}");
    ExitCode::FAILURE
}
