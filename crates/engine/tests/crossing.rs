//! Two workers of one node: packets that arrive at the wrong one cross over, neighbours are
//! learned by both.

mod common;

use common::*;
use policy::SyncPolicy;
use state::{FlowKey, PROTO_UDP, slot_of, worker_of};
use wire::build;

/// A source port whose flow to this server belongs to a worker.
fn port_of(worker: usize, server: &str) -> u16 {
    let address = |text: &str| wire::addr_from_ip(ip(text));
    (1000..2000)
        .find(|port| {
            let (key, _) = FlowKey::new(
                address("10.1.0.10"),
                address(server),
                *port,
                9000,
                PROTO_UDP,
            );
            worker_of(slot_of(&key), 2) == worker
        })
        .expect("a thousand ports meet both workers")
}

fn pair() -> [Rig; 2] {
    let setup = |worker| Setup {
        cluster: false,
        worker,
        workers: 2,
        rules: vec![allow("any", &["udp/*"], SyncPolicy::None)],
        ..Setup::default()
    };
    Rig::pair(setup(0), setup(1))
}

#[test]
fn a_packet_crosses_to_its_flows_worker_and_back_out_of_any_port() {
    let [mut first, mut second] = pair();
    for worker in [0, 1] {
        let from = format!("10.1.0.10:{}", port_of(worker, "10.2.0.10"));
        first.put(INSIDE, build::udp(at(&from), at("10.2.0.10:9000"), b"x"));
    }
    first.turn();
    first.moved(&[
        ("rx_packets", 2),
        ("tx_packets", 1),
        ("forwarded", 1),
        ("flow_opened", 1),
        ("crossed", 1),
    ]);
    second.turn();
    second.moved(&[("tx_packets", 1), ("forwarded", 1), ("flow_opened", 1)]);
    assert_eq!(
        (first.sent(OUTSIDE).len(), second.sent(OUTSIDE).len()),
        (1, 1)
    );
    assert_eq!(
        (first.worker.table().len(), second.worker.table().len()),
        (1, 1)
    );
    // The reply arrives at the other worker and finds its flow.
    let to = format!("10.1.0.10:{}", port_of(1, "10.2.0.10"));
    first.put(OUTSIDE, build::udp(at("10.2.0.10:9000"), at(&to), b"y"));
    first.turn();
    second.turn();
    assert_eq!(second.sent(INSIDE).len(), 1);
    assert_eq!(second.worker.table().len(), 1);
}

#[test]
fn what_one_worker_learns_of_a_neighbour_the_other_knows() {
    let [mut first, mut second] = pair();
    let reply = wire::arp::Repr {
        operation: wire::arp::Operation::Reply,
        sender_mac: SERVER,
        sender_ip: "10.2.0.77".parse().unwrap(),
        target_mac: GATEWAY[OUTSIDE],
        target_ip: "10.2.0.1".parse().unwrap(),
    };
    let from = format!("10.1.0.10:{}", port_of(1, "10.2.0.77"));
    second.put(INSIDE, build::udp(at(&from), at("10.2.0.77:9000"), b"x"));
    second.turn();
    assert_eq!(second.sent(OUTSIDE).len(), 1, "it asks");
    first.put(OUTSIDE, build::arp(&reply));
    first.turn();
    // The answer came to the first worker, which had not asked.
    second.turn();
    assert_eq!(second.sent(OUTSIDE).len(), 1, "it sends");
}
