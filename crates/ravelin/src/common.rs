//! `ravelin user`, `block`, `policy` and `expect`: state that all nodes have.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use telemetry::control::{
    BlockRequest, Blocked, Change, Client, ExpectRequest, Expected, LoggedIn, POLICY_BYTES_MAX,
    PolicyLoaded, PolicyRequest, PolicyShown, Request, UserRequest,
};

use crate::common_args::{BlockCommand, ExpectCommand, PolicyCommand, UserCommand};
use crate::error::{Error, Lacking};
use crate::output::{Output, Side, Table, plural, span};

pub(crate) fn user(
    connect: impl Fn() -> Result<Client, Error>,
    command: &UserCommand,
    output: &mut Output,
) -> Result<(), Error> {
    match command {
        UserCommand::Login {
            name,
            address,
            groups,
            life,
        } => {
            let request = UserRequest::Login {
                name: name.clone(),
                address: *address,
                groups: groups.clone(),
                for_ms: life.map(milliseconds),
            };
            let what = format!("{name} is logged in at {address}{}", lasting(*life));
            change(&mut connect()?, &Request::User(request), &what, output)
        }
        UserCommand::Logout { name, address } => {
            let request = UserRequest::Logout {
                name: name.clone(),
                address: *address,
            };
            let what = match (name, address) {
                (Some(name), Some(address)) => format!("{name} is logged out at {address}"),
                (Some(name), None) => format!("{name} is logged out"),
                (None, Some(address)) => format!("nobody is logged in at {address} any more"),
                (None, None) => unreachable!("the command line asks for one of them"),
            };
            change(&mut connect()?, &Request::User(request), &what, output)
        }
        UserCommand::List => users(&mut connect()?, output),
    }
}

pub(crate) fn block(
    connect: impl Fn() -> Result<Client, Error>,
    command: &BlockCommand,
    output: &mut Output,
) -> Result<(), Error> {
    match command {
        BlockCommand::Add { net, life, note } => {
            let request = BlockRequest::Add {
                net: *net,
                for_ms: life.map(milliseconds),
                note: note.clone(),
            };
            let what = format!("{net} is blocked{}", lasting(*life));
            change(&mut connect()?, &Request::Block(request), &what, output)
        }
        BlockCommand::Del { net } => {
            let request = Request::Block(BlockRequest::Del { net: *net });
            let what = format!("{net} is not blocked any more");
            change(&mut connect()?, &request, &what, output)
        }
        BlockCommand::List => blocks(&mut connect()?, output),
    }
}

pub(crate) fn policy(
    connect: impl Fn() -> Result<Client, Error>,
    command: &PolicyCommand,
    output: &mut Output,
) -> Result<(), Error> {
    match command {
        PolicyCommand::Load { file } => {
            // What is wrong with the file is told without a daemon.
            let text = fs::read_to_string(file).map_err(|source| Error::Rules {
                path: file.clone(),
                source,
            })?;
            if text.len() > POLICY_BYTES_MAX {
                return Err(Error::RulesTooLong {
                    path: file.clone(),
                    len: text.len(),
                });
            }
            let source = file.display().to_string();
            load(
                &mut connect()?,
                PolicyRequest::Load { text, source },
                output,
            )
        }
        PolicyCommand::Show => show(&mut connect()?, output),
    }
}

pub(crate) fn expect(
    connect: impl Fn() -> Result<Client, Error>,
    ExpectCommand::List: &ExpectCommand,
    output: &mut Output,
) -> Result<(), Error> {
    expectations(&mut connect()?, output)
}

/// Asks for a change; `what` is what is then the case.
fn change(
    client: &mut Client,
    request: &Request,
    what: &str,
    output: &mut Output,
) -> Result<(), Error> {
    let change: Change = client.ask(request)?;
    if output.json {
        output.json(&change)?;
    } else {
        let replaced = change.replaced.map(|before| format!(" (before: {before})"));
        let replaced = replaced.unwrap_or_default();
        output.line(format_args!(
            "{what}, {}{replaced}",
            on(&change.on, &change.lacking)
        ))?;
    }
    reached(change.lacking, vec![])
}

/// Where a change is: `on all 3 nodes`, `on n1, n2`.
fn on(have: &[String], lack: &[String]) -> String {
    match have {
        [one] => format!("on {one}"),
        all if lack.is_empty() => format!("on all {} nodes", all.len()),
        some => format!("on {}", some.join(", ")),
    }
}

fn reached(
    silent: Vec<String>,
    refused: Vec<telemetry::control::PolicyRefusal>,
) -> Result<(), Error> {
    if silent.is_empty() && refused.is_empty() {
        return Ok(());
    }
    Err(Error::Lacking(Lacking { silent, refused }))
}

fn users(client: &mut Client, output: &mut Output) -> Result<(), Error> {
    let request = Request::User(UserRequest::List);
    if output.json {
        return lines(client, &request, output);
    }
    let mut table = Table::new([
        ("USER", Side::Left),
        ("ADDRESS", Side::Left),
        ("GROUPS", Side::Left),
        ("LEFT", Side::Right),
        ("SET BY", Side::Left),
    ]);
    let users: Vec<LoggedIn> = client.list(&request)?;
    for user in &users {
        let cells = [
            user.name.clone(),
            user.address.to_string(),
            user.groups.join(","),
            left(user.left_s),
            user.node.clone(),
        ];
        table.row(cells, output)?;
    }
    table.finish(output)?;
    if users.is_empty() {
        output.line("nobody is logged in")?;
    }
    Ok(())
}

