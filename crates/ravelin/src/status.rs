//! `ravelin status`.

use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use telemetry::control::{Client, CommonEntries, Request, Status};

use crate::error::Error;
use crate::output::{Output, Side, Table, plural, span};

pub(crate) fn run(client: &mut Client, output: &mut Output) -> Result<(), Error> {
    if output.json {
        output.json(&client.ask::<Value>(&Request::Status)?)?;
        return Ok(());
    }
    let status = client.ask::<Status>(&Request::Status)?;
    // The daemon's instants are of this machine's monotonic clock.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(std::io::Error::from)?;
    let now_ns = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    show(&status, now_ns, output)
}

fn show(status: &Status, now_ns: u64, output: &mut Output) -> Result<(), Error> {
    let (good, verdict) = health(status);
    output.verdict(good, &verdict)?;
    output.line("")?;
    facts(status, now_ns, output)?;
    if status.view.members.len() > 1 {
        output.line("")?;
        members(status, output)?;
    }
    if !status.replication.peers.is_empty() {
        output.line("")?;
        peers(status, output)?;
    }
    if !status.interfaces.is_empty() {
        output.line("")?;
        interfaces(status, output)?;
    }
    if !status.cores.is_empty() {
        output.line("")?;
        cores(status, output)?;
    }
    Ok(())
}

/// Whether all is well, and the line that says so or names what is not.
fn health(status: &Status) -> (bool, String) {
    let Status { node, view, .. } = status;
    let mut line = format!("{} {}", node.name, node.state);
    let mut good = node.state == "active";
    if let Some(drain) = &status.drain {
        good = false;
        line += &format!(" ({})", crate::drain::progress(drain));
    }

    if view.members.len() > 1 {
        let active = view.members.iter().filter(|m| m.state == "active").count();
        good &= active == view.members.len() && status.redundancy.whole;
        let all = view.members.len();
        line += &format!(", epoch {}, {active} of {all} members active", view.epoch);
        if status.redundancy.whole {
            line += ", redundancy whole";
        } else {
            let slots = status.redundancy.pending_slots;
            line += &format!(
                ", redundancy NOT whole ({slots} slot{} pending)",
                plural(slots)
            );
        }
    } else {
        line += ", a node alone";
    }

    // To a dead peer there is no connection anyway.
    let dead = |name: &str| {
        view.members
            .iter()
            .any(|m| m.name == name && m.state == "dead")
    };
    let apart = (status.replication.peers.iter())
        .filter(|peer| !peer.connected && !dead(&peer.name))
        .map(|peer| format!(", no connection to {}", peer.name));
    let unlinked = (status.interfaces.iter())
        .filter(|interface| !interface.link_up)
        .map(|interface| format!(", no link on {}", interface.name));
    let refused = status.policy.error.as_ref();
    let refused = refused.map(|_| ", newer rules REFUSED".to_owned());
    let differ =
        (status.common.differ.iter()).map(|peer| format!(", the common state of {peer} differs"));
    for problem in apart.chain(unlinked).chain(refused).chain(differ) {
        good = false;
        line += &problem;
    }
    (good, line)
}

