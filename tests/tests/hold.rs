//! What the hold is for, with its negative control: the owner of a connection dies right after it saw
//! the first packets, while nothing that it says reaches its backup.

use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::{LIMIT, Load, cluster, connect, echoes, wait_for, wait_whole};
use lab::Cluster;
use lab::cut::{Cut, Path};
use lab::node_config::Settings;
use telemetry::control::FlowRole;

/// Connections that are tried; each node owns about a third of them.
const TRIED: usize = 24;
/// The node that dies.
const VICTIM: usize = 1;

fn with_sync(sync: &str) -> Settings {
    Settings {
        sync: sync.into(),
        dead_after: "1s".into(),
        ..Settings::new(3)
    }
}

/// Whole, with the victim's way to its backup cut. The load only has its server used.
fn cut_off(id: &str, sync: &str) -> (Cluster, Load, Cut) {
    let cluster = cluster(id, &with_sync(sync));
    let mut load = Load::start(&cluster, 60);
    load.wait_for_messages(2);
    let cut = Cut::make(&cluster.topology().node(VICTIM), Path::SyncOut).expect("nft works");
    (cluster, load, cut)
}

/// The flows from these ports that the victim owns: port, and whether it is held.
fn of_victim(cluster: &Cluster, ports: &[u16]) -> Vec<(u16, bool)> {
    let flows = cluster.flows(VICTIM, &["dport=7777", "proto=tcp"]);
    let flows = flows.expect("the victim answers").into_iter();
    flows
        .filter(|flow| flow.role == FlowRole::Owner && ports.contains(&flow.sport))
        .map(|flow| (flow.sport, flow.held))
        .collect()
}

fn port(stream: &TcpStream) -> u16 {
    stream.local_addr().expect("connected").port()
}

/// Nobody is told of a connection that the owner alone knows: its SYN waits here, is tried again by
/// the client, and gets through once the heir has taken over.
#[test]
fn held_connections_survive_an_owner_that_dies_before_its_backup_knows_them() {
    let (mut cluster, _load, _cut) = cut_off("ehold", "ack");
    let known: Vec<u16> = (cluster.flows(VICTIM, &["dport=7777", "proto=tcp"]))
        .expect("the victim answers")
        .iter()
        .map(|flow| flow.sport)
        .collect();
    let (mut made, topology) = (Vec::new(), cluster.topology().client());
    let tries: Vec<JoinHandle<std::io::Result<TcpStream>>> = (0..TRIED)
        .map(|_| {
            let space = topology.clone();
            std::thread::spawn(move || {
                let to = std::net::SocketAddr::from(([10, 2, 0, 10], 7777));
                let tried = space.enter(|| TcpStream::connect_timeout(&to, LIMIT));
                tried.expect("the client is there")
            })
        })
        .collect();
    // The victim has seen a SYN, and keeps it.
    wait_for("the victim to hold a connection's first packet", || {
        let held = cluster
            .counters(VICTIM)
            .map_err(|error| error.to_string())?
            .sum;
        let flows = cluster.flows(VICTIM, &["dport=7777", "proto=tcp", "role=owner"]);
        let flows = flows.map_err(|error| error.to_string())?;
        let new = flows.iter().filter(|flow| !known.contains(&flow.sport));
        let new: Vec<_> = new.collect();
        if new.iter().any(|flow| flow.held) {
            return Ok(());
        }
        Err(format!(
            "{} are new, held were {:?}",
            new.len(),
            held.get("held")
        ))
    });
    cluster.kill(VICTIM).expect("it ran");
    for tried in tries {
        made.push(tried.join().expect("no panic"));
    }
    for stream in made {
        let mut stream = stream.expect("the client gets through in the end");
        assert!(
            echoes(&mut stream, LIMIT),
            "{stream:?} is open for the client, and dead"
        );
    }
}

/// The same without the hold: the server and the client believe in connections that nobody knows
/// any more.
#[test]
fn unheld_connections_die_with_an_owner_whose_backup_does_not_know_them() {
    let (mut cluster, _load, _cut) = cut_off("enohold", "async");
    let streams: Vec<TcpStream> = (0..TRIED)
        .map(|_| connect(&cluster).expect("nothing is held"))
        .collect();
    let ports: Vec<u16> = streams.iter().map(port).collect();
    let carried = of_victim(&cluster, &ports);
    assert!(
        !carried.is_empty() && carried.iter().all(|(_, held)| !held),
        "{carried:?}"
    );
    cluster.kill(VICTIM).expect("it ran");
    wait_whole(&mut cluster);

    let (lost, living): (Vec<_>, Vec<_>) = streams
        .into_iter()
        .partition(|stream| carried.iter().any(|(port_of, _)| *port_of == port(stream)));
    for mut stream in living {
        assert!(echoes(&mut stream, LIMIT), "{stream:?} was another node's");
    }
    // What the clients of the lost ones say is dropped as a stranger's, again and again.
    let strangers = |cluster: &Cluster| -> u64 {
        let of = |node| cluster.counters(node).expect("the node answers").sum;
        let dropped = |node| of(node).get("drop_tcp_no_flow").copied().unwrap_or(0);
        cluster.living().into_iter().map(dropped).sum()
    };
    let before = strangers(&cluster);
    for mut stream in lost {
        assert!(
            !echoes(&mut stream, Duration::from_millis(700)),
            "{stream:?} lives"
        );
    }
    assert!(strangers(&cluster) > before, "nobody dropped anything");
    let mut fresh = connect(&cluster).expect("new ones get through");
    assert!(echoes(&mut fresh, LIMIT));
}