fn blocks(client: &mut Client, output: &mut Output) -> Result<(), Error> {
    let request = Request::Block(BlockRequest::List);
    if output.json {
        return lines(client, &request, output);
    }
    let mut table = Table::new([
        ("NETWORK", Side::Left),
        ("REASON", Side::Left),
        ("LEFT", Side::Right),
        ("SET BY", Side::Left),
        ("NOTE", Side::Left),
    ]);
    let blocks: Vec<Blocked> = client.list(&request)?;
    for block in &blocks {
        let cells = [
            block.net.to_string(),
            block.reason.clone(),
            left(block.left_s),
            block.node.clone(),
            printable(&block.note),
        ];
        table.row(cells, output)?;
    }
    table.finish(output)?;
    if blocks.is_empty() {
        output.line("nothing is blocked")?;
    }
    Ok(())
}

fn expectations(client: &mut Client, output: &mut Output) -> Result<(), Error> {
    let request = Request::Expect(ExpectRequest::List);
    if output.json {
        return lines(client, &request, output);
    }
    let mut table = Table::new([
        ("PROTO", Side::Left),
        ("SOURCE", Side::Left),
        ("DESTINATION", Side::Left),
        ("ZONES", Side::Left),
        ("RULE", Side::Left),
        ("SYNC", Side::Left),
        ("USES", Side::Left),
        ("LEFT", Side::Right),
        ("SET BY", Side::Left),
        ("PARENT", Side::Left),
    ]);
    let expected: Vec<Expected> = client.list(&request)?;
    for expected in &expected {
        let dst = std::net::SocketAddr::new(expected.dst, expected.dport);
        let cells = [
            expected.proto.to_string(),
            expected
                .src
                .map_or_else(|| "any".into(), |src| src.to_string()),
            dst.to_string(),
            format!("{}>{}", expected.zone_from, expected.zone_to),
            expected.rule.clone(),
            expected.sync.clone(),
            if expected.once { "once" } else { "any" }.into(),
            left(expected.left_s),
            expected.node.clone(),
            expected.parent.clone(),
        ];
        table.row(cells, output)?;
    }
    table.finish(output)?;
    if expected.is_empty() {
        output.line("no connection is expected")?;
    }
    Ok(())
}

/// A list as JSON lines, as they came, with fields that a later daemon may have added.
fn lines(client: &mut Client, request: &Request, output: &mut Output) -> Result<(), Error> {
    for element in client.list::<Value>(request)? {
        output.json(&element)?;
    }
    Ok(())
}

fn load(client: &mut Client, request: PolicyRequest, output: &mut Output) -> Result<(), Error> {
    let PolicyRequest::Load { source, .. } = &request else {
        unreachable!("only loading is asked for here");
    };
    let source = source.clone();
    let loaded: PolicyLoaded = client.ask(&Request::Policy(request))?;
    if output.json {
        output.json(&loaded)?;
    } else {
        for warning in &loaded.warnings {
            crate::complain(&format!("warning: {source}:{warning}"));
        }
        let refused = loaded.refused.iter().map(|refusal| refusal.node.clone());
        let lack: Vec<_> = loaded.lacking.iter().cloned().chain(refused).collect();
        output.line(format_args!(
            "{} rule{} of {source} in force as generation {}, {}",
            loaded.rules,
            plural(loaded.rules),
            loaded.generation,
            on(&loaded.on, &lack)
        ))?;
    }
    reached(loaded.lacking, loaded.refused)
}

fn show(client: &mut Client, output: &mut Output) -> Result<(), Error> {
    let request = Request::Policy(PolicyRequest::Show);
    if output.json {
        output.json(&client.ask::<Value>(&request)?)?;
        return Ok(());
    }
    let shown: PolicyShown = client.ask(&request)?;
    let loaded = shown.loaded_on.map(|node| format!(", loaded on {node}"));
    let loaded = loaded.unwrap_or_else(|| ", of the configuration".into());
    output.line(format_args!(
        "generation {}: {}{loaded}",
        shown.generation,
        printable(&shown.source)
    ))?;
    if let Some(error) = &shown.refusal {
        output.line("newer rules cannot be used here:")?;
        for line in error.lines() {
            output.line(format_args!("  {line}"))?;
        }
    }
    let others = shown.nodes.iter();
    for node in others.filter(|node| node.generation != shown.generation || node.error.is_some()) {
        let why = node.error.as_ref().and_then(|error| error.lines().next());
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        output.line(format_args!(
            "{} has generation {}{why}",
            node.node, node.generation
        ))?;
    }
    if let Some(text) = &shown.text {
        output.line("")?;
        output.line(text.trim_end())?;
    }
    Ok(())
}

fn lasting(life: Option<Duration>) -> String {
    let life = life.map(|life| format!(" for {}", span(life.as_secs())));
    life.unwrap_or_default()
}

fn left(left_s: Option<u64>) -> String {
    left_s.map_or_else(|| "for ever".into(), span)
}

fn milliseconds(life: Duration) -> u64 {
    life.as_millis() as u64
}

/// Without what would reach a terminal as a command.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