fn facts(status: &Status, now_ns: u64, output: &mut Output) -> Result<(), Error> {
    let since = |ns: u64| span(now_ns.saturating_sub(ns) / 1_000_000_000);
    let Status {
        node, view, flows, ..
    } = status;
    output.line(format_args!(
        "node         {} (id {}), ravelind {}, pid {}, up {}",
        node.name,
        node.id,
        node.version,
        node.pid,
        span(node.uptime_s)
    ))?;
    output.line(format_args!(
        "view         epoch {}, digest {}, {} slot{} owned",
        view.epoch,
        view.digest,
        view.owned_slots,
        plural(view.owned_slots)
    ))?;
    let redundancy = &status.redundancy;
    output.line(format_args!(
        "redundancy   {} for {}, {} slot{} pending",
        if redundancy.whole {
            "whole"
        } else {
            "NOT whole"
        },
        since(redundancy.since_ns),
        redundancy.pending_slots,
        plural(redundancy.pending_slots)
    ))?;
    if let Some(takeover) = &status.takeover {
        let forwarded = match takeover.first_forward_ns {
            Some(first) => {
                let delay_ns = first.saturating_sub(takeover.at_ns);
                format!("first packet after {:.3} ms", delay_ns as f64 / 1e6)
            }
            None => "no packet yet".into(),
        };
        output.line(format_args!(
            "takeover     {} slot{} in epoch {}, {forwarded}, {} ago",
            takeover.slots,
            plural(takeover.slots),
            takeover.epoch,
            since(takeover.at_ns)
        ))?;
    }
    let replication = &status.replication;
    output.line(format_args!(
        "replication  {} flow{}, {} records sent, {} received, {} not acknowledged yet",
        replication.flows_replicated,
        plural(replication.flows_replicated),
        replication.records_sent,
        replication.records_received,
        replication.lag_records
    ))?;
    output.line(format_args!(
        "copies       {} slot{} compared, {} differed, {} repaired, {} to hand over",
        replication.slots_compared,
        plural(replication.slots_compared),
        replication.slots_differing,
        replication.slots_repaired,
        replication.handing_over_slots
    ))?;
    output.line(format_args!(
        "flows        {} live of {}, {} owned, {} packet{} held",
        flows.live,
        flows.capacity,
        flows.owned,
        flows.held_packets,
        plural(flows.held_packets)
    ))?;
    let policy = &status.policy;
    output.line(format_args!(
        "policy       generation {}, {}{}",
        policy.generation,
        policy.source,
        if policy.error.is_some() {
            "; newer rules cannot be used here: ravelin policy show"
        } else {
            ""
        }
    ))?;
    let common = &status.common;
    output.line(format_args!(
        "common       {} block{}, {} user{}, {} expectation{}, {} tunnel{}{}",
        common.blocks,
        plural(common.blocks),
        common.users,
        plural(common.users),
        common.expectations,
        plural(common.expectations),
        common.tunnels,
        plural(common.tunnels),
        common_copies(common)
    ))?;
    Ok(())
}

/// What the other nodes lack of the common state, and what this one had to give up; empty when all is well.
fn common_copies(common: &CommonEntries) -> String {
    let mut text = String::new();
    for (peers, what) in [
        (&common.behind, "not yet all at"),
        (&common.differ, "different at"),
    ] {
        if !peers.is_empty() {
            text += &format!("; {what} {}", peers.join(", "));
        }
    }
    if common.given_up > 0 {
        text += &format!("; {} given up for want of room", common.given_up);
    }
    text
}

fn members(status: &Status, output: &mut Output) -> Result<(), Error> {
    let mut table = Table::new([
        ("MEMBER", Side::Left),
        ("ID", Side::Right),
        ("STATE", Side::Left),
        ("LAST HEARD", Side::Right),
        ("BACKUPS", Side::Left),
    ]);
    for member in &status.view.members {
        let heard = match member.last_heard_ms {
            _ if member.name == status.node.name => "this node".into(),
            Some(ms) => format!("{ms} ms"),
            None => "never".into(),
        };
        let backups = status.view.backup_groups.get(&member.name);
        let cells = [
            member.name.clone(),
            member.id.to_string(),
            member.state.clone(),
            heard,
            backups.map_or_else(String::new, |group| group.join(", ")),
        ];
        table.row(cells, output)?;
    }
    Ok(table.finish(output)?)
}

fn peers(status: &Status, output: &mut Output) -> Result<(), Error> {
    let mut table = Table::new([
        ("PEER", Side::Left),
        ("CONNECTED", Side::Left),
        ("LAG", Side::Right),
        ("LAG MS", Side::Right),
        ("COMPARED", Side::Right),
        ("RTT US", Side::Right),
        ("BYTES SENT", Side::Right),
        ("LAST ERROR", Side::Left),
    ]);
    for peer in &status.replication.peers {
        let cells = [
            peer.name.clone(),
            yes(peer.connected),
            peer.lag_records.to_string(),
            peer.lag_ms.to_string(),
            match peer.compared_ms {
                _ if peer.refused => "refused".into(),
                Some(ms) => format!("{:.1} s", ms as f64 / 1e3),
                None => String::new(),
            },
            peer.rtt_us.to_string(),
            peer.bytes_sent.to_string(),
            peer.last_error.clone().unwrap_or_default(),
        ];
        table.row(cells, output)?;
    }
    Ok(table.finish(output)?)
}

