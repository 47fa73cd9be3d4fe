//! Nodes that cannot reach each other go on, each for itself, and agree again when they can.

use std::collections::BTreeMap;
use std::net::TcpStream;

use e2e::{CONNECTIONS, LIMIT, Load, busiest, cluster, connect, echoes, wait_for, wait_whole};
use lab::Cluster;
use lab::cut::{Cut, Path};
use lab::node_config::Settings;
use telemetry::control::Flow;

/// The connections' patience: none may break.
const STALL_S: u64 = 30;

/// How node `of` stands in the view of node `seen_by`.
fn state(cluster: &Cluster, seen_by: usize, of: usize) -> Result<String, String> {
    let status = cluster.status(seen_by).map_err(|error| error.to_string())?;
    let name = format!("n{of}");
    let member = status
        .view
        .members
        .into_iter()
        .find(|member| member.name == name);
    Ok(member.map_or("absent".into(), |member| member.state))
}

/// Waits until every pair stands as `expected` says: seen by, of, state.
fn wait_for_states(cluster: &Cluster, what: &str, expected: &[(usize, usize, &str)]) {
    wait_for(what, || {
        for (seen_by, of, expected) in expected {
            let seen = state(cluster, *seen_by, *of)?;
            if seen != *expected {
                return Err(format!("n{seen_by} sees n{of} as {seen}, not {expected}"));
            }
        }
        Ok(())
    });
}

/// The digests of all nodes' views are equal.
fn wait_for_agreement(cluster: &Cluster) {
    wait_for("the views to agree", || {
        let mut digests = Vec::new();
        for node in cluster.living() {
            let status = cluster.status(node).map_err(|error| error.to_string())?;
            digests.push(status.view.digest);
        }
        match digests.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(()),
            false => Err(format!("{digests:?}")),
        }
    });
}

/// What makes a flow the same on two nodes: what it is, how far, and which rule lets it pass. What moves with
/// every packet is the node's own.
fn facts(flow: &Flow) -> (String, String) {
    let which = format!("{:?} {} {} {}", flow.proto, flow.src, flow.sport, flow.dst);
    let Flow {
        dport,
        incarnation,
        state,
        rule,
        sync,
        zone_from,
        zone_to,
        mark,
        ..
    } = flow;
    let how =
        format!("{dport} run {incarnation} {state} {rule} {sync} {zone_from} {zone_to} {mark}");
    (which, how)
}

/// The echo server's flows that node `index` has in the role.
fn facts_of(
    cluster: &Cluster,
    index: usize,
    role: &str,
) -> Result<BTreeMap<String, String>, String> {
    let role = format!("role={role}");
    let flows = cluster.flows(index, &["proto=tcp", "dport=7777", &role]);
    Ok(flows
        .map_err(|e| e.to_string())?
        .iter()
        .map(facts)
        .collect())
}

/// Waits until every flow has one owner and, with one backup, one copy elsewhere that is equal to the owner's,
/// and there are at least so many.
fn wait_for_equal_copies(cluster: &Cluster, flows: usize) {
    wait_for("owners and backups to agree on every flow", || {
        let (mut owned, mut copies) = (BTreeMap::new(), BTreeMap::new());
        for node in cluster.living() {
            for (of_role, role) in [(&mut owned, "owner"), (&mut copies, "backup")] {
                for (flow, how) in facts_of(cluster, node, role)? {
                    if of_role.insert(flow.clone(), how).is_some() {
                        return Err(format!("{flow} is there twice as {role}"));
                    }
                }
            }
        }
        let lacking = owned.keys().find(|flow| !copies.contains_key(*flow));
        let left = copies.keys().find(|flow| !owned.contains_key(*flow));
        let differing = owned
            .iter()
            .find(|(flow, how)| copies.get(*flow) != Some(how));
        match (lacking, left, differing) {
            (Some(flow), ..) => Err(format!("{flow} has no copy")),
            (_, Some(flow), _) => Err(format!("{flow} has a copy and no owner")),
            (.., Some((flow, how))) => {
                Err(format!("{flow}: {how}, its copy {:?}", copies.get(flow)))
            }
            _ if owned.len() < flows => Err(format!("{} of {flows} flows", owned.len())),
            _ => Ok(()),
        }
    });
}

/// New connections through the cluster, each of which works.
fn open_some(cluster: &Cluster) -> Vec<TcpStream> {
    let opened = (0..12).map(|_| {
        let mut stream = connect(cluster).expect("it is made");
        assert!(echoes(&mut stream, LIMIT), "{stream:?}");
        stream
    });
    opened.collect()
}

fn goes_on(id: &str, path: Path) {
    let mut cluster = cluster(id, &Settings::new(3));
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(10);
    let (node, carried) = busiest(&cluster);
    let others: Vec<usize> = cluster
        .living()
        .into_iter()
        .filter(|other| *other != node)
        .collect();
    let before = open_some(&cluster);

    let cut = Cut::make(&cluster.topology().node(node), path).expect("nft works");
    let mut apart: Vec<_> = others.iter().map(|other| (*other, node, "dead")).collect();
    if path == Path::Both {
        apart.extend(others.iter().map(|other| (node, *other, "dead")));
    }
    wait_for_states(&cluster, "the sides to part", &apart);
    // Both sides serve, and new connections open on both.
    load.wait_for_messages(10);
    let meanwhile = open_some(&cluster);
    load.wait_for_messages(10);

    drop(cut);
    wait_whole(&mut cluster);
    wait_for_agreement(&cluster);
    let mut streams: Vec<_> = before.into_iter().chain(meanwhile).collect();
    for stream in &mut streams {
        assert!(echoes(stream, LIMIT), "{stream:?} was open and is dead");
    }
    load.wait_for_messages(10);
    assert!(e2e::echo_flows(&cluster, node, "owner") >= carried);
    wait_for_equal_copies(&cluster, 12 + 12 + CONNECTIONS as usize);
    load.finish_unbroken(&cluster);
}

#[test]
fn a_node_that_is_cut_off_and_back_breaks_nothing() {
    goes_on("epart", Path::Both);
}

#[test]
fn a_node_that_hears_and_is_not_heard_breaks_nothing() {
    goes_on("eoneway", Path::Out);
}
