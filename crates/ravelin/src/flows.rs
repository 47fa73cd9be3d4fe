//! `ravelin flows`.

use std::net::SocketAddr;

use serde_json::{Value, json};
use telemetry::control::{Client, Flow, FlowFilter};

use crate::error::Error;
use crate::output::{Output, Side, Table, span};

pub(crate) fn run(
    client: &mut Client,
    filter: FlowFilter,
    count: bool,
    output: &mut Output,
) -> Result<(), Error> {
    if count {
        let end = client.flow_count(filter)?;
        if output.json {
            output.json(&json!({ "count": end.count, "truncated": end.truncated }))?;
        } else {
            output.line(end.count)?;
        }
        return Ok(());
    }
    if output.json {
        // Lines go through as they came, with fields that a later daemon may have added.
        for flow in client.flows::<Value>(filter)? {
            output.json(&flow?)?;
        }
        return Ok(());
    }

    let mut table = Table::new([
        ("PROTO", Side::Left),
        ("SOURCE", Side::Left),
        ("DESTINATION", Side::Left),
        ("STATE", Side::Left),
        ("ROLE", Side::Left),
        ("ZONES", Side::Left),
        ("RULE", Side::Left),
        ("SYNC", Side::Left),
        ("AGE", Side::Right),
        ("IDLE", Side::Right),
        ("PACKETS", Side::Right),
        ("REPLIES", Side::Right),
        ("BYTES", Side::Right),
        ("REPLIED", Side::Right),
    ]);
    let mut flows = client.flows::<Flow>(filter)?;
    let mut outcome = Ok(());
    for flow in flows.by_ref() {
        match flow {
            Ok(flow) => table.row(cells(&flow), output)?,
            Err(error) => outcome = Err(error),
        }
    }
    // Of a list that broke off, what came is shown, and the error behind it.
    table.finish(output)?;
    outcome?;
    match flows.end() {
        Some(end) if end.truncated => output.line("there are more flows, beyond the limit")?,
        Some(end) if end.count == 0 => output.line("no flows")?,
        _ => {}
    }
    Ok(())
}

fn cells(flow: &Flow) -> [String; 14] {
    let sync = if flow.held {
        format!("{} (held)", flow.sync)
    } else {
        flow.sync.clone()
    };
    [
        flow.proto.to_string(),
        SocketAddr::new(flow.src, flow.sport).to_string(),
        SocketAddr::new(flow.dst, flow.dport).to_string(),
        flow.state.clone(),
        flow.role.to_string(),
        format!("{}>{}", flow.zone_from, flow.zone_to),
        flow.rule.clone(),
        sync,
        span(flow.age_s),
        span(flow.idle_s),
        flow.packets[0].to_string(),
        flow.packets[1].to_string(),
        flow.bytes[0].to_string(),
        flow.bytes[1].to_string(),
    ]
}
