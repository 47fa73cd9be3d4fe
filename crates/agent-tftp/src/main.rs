//! `ravelin-agent-tftp`: the TFTP agent as a program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use agent_tftp::tftp::Tftp;

fn main() -> ExitCode {
    let program = agent::Program {
        name: env!("CARGO_BIN_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        about: "Has the transfers of TFTP pass a Ravelin gateway",
        agent: "tftp",
    };
    agent::run(program, &mut Tftp)
}
