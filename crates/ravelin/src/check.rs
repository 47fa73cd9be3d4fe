//! `ravelin check`.

use config::{Config, ConfigError, Position};
use policy::{Decision, Explanation};
use serde_json::{Value, json};
use state::SyncMode;

use crate::args::CheckArgs;
use crate::error::Error;
use crate::output::{Output, plural};
use crate::packet;

pub(crate) fn run(args: &CheckArgs, output: &mut Output) -> Result<(), Error> {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            if output.json {
                output.json(&refusal(args, &error))?;
            }
            return Err(error.into());
        }
    };
    let queries = args
        .explain
        .iter()
        .map(|text| packet::asked(text, config.rules.zones()))
        .collect::<Result<Vec<_>, _>>()?;
    let explained_for = |asked: &packet::Asked<'_>| {
        let explanation = config.rules.explain(&asked.query);
        match asked.user {
            Some(user) => explanation.of_user(user),
            None => explanation,
        }
    };
    let explanations: Vec<_> = queries.iter().map(explained_for).collect();

    if output.json {
        let warnings = config.warnings.iter();
        output.json(&json!({
            "ok": true,
            "file": args.config,
            "errors": [],
            "warnings": warnings.map(|w| finding(w.at, &w.key, &w.doubt)).collect::<Vec<_>>(),
            "summary": config.summary(),
            "explanations": explanations.iter().map(explained).collect::<Vec<_>>(),
        }))?;
        return Ok(());
    }
    let file = args.config.display();
    for warning in &config.warnings {
        crate::complain(&format!("warning: {file}:{warning}"));
    }
    output.line(format_args!("{file}: {}", description(&config)))?;
    for explanation in &explanations {
        output.line("")?;
        output.line(explanation)?;
    }
    Ok(())
}

/// One line that lets the reader see whether it is the right file.
fn description(config: &Config) -> String {
    let whose = match &config.cluster {
        Some(cluster) => {
            let members = cluster.members.len() as u64;
            let s = plural(members);
            format!(
                "node {} of cluster {} with {members} member{s}",
                config.name, cluster.name
            )
        }
        None => format!("node {} alone", config.name),
    };
    let counted = |n: usize, what: &str| format!("{n} {what}{}", plural(n as u64));
    format!(
        "ok: {whose}, {}, {}, {}, {}",
        counted(config.cores.workers.len(), "worker"),
        counted(config.interfaces.len(), "interface"),
        counted(config.routes.len(), "route"),
        counted(config.rules.rules().len(), "rule"),
    )
}

fn refusal(args: &CheckArgs, error: &ConfigError) -> Value {
    let errors: Vec<_> = match error {
        ConfigError::Invalid { problems, .. } => problems
            .iter()
            .map(|p| finding(p.at, &p.key, &p.fault))
            .collect(),
        ConfigError::Read { .. } => vec![json!({ "message": error.to_string() })],
    };
    json!({ "ok": false, "file": args.config, "errors": errors })
}

fn finding(at: Position, key: &str, message: &dyn std::fmt::Display) -> Value {
    json!({
        "line": at.line,
        "column": at.column,
        "key": key,
        "message": message.to_string(),
    })
}

fn explained(explanation: &Explanation<'_>) -> Value {
    let Decision {
        action,
        rule_index,
        sync,
        delay_ms,
        log,
        ..
    } = explanation.decision;
    // The rule that decides is the last that was asked.
    let rule = rule_index.and(explanation.steps.last());
    json!({
        "action": action.to_string(),
        "rule": rule.map(|step| step.rule.name.as_str()),
        "sync": match sync {
            SyncMode::None => "none",
            SyncMode::Delayed => "delayed",
            SyncMode::Async => "async",
            SyncMode::Ack => "ack",
        },
        "delay_ms": delay_ms,
        "log": log,
        "text": explanation.to_string(),
    })
}
