//! Rules without the rest of a configuration: what a running node is given by `ravelin policy load`,
//! and what the nodes of a cluster tell each other.

use std::path::Path;

use policy::{RuleSet, Zones};
use toml::de::DeTable;

use crate::keys::RULES_FILE;
use crate::reader::{Reader, Section};
use crate::{ConfigError, Fault, Warning, parse, rules};

/// A text of rules that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesFile {
    /// The rules, and the defaults of `[sync]`.
    pub rules: RuleSet,
    /// What works and is hardly meant, in the text's order.
    pub warnings: Vec<Warning>,
}

/// Reads a text that has only `[[rule]]` and `[sync]`, in the form that a configuration has them,
/// for a node of these zones and agents. `source` is what errors call the text; `generation` numbers the set.
///
/// # Errors
/// With everything that is wrong with it; that is also the case for a text without any rule, which
/// would deny everything.
pub fn rules_from_str(
    text: &str,
    source: impl AsRef<Path>,
    zones: &Zones,
    agents: &[String],
    generation: u32,
) -> Result<RulesFile, ConfigError> {
    let reader = Reader::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        let rest = text.get(at..).unwrap_or_default();
        reader.fail(at, "", parse::syntax(error.message(), rest));
    }
    let rules = errors.is_empty().then(|| {
        // Of a whole configuration it is said what does not belong here, not that it is unknown.
        let others = root.get_ref().iter();
        for (key, _) in others.filter(|(key, _)| !RULES_FILE.contains(&key.get_ref().as_ref())) {
            let (at, key) = (key.span().start, key.get_ref().to_string());
            reader.fail(at, key.clone(), Fault::NotOfRules { key });
        }
        let top = Section::known(&reader, root.get_ref(), RULES_FILE);
        let set = rules::rules(&top, zones.clone(), agents, generation);
        if set.as_ref().is_some_and(|set| set.rules().is_empty()) {
            reader.fail(0, "rule", Fault::NoRulesInFile);
        }
        set
    });
    let (problems, warnings) = reader.finish();
    match rules.flatten() {
        Some(rules) if problems.is_empty() => Ok(RulesFile { rules, warnings }),
        _ => Err(ConfigError::Invalid {
            path: source.as_ref().to_owned(),
            problems,
        }),
    }
}
