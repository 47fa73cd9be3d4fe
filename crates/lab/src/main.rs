//! `lab`: a cluster on one machine. `lab up` and `lab down` for work by hand, `lab demo` for the
//! whole scenario; the traffic tools that it starts in the namespaces are subcommands too.

#![forbid(unsafe_code)]

mod tools_cli;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};
use lab::state::LabId;
use lab::topology::{self, Plan, Topology};
use lab::{Error, Result};

#[derive(Parser)]
#[command(
    name = "lab",
    version,
    about = "A whole Ravelin cluster on one machine"
)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Args)]
struct Id {
    /// The lab's name: the first part of its namespaces' names
    #[arg(long, default_value = "rvl")]
    id: String,
}

#[derive(Subcommand)]
enum Action {
    /// Make the namespaces and segments, and leave them (first removes what is there of that name)
    Up {
        #[command(flatten)]
        id: Id,
        /// How many nodes, 2 to 16
        #[arg(long, default_value_t = 3)]
        nodes: usize,
    },
    /// Remove everything of a lab: processes, namespaces, state
    Down {
        #[command(flatten)]
        id: Id,
    },
    /// Run a command inside: `lab exec n1 -- ip address`
    Exec {
        #[command(flatten)]
        id: Id,
        /// n1, n2, ..., client, server, gen, sink, sw
        member: String,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// The namespaces that exist
    List {
        #[command(flatten)]
        id: Id,
    },
    #[command(flatten)]
    Tool(tools_cli::Tool),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::from(if matches!(error, Error::Interrupted) {
                130
            } else {
                1
            })
        }
    }
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Up { id, nodes } => {
            let mut topology = Topology::up(Plan::new(&id.id, nodes)?)?;
            topology.keep();
            for space in topology::namespaces(topology.id())? {
                println!("{}", space.name());
            }
        }
        Action::Down { id } => topology::down(&LabId::new(&id.id)?)?,
        Action::Exec {
            id,
            member,
            command,
        } => return exec(&LabId::new(&id.id)?, &member, &command),
        Action::List { id } => {
            for space in topology::namespaces(&LabId::new(&id.id)?)? {
                println!("{}", space.name());
            }
        }
        Action::Tool(tool) => tools_cli::run(tool)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes the command, inside. `ip netns exec` also gives it the namespace's view of `/sys`.
fn exec(id: &LabId, member: &str, command: &[String]) -> Result<ExitCode> {
    let space = id.namespace(member);
    if !space.exists() {
        return Err(Error::NoNamespace(space.name().to_owned()));
    }
    let failure = Command::new("ip")
        .args(["netns", "exec", space.name()])
        .args(command)
        .exec();
    Err(Error::system("run ip netns exec")(failure))
}
