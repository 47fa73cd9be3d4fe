//! `ravelind`, the daemon of one node: wiring only. What it wires is in the other crates; what
//! each module here adds is threads, rings, sockets and reports.

mod agents;
mod clock;
mod common_requests;
mod common_store;
mod common_sync;
mod control;
mod daemon;
mod drain;
mod error;
mod flow_requests;
mod idle;
mod incarnation;
mod member;
mod pin;
mod policies;
mod ports;
mod state;
mod sync;
mod views;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Flow tables want huge pages.
#[global_allocator]
static ALLOCATOR: hugealloc::HugeAlloc = hugealloc::HugeAlloc;

/// A node of a Ravelin cluster: filters, tracks and forwards packets, and keeps copies of its
/// flows on other nodes.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Exit status: 0 after a signal to end, 1 for an error at run time, 2 for an error in the configuration.
SIGTERM and SIGINT end it: it hands its slots over first, as `ravelin drain` does, for at most ten
seconds; a second signal ends it at once.
The log goes to the error output; RAVELIN_LOG=debug tells more (a filter as tracing has it)."
)]
struct Arguments {
    /// The configuration file.
    #[arg(short, long, default_value = "/etc/ravelin/ravelin.toml")]
    config: PathBuf,
    /// Check the configuration against this machine and end.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("RAVELIN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    match daemon::run(&arguments.config, arguments.check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("ravelind: {line}");
            }
            ExitCode::from(error.exit_status())
        }
    }
}
