//! A walk over the parsed text that remembers where everything is, and what is wrong with it.
//!
//! A reader collects problems; it never stops at one. What a field method cannot read it reports
//! and answers with `None`, so that the caller goes on with a default: the configuration is
//! refused in the end anyway.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::value::{duration, written};
use crate::{Doubt, Fault, Position, Problem, Warning};

/// The text, and what was found in it.
pub(crate) struct Reader<'t> {
    text: &'t str,
    /// Where each line starts.
    lines: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Warning>>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0)
            .chain(ends.map(|(at, _)| at + 1))
            .collect();
        Self {
            text,
            lines,
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// The place of a byte of the text.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let before = &self.text.as_bytes()[self.lines[line - 1]..offset.min(self.text.len())];
        // Continuation bytes of UTF-8 are not characters of their own.
        let column = before.iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
        Position { line, column }
    }

    pub(crate) fn fail(&self, offset: usize, key: impl Into<String>, fault: Fault) {
        let problem = Problem {
            at: self.position(offset),
            key: key.into(),
            fault,
        };
        self.problems.borrow_mut().push(problem);
    }

    pub(crate) fn warn(&self, offset: usize, key: impl Into<String>, doubt: Doubt) {
        let warning = Warning {
            at: self.position(offset),
            key: key.into(),
            doubt,
        };
        self.warnings.borrow_mut().push(warning);
    }

    /// What was found, in the text's order.
    pub(crate) fn finish(self) -> (Vec<Problem>, Vec<Warning>) {
        let (mut problems, mut warnings) = (self.problems.into_inner(), self.warnings.into_inner());
        problems.sort_by_key(|problem| problem.at);
        warnings.sort_by_key(|warning| warning.at);
        (problems, warnings)
    }
}

/// A table of the text whose keys are known.
#[derive(Clone)]
pub(crate) struct Section<'a> {
    pub(crate) reader: &'a Reader<'a>,
    /// Its key from the top; empty for the top itself.
    pub(crate) path: String,
    /// Where it is.
    pub(crate) at: usize,
    keys: &'static [&'static str],
    table: Option<&'a DeTable<'a>>,
}

impl<'a> Section<'a> {
    /// A table; keys that are not among `keys` are reported.
    pub(crate) fn new(
        reader: &'a Reader<'a>,
        path: String,
        at: usize,
        table: &'a DeTable<'a>,
        keys: &'static [&'static str],
    ) -> Self {
        let section = Self {
            reader,
            path,
            at,
            keys,
            table: Some(table),
        };
        for (key, _) in table {
            if !keys.contains(&key.get_ref().as_ref()) {
                let known = keys.join(", ");
                let path = section.key(key.get_ref());
                reader.fail(key.span().start, path, Fault::UnknownKey { known });
            }
        }
        section
    }

    /// The top of a text whose keys the caller has checked.
    pub(crate) fn known(
        reader: &'a Reader<'a>,
        table: &'a DeTable<'a>,
        keys: &'static [&'static str],
    ) -> Self {
        Self {
            reader,
            path: String::new(),
            at: 0,
            keys,
            table: Some(table),
        }
    }

    /// The path of a key in it.
    pub(crate) fn key(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// The value of a key, if it is there.
    pub(crate) fn field(&self, name: &str) -> Option<Field<'a>> {
        debug_assert!(
            self.keys.contains(&name),
            "{name} is not in the list of known keys"
        );
        let (_, value) = self.table?.iter().find(|(key, _)| key.get_ref() == name)?;
        Some(Field {
            reader: self.reader,
            path: self.key(name),
            span: value.span(),
            value: value.get_ref(),
        })
    }

    /// The value of a key that must be there.
    pub(crate) fn required(&self, name: &str, example: &'static str) -> Option<Field<'a>> {
        let field = self.field(name);
        if field.is_none() {
            self.reader
                .fail(self.at, self.key(name), Fault::Missing { example });
        }
        field
    }

    /// The table of a key; an empty one when it is not there, so that defaults apply.
    pub(crate) fn section(&self, name: &str, keys: &'static [&'static str]) -> Section<'a> {
        let absent = Section {
            reader: self.reader,
            path: self.key(name),
            at: self.at,
            keys,
            table: None,
        };
        self.field(name)
            .and_then(|field| field.section(keys))
            .unwrap_or(absent)
    }

    /// The tables of a key that may be there several times. A table that has a name is called by
    /// it.
    pub(crate) fn sections(&self, name: &str, keys: &'static [&'static str]) -> Vec<Section<'a>> {
        let Some(field) = self.field(name) else {
            return Vec::new();
        };
        let items = match field.value {
            DeValue::Table(_) => vec![field],
            _ => field.items("a list of tables"),
        };
        let section = |mut item: Field<'a>| {
            let name = item
                .value
                .get("name")
                .and_then(|name| name.get_ref().as_str());
            let readable = |name: &&str| !name.is_empty() && !name.contains(char::is_control);
            if let Some(name) = name.filter(readable) {
                item.path = format!("{}.{name}", item.path);
            }
            item.section(keys)
        };
        items.into_iter().filter_map(section).collect()
    }

    pub(crate) fn bool_or(&self, name: &str, default: bool) -> bool {
        self.field(name)
            .and_then(|field| field.bool())
            .unwrap_or(default)
    }

    pub(crate) fn integer_or(&self, name: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        self.field(name)
            .and_then(|field| field.integer(range))
            .unwrap_or(default)
    }

    pub(crate) fn duration_or(
        &self,
        name: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        self.field(name)
            .and_then(|field| field.duration(range))
            .unwrap_or(default)
    }

    pub(crate) fn choice_or<T: Copy>(&self, name: &str, choices: &[(&str, T)], default: T) -> T {
        self.field(name)
            .and_then(|field| field.choice(choices))
            .unwrap_or(default)
    }
}

