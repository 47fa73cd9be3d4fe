//! `lab`: a cluster on one machine. `lab up` and `lab down` for work by hand, `lab demo` for the
//! whole scenario; the traffic tools that it starts in the namespaces are subcommands too.

#![forbid(unsafe_code)]

mod tools_cli;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lab::demo::Scenario;
use lab::node_config::Settings;
use lab::program::Binaries;
use lab::routers::Distribution;
use lab::state::LabId;
use lab::topology::{self, Plan, Topology};
use lab::wait::Interrupt;
use lab::{Cluster, Error, Result, Spawn};

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

#[derive(Args)]
struct Size {
    /// How many nodes, 2 to 16
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// How the nodes get their packets: `filter`, all of them; `ecmp`, routers on both sides spread
    /// flows over them
    #[arg(long, default_value = "filter", value_parser = distribution)]
    distribution: Distribution,
}

fn distribution(text: &str) -> std::result::Result<Distribution, String> {
    match text {
        "filter" => Ok(Distribution::Filter),
        "ecmp" => Ok(Distribution::Ecmp),
        _ => Err("it is filter or ecmp".into()),
    }
}

impl Size {
    fn plan(&self, id: &Id) -> Result<Plan> {
        let plan = Plan::new(&id.id, self.nodes)?;
        Ok(Plan {
            distribution: self.distribution,
            ..plan
        })
    }
}

#[derive(Subcommand)]
enum Action {
    /// Make the namespaces and segments, and leave them (first removes what is there of that name)
    Up {
        #[command(flatten)]
        id: Id,
        #[command(flatten)]
        size: Size,
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
        /// n1, n2, ..., client, server, gen, sink, sw; with routers rin and rout
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
    /// Start a cluster, load it, kill the owner of a download, and check that nothing broke
    Demo {
        #[command(flatten)]
        id: Id,
        /// How many nodes, 2 to 16
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// A smaller download and fewer connections, for continuous integration
        #[arg(long)]
        quick: bool,
        /// Leave the cluster running at the end; `lab down` removes it
        #[arg(long)]
        keep: bool,
        /// Where the report, logs and files go
        #[arg(long, default_value = "target/demo")]
        out: PathBuf,
        /// How often a node says that it lives; the daemon's own default is 10ms
        #[arg(long)]
        heartbeat: Option<String>,
        /// After how long a silence a node is dead; the daemon's own default is 50ms, too little
        /// where several nodes share each CPU
        #[arg(long)]
        dead_after: Option<String>,
    },
    /// Start a cluster and leave it running; `lab down` removes it
    Cluster {
        #[command(flatten)]
        id: Id,
        #[command(flatten)]
        size: Size,
    },
    /// Hold a small lab with a process that ends with it and one that does not, until killed: to
    /// test what a crash leaves behind
    #[command(hide = true)]
    Hold {
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
        Action::Up { id, size } => {
            let mut topology = Topology::up(size.plan(&id)?)?;
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
        Action::Demo {
            id,
            nodes,
            quick,
            keep,
            out,
            heartbeat,
            dead_after,
        } => {
            let plan = Plan::new(&id.id, nodes)?;
            let mut scenario = if quick {
                Scenario::quick(plan, out)
            } else {
                Scenario::full(plan, out)
            };
            let settings = &mut scenario.settings;
            settings.heartbeat = heartbeat.unwrap_or_else(|| settings.heartbeat.clone());
            settings.dead_after = dead_after.unwrap_or_else(|| settings.dead_after.clone());
            return demo(&Scenario { keep, ..scenario });
        }
        Action::Cluster { id, size } => cluster(size.plan(&id)?)?,
        Action::Hold { id } => hold(Plan::new(&id.id, 2)?)?,
        Action::Tool(tool) => tools_cli::run(tool)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Exit status 0 only when nothing broke.
fn demo(scenario: &Scenario) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let report = scenario.run(&interrupt).inspect_err(|_| {
        eprintln!("lab: the logs are in {}", scenario.logs().display());
    })?;
    let path = scenario.out.join("report.json");
    report.write(&path)?;
    println!("\n{report}");
    println!("  report: {}", path.display());
    let faults = report.faults();
    if faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for fault in faults.iter().chain(&report.breakages) {
        eprintln!("lab: {fault}");
    }
    eprintln!("lab: the logs are in {}", scenario.logs().display());
    Ok(ExitCode::FAILURE)
}

fn cluster(plan: Plan) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let settings = Settings {
        distribution: plan.distribution,
        ..Settings::new(plan.nodes)
    };
    let topology = Topology::up(plan)?;
    let logs = topology.folder("logs")?;
    let mut cluster = Cluster::start(topology, Binaries::locate()?, &settings, &logs, true)?;
    cluster.keep();
    cluster.wait_whole(Duration::from_secs(60), &interrupt)?;
    for index in cluster.living() {
        println!(
            "ravelin --socket {} status",
            cluster.socket(index).display()
        );
    }
    println!("logs: {}", logs.display());
    Ok(())
}

fn hold(plan: Plan) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let topology = Topology::up(plan)?;
    let log = topology.folder("logs")?.join("hold");
    let sleeper = || {
        Spawn::new("sleep", "sleep")
            .args(["1000"])
            .inside(&topology.client())
    };
    let attached = sleeper().start(topology.state(), &log)?;
    let detached = sleeper().detached().start(topology.state(), &log)?;
    println!("{}\n{}", attached.pid(), detached.pid());
    while !interrupt.is_set() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
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
