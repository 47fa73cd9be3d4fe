//! `ravelin flow`: changes of one flow.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};
use telemetry::control::{Client, FlowInstructed, FlowName, FlowRequest, Proto, Request};

use crate::error::Error;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum FlowCommand {
    /// Send a flow's state to the backups now, changed or not; its packets wait until they have it.
    #[command(after_help = "\
The answer comes when every backup has acknowledged.

Example: ravelin flow sync tcp 10.1.0.10:40000 10.2.0.10:80")]
    Sync(FlowArgs),
    /// Give a flow another mark; with `[sync] marks = "ack"` its packets wait until the backups have it.
    #[command(after_help = "Example: ravelin flow mark 7 tcp 10.1.0.10:40000 10.2.0.10:80")]
    Mark {
        /// The mark, a number of 32 bits.
        value: u32,
        #[command(flatten)]
        flow: FlowArgs,
    },
    /// End a flow, here and in all copies: what comes after is judged as a new connection.
    #[command(after_help = "Example: ravelin flow end udp [fd00:1::5]:5353 [fd00:2::9]:53")]
    End(FlowArgs),
}

/// A flow, either way round, as `ravelin flows` shows it.
#[derive(Debug, Args)]
pub(crate) struct FlowArgs {
    /// tcp, udp, icmp, ... or a number.
    #[arg(value_parser = proto)]
    proto: Proto,
    /// One end: `ADDRESS:PORT`, `[ADDRESS]:PORT`, or an address alone.
    #[arg(value_parser = end)]
    source: SocketAddr,
    /// The other end.
    #[arg(value_parser = end)]
    destination: SocketAddr,
}

fn proto(text: &str) -> Result<Proto, String> {
    text.parse::<Proto>().map_err(|error| error.to_string())
}

fn end(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, 0));
    }
    text.parse()
        .map_err(|_| "write 10.1.0.5:1000, [fd00::5]:1000, or an address alone".into())
}

impl FlowArgs {
    fn name(&self) -> FlowName {
        FlowName {
            proto: self.proto,
            src: self.source.ip(),
            sport: self.source.port(),
            dst: self.destination.ip(),
            dport: self.destination.port(),
        }
    }
}

pub(crate) fn run(
    connect: impl Fn() -> Result<Client, Error>,
    command: &FlowCommand,
    output: &mut Output,
) -> Result<(), Error> {
    let (request, what) = match command {
        FlowCommand::Sync(flow) => (FlowRequest::Sync { flow: flow.name() }, "sent".to_owned()),
        FlowCommand::Mark { value, flow } => {
            let (flow, value) = (flow.name(), *value);
            (FlowRequest::Mark { flow, value }, format!("marked {value}"))
        }
        FlowCommand::End(flow) => (FlowRequest::End { flow: flow.name() }, "ended".to_owned()),
    };
    let done: FlowInstructed = connect()?.ask(&Request::Flow(request))?;
    if output.json {
        output.json(&done)?;
        return Ok(());
    }
    let backups = match (done.acknowledged, command) {
        (true, _) => format!(
            "acknowledged by every backup after {:.1} ms",
            done.waited_us as f64 / 1_000.0
        ),
        (false, FlowCommand::End(_)) => "its copies learn of it right behind".into(),
        (false, _) => "no backup has it: the node has none, or the flow is not replicated".into(),
    };
    output.line(format_args!("{what}; {backups}"))?;
    Ok(())
}