/// One value of the text.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub(crate) reader: &'a Reader<'a>,
    pub(crate) path: String,
    pub(crate) span: Range<usize>,
    pub(crate) value: &'a DeValue<'a>,
}

impl<'a> Field<'a> {
    pub(crate) fn fail(&self, fault: Fault) {
        self.reader.fail(self.span.start, self.path.clone(), fault);
    }

    pub(crate) fn position(&self) -> Position {
        self.reader.position(self.span.start)
    }

    pub(crate) fn wrong_type<T>(&self, expected: &'static str) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fail(Fault::WrongType { found, expected });
        None
    }

    pub(crate) fn section(&self, keys: &'static [&'static str]) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value else {
            return self.wrong_type("a table");
        };
        Some(Section::new(
            self.reader,
            self.path.clone(),
            self.span.start,
            table,
            keys,
        ))
    }

    /// The values of a list, each with the list's key and its own place.
    pub(crate) fn items(&self, expected: &'static str) -> Vec<Field<'a>> {
        let DeValue::Array(items) = self.value else {
            self.wrong_type::<()>(expected);
            return Vec::new();
        };
        let field = |item: &'a toml::Spanned<DeValue<'a>>| Field {
            reader: self.reader,
            path: self.path.clone(),
            span: item.span(),
            value: item.get_ref(),
        };
        items.iter().map(field).collect()
    }

    /// The strings of a list, or of a single string that stands for a list of one.
    pub(crate) fn strings(&self) -> Vec<(Field<'a>, &'a str)> {
        let items = match self.value {
            DeValue::String(_) => vec![self.clone()],
            _ => self.items("a list of strings"),
        };
        items
            .into_iter()
            .filter_map(|item| {
                let text = item.string()?;
                Some((item, text))
            })
            .collect()
    }

    pub(crate) fn string(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type("a string"),
        }
    }

    pub(crate) fn bool(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_type("true or false"),
        }
    }

    pub(crate) fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(integer) = self.value else {
            return self.wrong_type("a number");
        };
        let parsed = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = parsed.filter(|value| range.contains(value));
        if value.is_none() {
            let (value, min, max) = (integer.to_string(), *range.start(), *range.end());
            self.fail(Fault::OutOfRange { value, min, max });
        }
        value
    }

    pub(crate) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let DeValue::String(text) = self.value else {
            return self.wrong_type("a duration such as \"20ms\" or \"2s\"");
        };
        let Some(value) = duration(text) else {
            self.fail(Fault::Duration(text.to_string()));
            return None;
        };
        if !range.contains(&value) {
            let (min, max) = (written(*range.start()), written(*range.end()));
            self.fail(Fault::DurationRange {
                value: text.to_string(),
                min,
                max,
            });
            return None;
        }
        Some(value)
    }

    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        let chosen = choices.iter().find(|(name, _)| *name == text);
        if chosen.is_none() {
            let names: Vec<_> = choices
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            self.fail(Fault::Choice {
                value: text.to_owned(),
                choices: names.join(", "),
            });
        }
        chosen.map(|(_, value)| *value)
    }

    /// A name that can be part of a file name, a certificate or a command.
    pub(crate) fn name(&self) -> Option<&'a str> {
        let text = self.string()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=63).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.') {
            return Some(text);
        }
        self.fail(Fault::Name(text.to_owned()));
        None
    }
}
