//! What the scenario found, and whether that is the promise kept.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The findings; also the content of `report.json`, whose keys do not change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Long-lived TCP connections: downloads and echo connections.
    pub connections: u64,
    /// Those that were reset, stalled, or brought wrong bytes.
    pub connections_broken: u64,
    /// How they broke, the first few.
    pub breakages: Vec<String>,
    /// From the kill to the first packet that another node forwarded of a flow that it adopted.
    pub failover_ms: Option<f64>,
    /// From the kill to the moment when every living node said that redundancy is whole.
    pub redundancy_restored_ms: Option<f64>,
    /// From the restart to the moment when all nodes were active and redundancy was whole.
    pub rejoined_ms: Option<f64>,
    /// Probe datagrams that did not arrive.
    pub packets_lost: u64,
    /// Probe datagrams sent.
    pub packets_sent: u64,
    /// Probe datagrams that arrived twice.
    pub packets_duplicated: u64,
    /// Probe datagrams that arrived after a later one.
    pub packets_reordered: u64,
    /// The longest silence of one probe flow.
    pub probe_gap_ms_max: f64,
    /// The longest that an echo connection waited for an echo.
    pub echo_round_trip_ms_max: u64,
    /// Flows whose copies were acknowledged, summed over the nodes.
    pub flows_replicated: u64,
    /// Whether the big download was whole.
    pub download_sha256_ok: bool,
    /// Bytes of the big download.
    pub download_bytes: u64,
    /// Flows that testpmd opened.
    pub generated_flows: u64,
    /// Of these, how many were seen at the far end.
    pub generated_flows_seen: u64,
    /// Packets that testpmd sent, and that were seen at the far end.
    pub generated_packets: [u64; 2],
    /// How many nodes there were.
    pub nodes: usize,
    /// Which was killed.
    pub killed: Option<String>,
    /// Wall-clock duration of the scenario.
    pub duration_s: f64,
}

impl Report {
    /// What is not as promised; empty when nothing broke.
    ///
    /// Lost probe datagrams are told and not judged: UDP promises nothing while an owner is dead
    /// and not yet missed.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut unless = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        unless(
            self.connections > 0,
            "there were no connections to break".into(),
        );
        unless(
            self.connections_broken == 0,
            format!("{} connections broke", self.connections_broken),
        );
        unless(
            self.download_sha256_ok,
            "the download is not what the server has".into(),
        );
        unless(self.killed.is_some(), "no node was killed".into());
        unless(
            self.failover_ms.is_some(),
            "no node forwarded a packet of an adopted flow".into(),
        );
        unless(
            self.redundancy_restored_ms.is_some(),
            "redundancy was not restored".into(),
        );
        unless(
            self.rejoined_ms.is_some(),
            "the killed node did not come back".into(),
        );
        unless(
            self.packets_sent > self.packets_lost,
            "no probe datagram arrived".into(),
        );
        unless(
            self.generated_flows > 0 && self.generated_flows_seen == self.generated_flows,
            format!(
                "{} of testpmd's {} flows were seen",
                self.generated_flows_seen, self.generated_flows
            ),
        );
        faults
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain figures become JSON");
        std::fs::write(path, text + "\n").map_err(Error::file("write", path))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |value: Option<f64>| value.map_or("never".to_owned(), |ms| format!("{ms:.1} ms"));
        let killed = self.killed.as_deref().unwrap_or("nobody");
        let rows = [
            ("connections", self.connections.to_string()),
            ("broken", self.connections_broken.to_string()),
            ("killed", format!("{killed}, owner of the download")),
            ("kill to first forwarded packet", ms(self.failover_ms)),
            ("kill to full redundancy", ms(self.redundancy_restored_ms)),
            ("restart to full redundancy", ms(self.rejoined_ms)),
            (
                "packets lost",
                format!("{} of {}", self.packets_lost, self.packets_sent),
            ),
            (
                "longest silence of a probe flow",
                format!("{:.0} ms", self.probe_gap_ms_max),
            ),
            ("flows replicated", self.flows_replicated.to_string()),
            (
                "testpmd flows seen",
                format!("{} of {}", self.generated_flows_seen, self.generated_flows),
            ),
            (
                "download",
                format!(
                    "{} MB, SHA-256 {}",
                    self.download_bytes / 1_000_000,
                    if self.download_sha256_ok {
                        "right"
                    } else {
                        "WRONG"
                    }
                ),
            ),
        ];
        for (what, value) in rows {
            writeln!(f, "  {what:<32} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            connections: 200,
            failover_ms: Some(80.0),
            redundancy_restored_ms: Some(300.0),
            rejoined_ms: Some(900.0),
            packets_sent: 1000,
            packets_lost: 9,
            download_sha256_ok: true,
            generated_flows: 64,
            generated_flows_seen: 64,
            killed: Some("n2".into()),
            ..Report::default()
        }
    }

    #[test]
    fn every_broken_promise_is_a_fault() {
        assert_eq!(good().faults(), [""; 0]);
        let spoilt: [fn(&mut Report); 10] = [
            |report| report.connections = 0,
            |report| report.connections_broken = 1,
            |report| report.download_sha256_ok = false,
            |report| report.killed = None,
            |report| report.failover_ms = None,
            |report| report.redundancy_restored_ms = None,
            |report| report.rejoined_ms = None,
            |report| report.packets_lost = 1000,
            |report| report.generated_flows_seen = 63,
            |report| (report.generated_flows, report.generated_flows_seen) = (0, 0),
        ];
        for (at, spoil) in spoilt.iter().enumerate() {
            let mut report = good();
            spoil(&mut report);
            assert_eq!(report.faults().len(), 1, "case {at}");
        }
    }

    #[test]
    fn the_report_has_the_keys_that_scripts_read() {
        let json = serde_json::to_value(good()).expect("plain figures");
        for key in [
            "connections",
            "connections_broken",
            "failover_ms",
            "packets_lost",
            "flows_replicated",
            "redundancy_restored_ms",
            "download_sha256_ok",
        ] {
            assert!(json.get(key).is_some_and(|value| !value.is_null()), "{key}");
        }
    }
}
