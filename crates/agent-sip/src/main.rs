//! `ravelin-agent-sip`: the SIP agent as a program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use agent_sip::sip::Sip;

fn main() -> ExitCode {
    let program = agent::Program {
        name: env!("CARGO_BIN_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        about: "Has the media of SIP calls pass a Ravelin gateway",
        agent: "sip",
    };
    agent::run(program, &mut Sip::default())
}
