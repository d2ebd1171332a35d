//! `tandem`: a SIP session border controller that runs as an active-standby pair.
//!
//! `main` parses, builds, runs. The way of a packet starts in [`engine`].

mod admin;
mod cdr;
mod cli;
mod config;
mod engine;
mod fatal;
mod guard;
mod inbox;
mod link_thread;
mod logging;
mod preflight;
mod realtime;
mod signalling;
mod status;
mod worker;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::Cli::parse().run()
}
