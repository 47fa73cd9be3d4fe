//! `report.html`: one file that needs no other, with a bar per figure.

use std::fmt::Write as _;

use crate::report::{Line, Report, short};

const BAR: u32 = 22;
const GAP: u32 = 10;
const LABEL: u32 = 110;
const WIDTH: u32 = 760;
/// By system, in the order in which they appear; more begin again.
const COLOURS: [&str; 6] = [
    "#b5452c", "#4a6fa5", "#6b8f5e", "#8c6bb1", "#c08a2e", "#5f6b73",
];

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:52em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;font-size:14px}td,th{padding:.2em .8em .2em 0;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums}h2{font-size:1.1em;margin:1.6em 0 .2em}\
svg text{font:13px system-ui,sans-serif}.note{color:#8a3b12}";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Ravelin: benchmark</title>\
         <style>{STYLE}</style></head><body>\n<h1>Benchmark</h1>\n"
    );
    let machine = serde_json::to_value(&report.machine).expect("plain fields become JSON");
    page += "<table>";
    for (key, value) in machine.as_object().into_iter().flatten() {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let (key, text) = (escaped(&key.replace('_', " ")), escaped(&text));
        let _ = write!(page, "<tr><th>{key}</th><td>{text}</td></tr>");
    }
    page += "</table>\n<p>Bars are medians; the thin lines go from the least to the greatest run.</p>\n";
    let mut systems: Vec<&str> = vec![];
    for line in &report.cases {
        if !systems.contains(&line.system.as_str()) {
            systems.push(&line.system);
        }
    }
    let mut seen: Vec<&str> = vec![];
    for line in &report.cases {
        if seen.contains(&line.case.as_str()) {
            continue;
        }
        seen.push(&line.case);
        let of_case: Vec<&Line> = report
            .cases
            .iter()
            .filter(|other| other.case == line.case)
            .collect();
        let (case, unit) = (escaped(&line.case), escaped(&line.unit));
        let _ = writeln!(page, "<h2>{case}, {unit}</h2>");
        page += &plot(&of_case, &systems);
    }
    if !report.notes.is_empty() {
        page += "<h2>Notes</h2><ul>";
        for (about, note) in &report.notes {
            let (about, note) = (escaped(about), escaped(note));
            let _ = write!(page, "<li class=\"note\">{about}: {note}</li>");
        }
        page += "</ul>";
    }
    page += "<h2>Figures</h2>\n<table><tr><th>case</th><th>system</th><th>median</th><th>min</th><th>max</th>\
             <th>runs</th><th>unit</th></tr>\n";
    for line in &report.cases {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td>{}</td></tr>",
            escaped(&line.case),
            escaped(&line.system),
            short(line.median),
            short(line.min),
            short(line.max),
            line.runs,
            escaped(&line.unit),
        );
    }
    page + "</table>\n</body></html>\n"
}

/// The bars of one case: all have one scale, which begins at 0.
fn plot(lines: &[&Line], systems: &[&str]) -> String {
    let greatest = lines
        .iter()
        .map(|line| line.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    // Room for the number behind the longest bar.
    let room = f64::from(WIDTH - LABEL - 90);
    let x = |value: f64| f64::from(LABEL) + room * value.max(0.0) / greatest;
    let height = lines.len() as u32 * (BAR + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">"
    );
    for (row, line) in (0_u32..).zip(lines) {
        let top = row * (BAR + GAP);
        let (middle, base) = (top + BAR / 2, top + BAR / 2 + 5);
        let system = systems.iter().position(|system| *system == line.system);
        let colour = COLOURS[system.unwrap_or(0) % COLOURS.len()];
        let (from, median) = (x(0.0), x(line.median));
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{base}\">{}</text>\
             <rect x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#222\"/>\
             <text x=\"{:.1}\" y=\"{base}\">{}</text>",
            escaped(&line.system),
            median - from,
            x(line.min),
            x(line.max),
            x(line.max) + 8.0,
            short(line.median),
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let report = crate::report::tests::report();
        let page = page(&report);
        assert_eq!(page.matches("<svg").count(), 2, "one plot per case");
        assert_eq!(page.matches("<rect").count(), 3, "one bar per figure");
        assert!(page.contains("2 &lt; 3 &amp; so on"));
        for outside in ["src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn bars_have_one_scale() {
        let report = crate::report::tests::report();
        let svg = plot(
            &[&report.cases[0], &report.cases[1]],
            &["ravelin", "ovs-dpdk"],
        );
        let widths: Vec<f64> = svg
            .split("<rect ")
            .skip(1)
            .map(|rect| {
                let text = rect.split("width=\"").nth(1).expect("has a width");
                text.split('"')
                    .next()
                    .expect("ends")
                    .parse()
                    .expect("a number")
            })
            .collect();
        assert_eq!(widths.len(), 2);
        // 4.2 to 2.1.
        assert!((widths[0] / widths[1] - 2.0).abs() < 0.01, "{widths:?}");
        // The greatest run, 8.4, has all of the room.
        assert!((widths[0] - f64::from(WIDTH - LABEL - 90) / 2.0).abs() < 0.2);
    }
}
