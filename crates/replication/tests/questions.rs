//! Questions about single flows: who is asked, who answers, and what is lost on the way.

mod net;

use std::sync::Arc;

use membership::{Distribution, View};
use net::{Net, key, node, view};
use replication::Options;

const TICKS_TO_RETRY: usize = 3;
const TICKS_TO_DEADLINE: usize = 10;

fn ecmp(options: &mut Options) {
    options.distribution = Distribution::Ecmp;
    options.ask_retry_us = TICKS_TO_RETRY as u64 * 1000;
    options.ask_deadline_us = TICKS_TO_DEADLINE as u64 * 1000;
}

/// Node 0 owns everything and has the target 1; node 2 handles packets.
fn seen(epoch: u64, owner: u8, targets: &[&[u8]]) -> Arc<View> {
    view(epoch, &[1, 1, 1], &[], move |_| Some(owner), targets)
}

/// Three nodes of two workers, all connected, and a flow that the owner and its target know.
fn rig() -> Net {
    let mut net = Net::new(&[2, 2, 2], 11, ecmp);
    net.connect_all();
    net.set_views(&seen(1, 0, &[&[1], &[0], &[]]));
    net.packet(0, key(1));
    net.settle();
    net
}

/// What node 2's workers were answered, in order of their tokens: who knows the flow.
fn answers(net: &Net) -> Vec<(u64, Option<u8>)> {
    let workers = net.nodes[2].workers.iter();
    let mut all: Vec<_> = workers
        .flat_map(|worker| &worker.answers)
        .map(|(token, found)| (*token, found.map(|(peer, _, _)| peer.raw())))
        .collect();
    all.sort_unstable();
    all
}

/// Everything moves but what is stalled, and time passes.
fn run(net: &mut Net, ticks: usize) {
    for _ in 0..ticks {
        while net.step() {}
        net.tick();
    }
    while net.step() {}
}

#[test]
fn the_owner_answers_with_what_it_knows_and_tells_on_what_happens_then() {
    let mut net = rig();
    net.ask(2, 7, key(1));
    net.ask(2, 8, key(3));
    while net.step() {}
    assert_eq!(answers(&net), [(7, Some(0)), (8, None)]);
    let (_, found) = net.worker(2, &key(1)).answers[0];
    let (_, record, idle_s) = found.unwrap();
    assert_eq!(Some(&record), net.worker(0, &key(1)).table.get(&key(1)));
    assert_eq!(idle_s, 5);
    // Who asked handles the flow from then on, and is told of its changes though it is no target.
    let changed = net.packet(0, key(1));
    net.settle();
    assert!(net.has(2, 1, &changed));
    let counters = net.status(2).counters;
    assert_eq!(
        (counters.questions_asked, counters.questions_answered),
        (2, 2)
    );
}

/// A silent owner costs a part of the deadline: then its target answers, also that there is none.
#[test]
fn when_the_owner_is_silent_its_targets_answer() {
    let mut net = rig();
    net.conns.get_mut(&(2, 0)).unwrap().stalled = true;
    net.ask(2, 7, key(1));
    net.ask(2, 8, key(3));
    run(&mut net, TICKS_TO_RETRY - 1);
    assert_eq!(answers(&net), [], "the owner is given its time");
    run(&mut net, 3);
    assert_eq!(answers(&net), [(7, Some(1)), (8, None)]);
    // What the owner says late is of no question any more.
    net.conns.get_mut(&(2, 0)).unwrap().stalled = false;
    run(&mut net, 1);
    assert_eq!(answers(&net).len(), 2);
    assert_eq!(net.nodes[2].closes, []);
}

/// A lost question is asked again, of who is there: at once of the target, and of the owner when its
/// next connection stands.
#[test]
fn a_question_that_a_broken_connection_carried_is_asked_again() {
    let mut net = rig();
    net.conns.get_mut(&(2, 0)).unwrap().stalled = true;
    net.conns.get_mut(&(2, 1)).unwrap().stalled = true;
    net.ask(2, 7, key(1));
    run(&mut net, 1);
    net.disconnect(2, 0);
    net.disconnect(2, 1);
    run(&mut net, TICKS_TO_RETRY);
    assert_eq!(answers(&net), []);
    net.connect(2, 0);
    run(&mut net, TICKS_TO_RETRY + 1);
    assert_eq!(answers(&net), [(7, Some(0))]);
}

/// With nobody to ask, the worker's deadline decides, and the question is forgotten.
#[test]
fn what_nobody_answers_is_forgotten_after_its_deadline() {
    let mut net = rig();
    net.conns.get_mut(&(2, 0)).unwrap().stalled = true;
    net.conns.get_mut(&(2, 1)).unwrap().stalled = true;
    net.ask(2, 7, key(1));
    run(&mut net, TICKS_TO_DEADLINE - 1);
    assert_eq!(net.status(2).counters.questions_unanswered, 0);
    run(&mut net, TICKS_TO_RETRY + 1);
    assert_eq!(net.status(2).counters.questions_unanswered, 1);
    net.conns.get_mut(&(2, 0)).unwrap().stalled = false;
    run(&mut net, 2);
    assert_eq!(answers(&net), []);
}

/// The owner dies before it answers: its heir is asked, and who inherits the slot itself knows what
/// there is to know.
#[test]
fn a_new_owner_is_asked_and_an_heir_answers_itself() {
    for heir in [1, 2] {
        let mut net = rig();
        net.conns.get_mut(&(2, 0)).unwrap().stalled = true;
        net.ask(2, 7, key(1));
        run(&mut net, 1);
        net.set_view(2, &seen(2, heir, &[&[], &[2], &[1]]));
        while net.step() {}
        let expected = if heir == 2 { None } else { Some(1) };
        assert_eq!(answers(&net), [(7, expected)]);
    }
}

/// A worker that has given up asks again: its new token is answered, once.
#[test]
fn the_last_token_of_a_key_counts() {
    let mut net = rig();
    net.ask(2, 7, key(1));
    net.ask(2, 9, key(1));
    net.settle();
    assert_eq!(answers(&net), [(9, Some(0))]);
    assert!(net.nodes[0].replicator.counters().worker_faults == 0 && net.status(0).whole);
    assert_eq!(net.nodes[2].view.as_ref().unwrap().others(node(2)).len(), 2);
}
