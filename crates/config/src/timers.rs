//! `[flows]`, `[timeouts]`, `[tcp]`, `[control]`.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use crate::keys::{CONTROL, FLOWS, TCP, TIMEOUTS};
use crate::reader::Section;
use crate::{Control, Doubt, Fault, Flows, Tcp, Timeouts};

const SECOND: Duration = Duration::from_secs(1);
const DAY_SECONDS: u64 = 86_400;

/// Milliseconds of the longest fit 32 bits with room for arithmetic.
const TIMEOUT: RangeInclusive<Duration> = SECOND..=Duration::from_secs(20 * DAY_SECONDS);

pub(crate) fn flows(top: &Section<'_>) -> Flows {
    let section = top.section("flows", FLOWS);
    let hour = Duration::from_secs(3600);
    Flows {
        capacity: section.integer_or("capacity", 1024..=1 << 30, 1_000_000) as u32,
        tombstone: section.duration_or("tombstone", SECOND..=hour, 30 * SECOND),
        refresh: section.duration_or("refresh", SECOND..=hour, 10 * SECOND),
        verify_checksums: section.bool_or("verify_checksums", true),
    }
}

/// The defaults are those of Linux's conntrack (`nf_conntrack_tcp_timeout_*` and its likes), in
/// seconds.
pub(crate) fn timeouts(top: &Section<'_>) -> Timeouts {
    let section = top.section("timeouts", TIMEOUTS);
    let ms = |name: &str, default: u64| {
        section
            .duration_or(name, TIMEOUT, Duration::from_secs(default))
            .as_millis() as u32
    };
    Timeouts {
        tcp_syn_sent_ms: ms("tcp_syn_sent", 120),
        tcp_syn_received_ms: ms("tcp_syn_received", 60),
        tcp_established_ms: ms("tcp_established", 5 * DAY_SECONDS),
        tcp_fin_wait_ms: ms("tcp_fin_wait", 120),
        tcp_closing_ms: ms("tcp_closing", 60),
        tcp_time_wait_ms: ms("tcp_time_wait", 120),
        tcp_reset_ms: ms("tcp_reset", 10),
        udp_new_ms: ms("udp_new", 30),
        udp_stream_ms: ms("udp_stream", 120),
        icmp_ms: ms("icmp", 30),
        other_new_ms: ms("other_new", 600),
        other_stream_ms: ms("other_stream", 600),
    }
}

pub(crate) fn tcp(top: &Section<'_>) -> Tcp {
    let section = top.section("tcp", TCP);
    Tcp {
        strict: section.bool_or("strict", true),
        pickup: section.bool_or("pickup", false),
    }
}

pub(crate) fn control(top: &Section<'_>, base: &Path) -> Control {
    let section = top.section("control", CONTROL);
    socket(&section, base, "/run/ravelin/ravelind.sock")
}

/// A Unix socket: its path, mode and group.
pub(crate) fn socket(section: &Section<'_>, base: &Path, default: &str) -> Control {
    let socket = section.field("socket").and_then(|field| {
        let text = field.string()?;
        if text.is_empty() {
            field.fail(Fault::EmptyPath);
        }
        Some(base.join(text))
    });
    let mode = section.field("mode").and_then(|field| {
        let mode = field.integer(0..=u64::from(u32::MAX))? as u32;
        if mode > 0o777 {
            field.fail(Fault::Mode(format!("{mode:#o}")));
        }
        if mode & 0o002 != 0 {
            let doubt = Doubt::WorldWritable { mode };
            field
                .reader
                .warn(field.span.start, field.path.clone(), doubt);
        }
        Some(mode)
    });
    Control {
        socket: socket.unwrap_or_else(|| default.into()),
        mode: mode.unwrap_or(0o660),
        group: section
            .field("group")
            .and_then(|field| field.name())
            .map(str::to_owned),
    }
}