fn interfaces(status: &Status, output: &mut Output) -> Result<(), Error> {
    let mut table = Table::new([
        ("INTERFACE", Side::Left),
        ("LINK", Side::Left),
        ("MAC", Side::Left),
        ("RX", Side::Right),
        ("TX", Side::Right),
        ("RX MISSED", Side::Right),
        ("RX ERRORS", Side::Right),
        ("TX ERRORS", Side::Right),
        ("DEVICE", Side::Left),
    ]);
    for interface in &status.interfaces {
        let link = if interface.link_up { "up" } else { "down" };
        let cells = [
            interface.name.clone(),
            link.into(),
            interface.mac.clone(),
            interface.rx_packets.to_string(),
            interface.tx_packets.to_string(),
            interface.rx_missed.to_string(),
            interface.rx_errors.to_string(),
            interface.tx_errors.to_string(),
            interface.device.clone(),
        ];
        table.row(cells, output)?;
    }
    Ok(table.finish(output)?)
}

fn cores(status: &Status, output: &mut Output) -> Result<(), Error> {
    let mut table = Table::new([
        ("CORE", Side::Left),
        ("CPU", Side::Right),
        ("IDLE", Side::Left),
        ("BUSY", Side::Right),
    ]);
    for core in &status.cores {
        let (whole, tenth) = (core.busy_permille / 10, core.busy_permille % 10);
        let cells = [
            core.role.clone(),
            core.cpu.to_string(),
            core.idle.clone(),
            format!("{whole}.{tenth} %"),
        ];
        table.row(cells, output)?;
    }
    Ok(table.finish(output)?)
}

fn yes(it: bool) -> String {
    if it { "yes" } else { "no" }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use telemetry::control::{Interface, Member, Node, Peer, Redundancy, View};

    fn member(name: &str, state: &str) -> Member {
        Member {
            name: name.into(),
            state: state.into(),
            ..Member::default()
        }
    }

    fn healthy() -> Status {
        Status {
            node: Node {
                name: "n1".into(),
                state: "active".into(),
                ..Node::default()
            },
            view: View {
                epoch: 7,
                members: ["n1", "n2", "n3"].map(|n| member(n, "active")).into(),
                ..View::default()
            },
            redundancy: Redundancy {
                whole: true,
                ..Redundancy::default()
            },
            ..Status::default()
        }
    }

    #[test]
    fn the_first_line_names_what_is_wrong() {
        let peer = |name: &str, connected| Peer {
            name: name.into(),
            connected,
            ..Peer::default()
        };
        let whole = "n1 active, epoch 7, 3 of 3 members active, redundancy whole";
        assert_eq!(health(&healthy()), (true, whole.into()));

        let mut status = healthy();
        status.view.members[2].state = "dead".into();
        status.redundancy.whole = false;
        status.redundancy.pending_slots = 1;
        // That there is no connection to the dead one goes without saying.
        status.replication.peers = vec![peer("n2", true), peer("n3", false)];
        let line =
            "n1 active, epoch 7, 2 of 3 members active, redundancy NOT whole (1 slot pending)";
        assert_eq!(health(&status), (false, line.into()));

        let mut status = healthy();
        status.replication.peers = vec![peer("n2", false)];
        status.interfaces = vec![Interface {
            name: "outside".into(),
            link_up: false,
            ..Interface::default()
        }];
        let line = format!("{whole}, no connection to n2, no link on outside");
        assert_eq!(health(&status), (false, line));

        let mut status = healthy();
        status.common.differ = vec!["n3".into()];
        let line = format!("{whole}, the common state of n3 differs");
        assert_eq!(health(&status), (false, line));

        // That a peer has not acknowledged a moment's changes is no fault.
        let mut status = healthy();
        status.common.behind = vec!["n3".into()];
        assert_eq!(health(&status), (true, whole.into()));

        let mut status = healthy();
        status.node.state = "joining".into();
        assert!(!health(&status).0);

        let mut status = healthy();
        status.view.members.truncate(1);
        assert_eq!(health(&status), (true, "n1 active, a node alone".into()));
    }

    #[test]
    fn the_common_state_s_copies_are_told_when_they_are_not_the_same() {
        let mut common = CommonEntries::default();
        assert_eq!(common_copies(&common), "");
        common.behind = vec!["n2".into(), "n3".into()];
        common.differ = vec!["n4".into()];
        common.given_up = 2;
        let said = "; not yet all at n2, n3; different at n4; 2 given up for want of room";
        assert_eq!(common_copies(&common), said);
    }
}
