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
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::frame::{self, LEN_MAX};
    use crate::{Flow, PROTOCOL_VERSION, ToDaemon};

    /// Announces 100 connections with every packet.
    struct Talkative;

    impl Protocol for Talkative {
        fn announces(&mut self, packet: &Packet) -> Announced {
            let mut announced = Announced::default();
            for port in 2000..2100 {
                let end = (packet.flow.src, port);
                announced.listens(packet.flow, packet.from_opener, 17, end, 60_000);
            }
            announced
        }
    }

    #[test]
    fn what_a_packet_announces_is_asked_for_in_portions_and_then_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = std::thread::spawn(move || {
            let served = serve("talkative", &path, "x", &mut Talkative);
            served.expect_err("the daemon goes away").to_string()
        });
        let (mut daemon, _) = listener.accept().unwrap();
        let hello: ToDaemon = frame::read(&mut daemon, LEN_MAX).unwrap();
        assert!(matches!(hello, ToDaemon::Hello { name, .. } if name == "x"));
        let version = PROTOCOL_VERSION;
        frame::write(&mut daemon, &ToAgent::Welcome { version }).unwrap();
        let flow = Flow {
            proto: 17,
            src: "10.1.0.10".parse().unwrap(),
            sport: 40000,
            dst: "10.2.0.10".parse().unwrap(),
            dport: 5060,
        };
        let packet = Packet {
            id: 7,
            flow,
            from_opener: true,
            frame: vec![],
        };
        frame::write(&mut daemon, &ToAgent::Packet(packet)).unwrap();
        // Nothing else comes before an answer, and with each answer one more.
        let mut asked = vec![];
        for answered in 0..100 {
            while asked.len() < (answered + REQUESTS_MAX).min(100) {
                match frame::read(&mut daemon, LEN_MAX).unwrap() {
                    ToDaemon::Ask { token, .. } => asked.push(token),
                    other => panic!("{other:?} after {answered} answers"),
                }
            }
            daemon.set_nonblocking(true).unwrap();
            let more = frame::read::<ToDaemon>(&mut daemon, LEN_MAX);
            assert!(more.is_err(), "{more:?} after {answered} answers");
            daemon.set_nonblocking(false).unwrap();
            let answer = ToAgent::Answer {
                token: asked[answered],
                outcome: Ok(Done::Complete),
            };
            frame::write(&mut daemon, &answer).unwrap();
        }
        let last: ToDaemon = frame::read(&mut daemon, LEN_MAX).unwrap();
        assert_eq!(last, ToDaemon::Deliver { id: 7, frame: None });
        drop(daemon);
        assert_eq!(agent.join().unwrap(), "the connection was closed");
    }

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
