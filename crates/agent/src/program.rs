//! The whole of an agent's program but its protocol.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, Command, value_parser};

use crate::{
    Action, Announced, Client, ClientError, Done, Expectation, Packet, REQUESTS_MAX, Request,
    ToAgent, Waiting,
};

/// What an agent knows of its protocol. No input or output: packets come in, and what they announce goes out.
pub trait Protocol {
    /// What a packet of one of the agent's flows announces. Each packet is shown once, in the order of their arrival.
    fn announces(&mut self, packet: &Packet) -> Announced;
}

/// How an agent is called.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The program's name.
    pub name: &'static str,
    /// The program's version.
    pub version: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// The usual name of its `[[agent]]`.
    pub agent: &'static str,
}

/// Reads the command line and serves the daemon until it is gone, or refuses.
pub fn run(program: Program, protocol: &mut impl Protocol) -> ExitCode {
    let mut matches = command(program).get_matches();
    let socket: PathBuf = matches.remove_one("socket").unwrap_or_default();
    let name: String = matches.remove_one("name").unwrap_or_default();
    match serve(program.name, &socket, &name, protocol) {
        // It never ends well: the daemon has closed the connection, or refuses it.
        Err(error) => {
            eprintln!("{}: {}: {error}", program.name, socket.display());
            ExitCode::FAILURE
        }
        Ok(never) => match never {},
    }
}

fn command(program: Program) -> Command {
    let socket = Arg::new("socket")
        .long("socket")
        .env("RAVELIN_AGENT_SOCKET")
        .default_value("/run/ravelin/agents.sock")
        .value_parser(value_parser!(PathBuf))
        .help("The daemon's socket for agents");
    let name = Arg::new("name")
        .long("name")
        .env("RAVELIN_AGENT_NAME")
        .default_value(program.agent)
        .help("The name of its [[agent]] in the daemon's configuration");
    Command::new(program.name)
        .version(program.version)
        .about(program.about)
        .args([socket, name])
}

fn serve(
    program: &str,
    socket: &Path,
    name: &str,
    protocol: &mut impl Protocol,
) -> Result<Infallible, ClientError> {
    let mut client = Client::connect(socket, name)?;
    let mut waiting = Waiting::default();
    let mut asked = Asked::default();
    loop {
        let actions = match client.receive()? {
            ToAgent::Packet(packet) => waiting.packet(&packet, protocol.announces(&packet)),
            ToAgent::Answer { token, outcome } => {
                let outcome = outcome.map(|done| {
                    if let Done::Lacking(nodes) = done {
                        eprintln!("{program}: not confirmed by {}", nodes.join(", "));
                    }
                });
                let ticket = asked.under_way.remove(&token);
                ticket.map_or_else(Vec::new, |ticket| waiting.answered(ticket, outcome))
            }
            ToAgent::Welcome { .. } | ToAgent::Refused { .. } | ToAgent::Synchronised { .. } => {
                continue;
            }
        };
        for action in actions {
            match action {
                Action::Deliver(id) => client.deliver(id)?,
                Action::Expect(ticket, expectation) => asked.later.push_back((ticket, expectation)),
                Action::Note(text) => eprintln!("{program}: {text}"),
            }
        }
        while asked.under_way.len() < REQUESTS_MAX
            && let Some((ticket, expectation)) = asked.later.pop_front()
        {
            let token = client.ask(Request::Expect(expectation))?;
            asked.under_way.insert(token, ticket);
        }
    }
}

/// What is asked for. The daemon refuses more than [`REQUESTS_MAX`] at a time, and many packets that come at once may
/// announce more: those are asked for later.
#[derive(Default)]
struct Asked {
    /// The numbers of [`Waiting`] by the tokens of the answers.
    under_way: HashMap<u64, u64>,
    later: VecDeque<(u64, Expectation)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        let program = Program {
            name: "x",
            version: "1",
            about: "Does something.",
            agent: "y",
        };
        command(program).debug_assert();
        let matches = command(program).get_matches_from(["x", "--socket", "/s"]);
        assert_eq!(matches.get_one("name"), Some(&"y".to_owned()));
    }
}
