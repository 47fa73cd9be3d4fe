//! Standard output: JSON lines, or text with aligned tables.

use std::env;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};

use serde::Serialize;

/// Where a command writes its result.
pub(crate) struct Output {
    out: Box<dyn Write>,
    /// Whether the user wants JSON.
    pub(crate) json: bool,
    /// Whether text may have colours.
    colour: bool,
    /// Whether a person looks at it now.
    pub(crate) terminal: bool,
}

impl Output {
    /// Colours only for a terminal, and only unless `NO_COLOR` is set (<https://no-color.org>).
    pub(crate) fn stdout(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            out: Box::new(BufWriter::with_capacity(32 * 1024, io::stdout())),
            json,
            colour,
            terminal,
        }
    }

    /// One line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    /// One line of text.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{line}")
    }

    /// One line of text, green when all is well and red when not.
    pub(crate) fn verdict(&mut self, good: bool, line: &str) -> io::Result<()> {
        if !self.colour {
            return self.line(line);
        }
        let code = if good { 32 } else { 31 };
        writeln!(self.out, "\x1b[1;{code}m{line}\x1b[0m")
    }

    /// Empties a terminal's screen; in a file or pipe, an empty line.
    pub(crate) fn next_screen(&mut self) -> io::Result<()> {
        self.out.write_all(if self.terminal {
            b"\x1b[H\x1b[2J"
        } else {
            b"\n"
        })
    }

    /// Sends what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Sends what is buffered, at the end.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Which side of its column a cell is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Names.
    Left,
    /// Numbers.
    Right,
}

/// A table whose columns are as wide as their widest cell. A long one is written in parts, so that
/// it neither waits for its end nor fills the memory; its columns then may widen on the way.
pub(crate) struct Table<const N: usize> {
    columns: [(&'static str, Side); N],
    widths: [usize; N],
    rows: Vec<[String; N]>,
    begun: bool,
}

const ROWS_BUFFERED: usize = 512;

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [(&'static str, Side); N]) -> Self {
        Self {
            widths: columns.map(|(title, _)| title.chars().count()),
            columns,
            rows: Vec::new(),
            begun: false,
        }
    }

    pub(crate) fn row(&mut self, cells: [String; N], output: &mut Output) -> io::Result<()> {
        self.rows.push(cells);
        if self.rows.len() >= ROWS_BUFFERED {
            self.write(output)?;
        }
        Ok(())
    }

    /// Writes what is left; nothing at all, not even titles, when there were no rows.
    pub(crate) fn finish(mut self, output: &mut Output) -> io::Result<()> {
        self.write(output)
    }

    fn write(&mut self, output: &mut Output) -> io::Result<()> {
        for row in &self.rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if !self.begun && !self.rows.is_empty() {
            let titles = self.columns.map(|(title, _)| title.to_owned());
            output.line(self.aligned(&titles))?;
            self.begun = true;
        }
        for row in std::mem::take(&mut self.rows) {
            output.line(self.aligned(&row))?;
        }
        Ok(())
    }

    fn aligned(&self, cells: &[String; N]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, side)) in cells.iter().zip(self.widths).zip(self.columns) {
            match side {
                Side::Left => line += &format!("{cell:<width$}  "),
                Side::Right => line += &format!("{cell:>width$}  "),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// A span of seconds in its two greatest units: `3d 4h`, `2h 5m`, `1m 2s`, `45s`.
pub(crate) fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return "0s".into();
    };
    let (unit, name) = UNITS[first];
    let text = format!("{}{name}", seconds / unit);
    match UNITS.get(first + 1) {
        Some((smaller, smaller_name)) if seconds % unit >= *smaller => {
            format!("{text} {}{smaller_name}", seconds % unit / smaller)
        }
        _ => text,
    }
}

/// `s` behind a number of things, unless it is one.
pub(crate) fn plural(n: u64) -> &'static str {
    if n == 1 { "" } else { "s" }
}

#[cfg(test)]
impl Output {
    /// Writes to memory as if to a terminal or a pipe.
    pub(crate) fn memory(colour: bool) -> (Self, Memory) {
        let memory = Memory::default();
        let output = Self {
            out: Box::new(memory.clone()),
            json: false,
            colour,
            terminal: colour,
        };
        (output, memory)
    }
}

/// What was written to an [`Output`] of a test.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Memory(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

#[cfg(test)]
impl Memory {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

#[cfg(test)]
impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_their_two_greatest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (45, "45s"),
            (60, "1m"),
            (62, "1m 2s"),
            (3_600, "1h"),
            (3_659, "1h"),
            (7_500, "2h 5m"),
            (273_600, "3d 4h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn tables_align_and_have_no_trailing_spaces() {
        let (mut output, memory) = Output::memory(false);
        let mut table = Table::new([("NAME", Side::Left), ("N", Side::Right), ("X", Side::Left)]);
        table
            .row(["a".into(), "1".into(), "long".into()], &mut output)
            .unwrap();
        table
            .row(["größer".into(), "1000".into(), String::new()], &mut output)
            .unwrap();
        table.finish(&mut output).unwrap();
        assert_eq!(
            memory.text(),
            "NAME       N  X\n\
             a          1  long\n\
             größer  1000\n"
        );
    }

    #[test]
    fn a_long_table_is_written_in_parts_with_one_title() {
        let (mut output, memory) = Output::memory(false);
        let mut table = Table::new([("N", Side::Right)]);
        for n in 0..ROWS_BUFFERED {
            table.row([n.to_string()], &mut output).unwrap();
        }
        assert_eq!(memory.text().lines().count(), ROWS_BUFFERED + 1);
        table.row(["1000000".into()], &mut output).unwrap();
        table.finish(&mut output).unwrap();
        assert_eq!(memory.text().matches('N').count(), 1);
        assert!(memory.text().starts_with("  N\n  0\n"));
        assert!(memory.text().ends_with("\n511\n1000000\n"));
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let (mut output, memory) = Output::memory(true);
        output.verdict(false, "bad").unwrap();
        assert_eq!(memory.text(), "\x1b[1;31mbad\x1b[0m\n");
        let (mut output, memory) = Output::memory(false);
        output.verdict(false, "bad").unwrap();
        assert_eq!(memory.text(), "bad\n");
    }
}
