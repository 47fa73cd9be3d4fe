//! `ravelin`: checks configurations, makes certificates, and asks a running `ravelind`.
//!
//! Exit status: 0 when all is well, 1 when something failed at run time (for example the daemon
//! cannot be reached), 2 when the command line or a configuration is wrong, 3 when a change has not
//! reached all living nodes.
#![forbid(unsafe_code)]

mod args;
mod check;
mod common;
mod common_args;
mod counters;
mod drain;
mod error;
mod flow;
mod flows;
mod output;
mod packet;
mod pki;
mod status;
mod tune;
mod version;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use telemetry::control::Client;

use crate::args::{Args, Command};
use crate::error::Error;
use crate::output::Output;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let mut output = Output::stdout(args.json);
    let result = run(&args, &mut output);
    // What was found before an error is still worth showing; the error is worth more than one of
    // the output.
    let shown = output.finish().map_err(Error::Output);
    match result.and(shown) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough of it: `ravelin flows | head`.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_status())
        }
    }
}

fn run(args: &Args, output: &mut Output) -> Result<(), Error> {
    let connect = || Client::connect(&args.socket).map_err(Error::Client);
    match &args.command {
        Command::Check(check) => check::run(check, output),
        Command::Status => status::run(&mut connect()?, output),
        Command::Flows(flows) => {
            // A filter that is wrong is told without a daemon.
            let filter = flows.filter()?;
            flows::run(&mut connect()?, filter, flows.count, output)
        }
        Command::Flow(command) => flow::run(connect, command, output),
        Command::Counters(counters) => counters::run(connect, counters, output),
        Command::User(command) => common::user(connect, command, output),
        Command::Block(command) => common::block(connect, command, output),
        Command::Policy(command) => common::policy(connect, command, output),
        Command::Expect(command) => common::expect(connect, command, output),
        Command::Drain(args) => drain::run(&mut connect()?, args, output),
        Command::Undrain => drain::undo(&mut connect()?, output),
        Command::Pki(command) => pki::run(command, output),
        Command::Tune(args) => tune::run(args, output),
        Command::Version => version::run(connect(), output),
    }
}

/// Prints clap's message: help and version are no errors, all else is ours to say.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(1),
            _ => ExitCode::SUCCESS,
        };
    }
    let message = error.render().to_string();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        complain(&message);
        return ExitCode::from(2);
    }
    // What is wrong and a hint come first; the usage behind them is for people who ask for it.
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let paragraphs = message.split("\n\n").map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let what: Vec<_> = paragraphs
        .take_while(|paragraph| !paragraph.starts_with("Usage:"))
        .filter(|paragraph| !paragraph.starts_with("For more information"))
        .collect();
    complain(&format!("{}; see ravelin --help", what.join("; ")));
    ExitCode::from(2)
}

/// One line on standard error for each of the message.
fn complain(message: &str) {
    let mut stderr = io::stderr().lock();
    for line in message.lines() {
        // If standard error is closed nobody is there to be told; the exit status remains.
        let _ = writeln!(stderr, "ravelin: {line}");
    }
}
