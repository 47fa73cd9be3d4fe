//! `ravelin-agent-ftp`: the FTP agent as a program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use agent_ftp::ftp::Ftp;

fn main() -> ExitCode {
    let program = agent::Program {
        name: env!("CARGO_BIN_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        about: "Has the data connections of FTP pass a Ravelin gateway",
        agent: "ftp",
    };
    agent::run(program, &mut Ftp::default())
}
