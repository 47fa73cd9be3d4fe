//! `ravelin counters`.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use serde_json::Value;
use telemetry::control::Client;
use telemetry::counters::{CounterQuery, CounterReport};

use crate::args::CountersArgs;
use crate::error::Error;
use crate::output::{Output, Side, Table};

/// Shows the counters once, or again and again. Each round has a connection of its own, so that
/// watching does not keep one of the daemon's few places.
pub(crate) fn run(
    connect: impl Fn() -> Result<Client, Error>,
    args: &CountersArgs,
    output: &mut Output,
) -> Result<(), Error> {
    let query = CounterQuery {
        nonzero: !args.all,
        scope: args.scope.clone(),
    };
    let mut last: Option<Reading> = None;
    loop {
        let mut client = connect()?;
        if output.json {
            output.json(&client.counters::<Value>(query.clone())?)?;
        } else {
            let now = Reading {
                at: Instant::now(),
                report: client.counters(query.clone())?,
            };
            if last.is_some() || output.terminal && args.watch.is_some() {
                output.next_screen()?;
            }
            show(&now, last.as_ref(), output)?;
            last = Some(now);
        }
        drop(client);
        let Some(interval) = args.watch else {
            return Ok(());
        };
        output.flush()?;
        thread::sleep(interval);
    }
}

struct Reading {
    at: Instant,
    report: CounterReport,
}

impl Reading {
    /// By name, in the daemon's order: the scopes that have the counter.
    fn by_name(&self) -> Vec<(&str, Vec<(&str, u64)>)> {
        let mut rows: Vec<(&str, Vec<(&str, u64)>)> = Vec::new();
        let mut places = BTreeMap::new();
        for counter in &self.report.counters {
            let place = *places.entry(counter.name.as_str()).or_insert_with(|| {
                rows.push((&counter.name, Vec::new()));
                rows.len() - 1
            });
            rows[place].1.push((&counter.scope, counter.value));
        }
        rows
    }

    fn sum(&self, name: &str) -> u64 {
        self.report.sum.get(name).copied().unwrap_or(0)
    }
}

fn show(now: &Reading, last: Option<&Reading>, output: &mut Output) -> Result<(), Error> {
    let rows = now.by_name();
    if rows.is_empty() {
        output.line("no counters, or all are zero (--all shows those too)")?;
    }
    let scopes_of = |scopes: &[(&str, u64)]| {
        let parts: Vec<_> = scopes.iter().map(|(s, n)| format!("{s} {n}")).collect();
        parts.join(", ")
    };
    let (name, total, scope) = (
        ("COUNTER", Side::Left),
        ("TOTAL", Side::Right),
        ("BY SCOPE", Side::Left),
    );
    match last {
        None => {
            let mut table = Table::new([name, total, scope]);
            for (name, scopes) in rows {
                let cells = [name.into(), now.sum(name).to_string(), scopes_of(&scopes)];
                table.row(cells, output)?;
            }
            table.finish(output)?;
        }
        Some(last) => {
            let seconds = (now.at - last.at).as_secs_f64();
            let mut table = Table::new([name, total, ("PER SECOND", Side::Right), scope]);
            for (name, scopes) in rows {
                // A daemon that was restarted meanwhile counts from zero again.
                let more = now.sum(name).saturating_sub(last.sum(name));
                let cells = [
                    name.into(),
                    now.sum(name).to_string(),
                    format!("{:.0}", more as f64 / seconds),
                    scopes_of(&scopes),
                ];
                table.row(cells, output)?;
            }
            table.finish(output)?;
        }
    }
    Ok(())
}
