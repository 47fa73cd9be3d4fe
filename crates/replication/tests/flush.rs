//! When a final synchronisation is complete.

mod net;

use net::{Net, key, view};
use replication::HoldAcks;

/// Node 0 replicates to nodes 1 and 2; packets go when one of them has them.
fn three() -> Net {
    let mut net = Net::new(&[1, 1, 1], 3, |options| {
        options.hold_acks = HoldAcks::Count(1)
    });
    net.connect_all();
    net.set_views(&view(1, &[1; 3], &[], |_| Some(0), &[&[1, 2]]));
    net.settle();
    net
}

#[test]
fn every_target_must_have_the_changes_even_if_packets_go_before() {
    let mut net = three();
    let flushed = |net: &Net, lsn| net.nodes[0].replicator.has_flushed(&[lsn]);
    assert!(flushed(&net, 0));
    assert!(!flushed(&net, 1), "the worker's change has not come yet");
    net.disconnect(0, 2);
    for n in 0..10 {
        net.packet(0, key(n));
    }
    net.settle();
    assert_eq!((net.held(0), net.flows(1), net.flows(2)), (0, 10, 0));
    assert!(!flushed(&net, 10));
    net.connect(0, 2);
    net.settle();
    assert_eq!(net.flows(2), 10);
    assert!(flushed(&net, 10));
    assert!(!flushed(&net, 11));
}

/// A target that got only a part of the slots that this node has adopted is no heir of them.
#[test]
fn adopted_slots_belong_to_it() {
    let mut net = Net::new(&[1, 1, 1], 5, |_| ());
    net.connect_all();
    // Node 2 owns, with node 0 alone as backup; it dies, and node 0 has node 1.
    net.set_views(&view(1, &[1; 3], &[], |_| Some(2), &[&[1], &[], &[0]]));
    net.settle();
    for n in 0..20 {
        net.packet(2, key(n));
    }
    net.settle();
    assert_eq!((net.flows(0), net.flows(1)), (20, 0));
    for other in [0, 1] {
        net.disconnect(2, other);
    }
    let after = view(2, &[1, 1, 0], &[], |_| Some(0), &[&[1], &[], &[]]);
    net.set_view(0, &after);
    net.set_view(1, &after);
    assert!(!net.nodes[0].replicator.has_flushed(&[0]));
    net.settle();
    assert_eq!(net.flows(1), 20);
    let lsn = net.status(0).counters.changes;
    assert!(net.nodes[0].replicator.has_flushed(&[lsn]));
}

/// Without anybody to wait for, it is complete with the last change.
#[test]
fn a_node_alone_has_nobody_to_wait_for() {
    let mut net = three();
    net.set_view(0, &view(2, &[1, 0, 0], &[], |_| Some(0), &[&[]]));
    net.packet(0, key(1));
    assert!(!net.nodes[0].replicator.has_flushed(&[2]));
    net.settle();
    assert!(net.nodes[0].replicator.has_flushed(&[1]));
}
