//! `[agents]` and `[[agent]]`.

use std::path::Path;

use toml::de::DeValue;

use crate::keys::{AGENT, AGENTS};
use crate::reader::Section;
use crate::{Agent, Agents, Fault, WhenGone, timers};

/// How many agents a node may have.
pub const AGENTS_MAX: usize = 32;

pub(crate) fn agents(top: &Section<'_>, base: &Path) -> Agents {
    let section = top.section("agents", AGENTS);
    let socket = timers::socket(&section, base, "/run/ravelin/agents.sock");
    let sections = top.sections("agent", AGENT);
    if let Some(surplus) = sections.get(AGENTS_MAX) {
        let fault = Fault::TooManyAgents(sections.len());
        surplus.reader.fail(surplus.at, surplus.path.clone(), fault);
    }
    let mut list: Vec<Agent> = Vec::new();
    for section in &sections {
        let name = section.required("name", "name = \"ftp\" in each [[agent]]");
        let Some((field, name)) = name.and_then(|field| Some((field.clone(), field.name()?)))
        else {
            continue;
        };
        if list.iter().any(|other| other.name == name) {
            field.fail(Fault::Duplicate {
                value: name.to_owned(),
                other: "another agent".to_owned(),
            });
        }
        let gone = [
            ("bypass", WhenGone::Bypass),
            ("hold", WhenGone::Hold),
            ("drop", WhenGone::Drop),
        ];
        list.push(Agent {
            name: name.to_owned(),
            command: command(section),
            user: user(section),
            when_gone: section.choice_or("when_gone", &gone, WhenGone::Bypass),
            queue: section.integer_or("queue", 1..=65_536, 256) as u32,
        });
    }
    Agents { socket, list }
}

/// Whom a program runs as.
fn user(section: &Section<'_>) -> Option<String> {
    let field = section.field("user")?;
    if section.field("command").is_none() {
        field.fail(Fault::UserOfNone);
    }
    Some(field.name()?.to_owned())
}

/// A program and its arguments.
fn command(section: &Section<'_>) -> Vec<String> {
    let Some(field) = section.field("command") else {
        return Vec::new();
    };
    if matches!(field.value, DeValue::Array(items) if items.is_empty()) {
        field.fail(Fault::EmptyCommand);
    }
    let words = field.strings();
    if let Some((program, text)) = words.first()
        && !Path::new(text).is_absolute()
    {
        program.fail(Fault::CommandPath((*text).to_owned()));
    }
    words.into_iter().map(|(_, word)| word.to_owned()).collect()
}
