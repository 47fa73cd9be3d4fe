//! From text to [`Config`].

use std::fs;
use std::path::Path;

use toml::de::DeTable;

use crate::keys::TOP;
use crate::reader::{Reader, Section};
use crate::{Config, ConfigError, Fault};
use crate::{agents, cluster, cores, detect, eal, neighbours, network, rules, timers};

impl Config {
    /// Reads a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// When the file cannot be read, or with everything that is wrong with it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path, path.parent().unwrap_or(Path::new("")))
    }

    /// Reads a text. `path` is what errors call it; relative paths in it are joined to `base`.
    ///
    /// # Errors
    /// With everything that is wrong with it.
    pub fn parse(
        text: &str,
        path: impl AsRef<Path>,
        base: impl AsRef<Path>,
    ) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let reader = Reader::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            reader.fail(
                at,
                "",
                syntax(error.message(), text.get(at..).unwrap_or_default()),
            );
        }
        // What is not TOML was recovered from by guessing: its meaning is not worth a complaint.
        let config = if errors.is_empty() {
            let top = Section::new(&reader, String::new(), 0, root.get_ref(), TOP);
            read(&top, path, base.as_ref())
        } else {
            None
        };
        let (problems, warnings) = reader.finish();
        match config {
            Some(config) if problems.is_empty() => Ok(Self { warnings, ..config }),
            _ => Err(ConfigError::Invalid {
                path: path.to_owned(),
                problems,
            }),
        }
    }
}

/// What is wrong where the text is not TOML; `rest` starts there. The two mistakes that people
/// make get words of their own.
pub(crate) fn syntax(message: &str, rest: &str) -> Fault {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let word = &rest[..rest.find(|c| !plain(c)).unwrap_or(rest.len())];
    if message == "duplicate key" && !word.is_empty() {
        Fault::DuplicateKey(word.to_owned())
    } else if message.starts_with("invalid") && word.starts_with(|c: char| c.is_alphabetic()) {
        Fault::Unquoted(word.to_owned())
    } else {
        Fault::Syntax(message.replace('\n', ", "))
    }
}

/// Reads every section, whatever is wrong with the others. `None` comes with a problem.
fn read(top: &Section<'_>, path: &Path, base: &Path) -> Option<Config> {
    let cluster = cluster::cluster(top);
    let (name, node) = cluster::node(top, cluster.as_ref());
    let pki = cluster::pki(top, base);
    let (cores, placements) = cores::cores(top, cluster.is_some());
    let (interfaces, zones) = network::interfaces(top, cluster.as_ref());
    let routes = network::routes(top, &interfaces);
    let neighbours = neighbours::neighbours(top, &interfaces);
    let eal = eal::eal(top, &name, &cores, cluster.as_ref(), interfaces.len());
    let control = timers::control(top, base);
    let flows = timers::flows(top);
    let timeouts = timers::timeouts(top);
    let tcp = timers::tcp(top);
    let detect = detect::detect(top);
    let agents = agents::agents(top, base);
    let rules = rules::rules(top, zones, &agents.names(), rules::FIRST_GENERATION);
    Some(Config {
        path: path.to_owned(),
        name,
        node,
        cluster,
        pki,
        eal,
        cores,
        control,
        agents,
        flows,
        timeouts,
        tcp,
        detect,
        interfaces,
        routes,
        neighbours,
        rules: rules?,
        warnings: Vec::new(),
        placements,
    })
}
