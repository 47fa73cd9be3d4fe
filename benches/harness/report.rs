//! `report.json`, the table at the end, and what both are made of.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::Result;
use crate::html;
use crate::machine::Machine;
use crate::measure::Figure;

/// A figure of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) case: String,
    pub(crate) system: String,
    pub(crate) unit: String,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) runs: usize,
}

/// What `report.json` holds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) cases: Vec<Line>,
    /// By case and system: why there is no figure, or what must be known of it. For people, so not in the JSON.
    #[serde(skip)]
    pub(crate) notes: Vec<(String, String)>,
}

impl Line {
    pub(crate) fn new(case: String, system: &str, unit: &str, figure: Figure) -> Self {
        Self {
            case,
            system: system.into(),
            unit: unit.into(),
            median: figure.median,
            min: figure.min,
            max: figure.max,
            runs: figure.runs,
        }
    }
}

impl Report {
    /// Writes `report.json` and `report.html` into the folder.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).expect("plain fields become JSON");
        for (name, text) in [
            ("report.json", json + "\n"),
            ("report.html", html::page(self)),
        ] {
            let path = dir.join(name);
            fs::write(&path, text).map_err(lab::Error::file("write", &path))?;
        }
        Ok(())
    }

    /// The table for a terminal.
    pub(crate) fn table(&self) -> String {
        let mut rows =
            vec![["case", "system", "median", "min", "max", "runs", "unit"].map(String::from)];
        for line in &self.cases {
            rows.push([
                line.case.clone(),
                line.system.clone(),
                short(line.median),
                short(line.min),
                short(line.max),
                line.runs.to_string(),
                line.unit.clone(),
            ]);
        }
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: [usize; 7] = std::array::from_fn(width);
        let mut table = String::new();
        for row in &rows {
            let cells = row
                .iter()
                .zip(widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    // Numbers to the right.
                    if (2..6).contains(&column) {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
                    }
                });
            table += cells.collect::<Vec<_>>().join("  ").trim_end();
            table += "\n";
        }
        table
    }
}

/// A number with three or four digits that count.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e6 => (value / 1e6, " M"),
        v if v >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        v if v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}{unit}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machine::Cpus;

    pub(crate) fn report() -> Report {
        let cpus = Cpus {
            worker: 1,
            others: 0,
            online: vec![0, 1],
        };
        let line = |case: &str, system: &str, unit: &str, median: f64| {
            let figure = Figure {
                median,
                min: median / 2.0,
                max: median * 2.0,
                runs: 3,
            };
            Line::new(case.into(), system, unit, figure)
        };
        Report {
            machine: Machine::look(&cpus, true, "0.1.0".into()),
            cases: vec![
                line("forward-1m", "ravelin", "packets/s", 4.2e6),
                line("forward-1m", "ovs-dpdk", "packets/s", 2.1e6),
                line("memory", "ravelin", "bytes/flow", 187.0),
            ],
            notes: vec![("forward-10m ravelin".into(), "2 < 3 & so on".into())],
        }
    }

    #[test]
    fn the_json_has_exactly_the_fields_that_were_promised() {
        let value = serde_json::to_value(report()).expect("serialises");
        let keys = |value: &serde_json::Value| {
            let mut keys: Vec<String> = value
                .as_object()
                .expect("an object")
                .keys()
                .cloned()
                .collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&value), ["cases", "machine"]);
        assert_eq!(
            keys(&value["cases"][0]),
            ["case", "max", "median", "min", "runs", "system", "unit"]
        );
        assert_eq!(value["cases"][1]["median"], 2.1e6);
    }

    #[test]
    fn the_table_is_aligned() {
        let table = report().table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[1],
            "forward-1m  ravelin   4.20 M  2.10 M  8.40 M     3  packets/s"
        );
        assert_eq!(lines[0].find("unit"), lines[3].find("bytes/flow"));
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0.00"),
            (18.25, "18.25"),
            (187.04, "187.0"),
            (9999.0, "9999"),
            (52_340.0, "52.34 k"),
            (2_134_567.0, "2.13 M"),
            (14_880_952.0, "14.88 M"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
