//! `ravelin-agent-ftp`: the FTP agent as a program.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use agent::{Client, ClientError, Done, Request, ToAgent};
use agent_ftp::ftp::{Action, Ftp};
use clap::Parser;

/// Has the data connections of FTP pass a Ravelin gateway.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The daemon's socket for agents.
    #[arg(
        long,
        env = "RAVELIN_AGENT_SOCKET",
        default_value = "/run/ravelin/agents.sock"
    )]
    socket: PathBuf,
    /// The name of its [[agent]] in the daemon's configuration.
    #[arg(long, env = "RAVELIN_AGENT_NAME", default_value = "ftp")]
    name: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        // It never ends well: the daemon has closed the connection, or refuses it.
        Err(error) => {
            eprintln!("ravelin-agent-ftp: {}: {error}", args.socket.display());
            ExitCode::FAILURE
        }
        Ok(never) => match never {},
    }
}

fn run(args: &Args) -> Result<std::convert::Infallible, ClientError> {
    let mut client = Client::connect(&args.socket, &args.name)?;
    let mut ftp = Ftp::default();
    // The agent's numbers of what it has asked for, by the tokens of the answers.
    let mut tickets = HashMap::new();
    loop {
        let actions = match client.receive()? {
            ToAgent::Packet(packet) => ftp.packet(&packet),
            ToAgent::Answer { token, outcome } => {
                let outcome = outcome.map(|done| {
                    if let Done::Lacking(nodes) = done {
                        eprintln!("ravelin-agent-ftp: not confirmed by {}", nodes.join(", "));
                    }
                });
                tickets
                    .remove(&token)
                    .map_or_else(Vec::new, |ticket| ftp.answered(ticket, outcome))
            }
            ToAgent::Welcome { .. } | ToAgent::Refused { .. } | ToAgent::Synchronised { .. } => {
                continue;
            }
        };
        for action in actions {
            match action {
                Action::Deliver(id) => client.deliver(id)?,
                Action::Expect(ticket, expectation) => {
                    tickets.insert(client.ask(Request::Expect(expectation))?, ticket);
                }
                Action::Note(text) => eprintln!("ravelin-agent-ftp: {text}"),
            }
        }
    }
}
