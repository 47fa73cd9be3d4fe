//! Usual packets of flows that go on take a way of their own: whatever comes, what leaves, what is counted,
//! what is told and what is known afterwards are as if all had taken the long way.

mod common;

use common::*;
use engine::{AtDeadline, Hold};
use policy::SyncPolicy;
use proptest::prelude::*;
use replication::ToWorker;
use state::SLOTS;
use wire::build;
use wire::tcp::{ACK, FIN, PSH, RST, SYN};

/// What happens.
#[derive(Clone, Debug)]
enum Op {
    /// Packets arrive on one port, in one burst.
    Burst(usize, Vec<Packet>),
    /// What was told is acknowledged.
    Acknowledge,
    /// Time passes, in milliseconds.
    Wait(u64),
    /// A view in which the node owns all slots but those of every `n`th number.
    View(u16),
    /// Rules of a later generation; without the first rule, or with all.
    Rules(bool),
    /// The view runs out, or not.
    Stale(bool),
    /// The peer tells of one of the flows that are known: the same, or a later one with its ports.
    Told(usize, bool),
}

#[derive(Clone, Debug)]
struct Packet {
    v6: bool,
    tcp: bool,
    /// Which of the clients' ports.
    flow: u16,
    flags: u8,
    seq: u32,
    ack: u32,
    len: usize,
    /// An octet to be changed, and how: mostly none.
    damage: Option<(usize, u8)>,
    ttl: u8,
    padded: bool,
}

fn packet() -> impl Strategy<Value = Packet> {
    let flags = prop_oneof![
        6 => Just(ACK),
        2 => Just(ACK | PSH),
        2 => Just(SYN),
        2 => Just(SYN | ACK),
        1 => Just(FIN | ACK),
        1 => Just(RST | ACK),
        1 => any::<u8>(),
    ];
    (
        (any::<bool>(), any::<bool>(), 0u16..3, flags),
        (0u32..60, 0u32..60, 0usize..60),
        proptest::option::weighted(0.05, (0usize..60, any::<u8>())),
        prop_oneof![9 => Just(64u8), 1 => 0u8..3],
        any::<bool>(),
    )
        .prop_map(
            |((v6, tcp, flow, flags), (seq, ack, len), damage, ttl, padded)| Packet {
                v6,
                tcp,
                flow,
                flags,
                seq,
                ack,
                len,
                damage,
                ttl,
                padded,
            },
        )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0usize..2, prop::collection::vec(packet(), 1..8)).prop_map(|(port, packets)| Op::Burst(port, packets)),
        4 => Just(Op::Acknowledge),
        2 => (1u64..3_000).prop_map(Op::Wait),
        1 => (1u16..5).prop_map(Op::View),
        1 => any::<bool>().prop_map(Op::Rules),
        1 => any::<bool>().prop_map(Op::Stale),
        1 => (0usize..8, any::<bool>()).prop_map(|(which, later)| Op::Told(which, later)),
    ]
}

impl Packet {
    fn frame(&self, port: usize) -> Vec<u8> {
        let ends = match self.v6 {
            true => ("[fd00:1::10]", "[fd00:2::10]"),
            false => ("10.1.0.10", "10.2.0.10"),
        };
        let server_port = match (self.tcp, self.flow) {
            (true, _) => 80,
            (false, 2) => 7000,
            (false, _) => 9000,
        };
        let client = at(&format!("{}:{}", ends.0, 1000 + self.flow));
        let server = at(&format!("{}:{server_port}", ends.1));
        let (from, to) = if port == INSIDE {
            (client, server)
        } else {
            (server, client)
        };
        let data = vec![7; self.len];
        let frame = match self.tcp {
            true => build::tcp(
                from,
                to,
                self.flags,
                1_000 + self.seq,
                1_000 + self.ack,
                &data,
            ),
            false => build::udp(from, to, &data),
        };
        let mut frame = build::with_ttl(frame, self.ttl);
        if self.padded {
            frame = build::padded(frame);
        }
        if let Some((at, octet)) = self.damage {
            let len = frame.len();
            frame[14 + at % (len - 14)] ^= octet;
        }
        frame
    }
}

/// All that can be seen of a worker from outside.
fn state_of(rig: &mut Rig) -> String {
    let mut all = String::new();
    for port in [INSIDE, OUTSIDE] {
        all += &format!("{:02x?}\n", rig.sent(port));
    }
    let table = rig.worker.table();
    for id in (0..table.capacity()).filter_map(|place| table.at(place)) {
        let entry = table.entry(id);
        all += &format!("{:?} {:?}\n", entry.record, entry.local);
    }
    all + &format!("{:?} held {}", rig.values(), rig.worker.held())
}

fn happen(rig: &mut Rig, op: &Op, number: u32) -> String {
    let mut told = vec![];
    match op {
        Op::Burst(port, packets) => {
            for packet in packets {
                rig.put(*port, packet.frame(*port));
            }
        }
        Op::Acknowledge => told = rig.acknowledge(),
        Op::Wait(ms) => {
            // Not so long at once that it would count as having stood still.
            for _ in 0..ms.div_ceil(10) {
                rig.advance(10_000);
            }
        }
        Op::View(n) => {
            let owns = |slot: state::Slot| (slot.index() as u16 % 5 != *n).then_some(ME);
            rig.publish(view(u64::from(number) + 2, owns, &[PEER]));
        }
        Op::Rules(all) => {
            let mut keep = rig.rules();
            if !all {
                keep.remove(0);
            }
            let policy = engine::Policy::new(&rules(number + 2, keep));
            rig.node.policy.publish(policy.into());
        }
        Op::Stale(stale) => {
            let until_us = if *stale { 0 } else { u64::MAX };
            let valid = &rig.node.view_valid_until_us;
            valid.store(until_us, std::sync::atomic::Ordering::Relaxed);
        }
        Op::Told(which, later) => {
            let table = rig.worker.table();
            let known = (0..table.capacity()).filter_map(|place| table.at(place));
            let records: Vec<_> = known.map(|id| table.entry(id).record).collect();
            if let Some(mut record) = records.get(*which).copied() {
                record.incarnation += u64::from(*later);
                record.tcp[0].end += 5;
                let told = ToWorker::Apply {
                    token: 1,
                    peer: node(PEER),
                    records: vec![(record, 0)],
                };
                rig.to_worker.push(told).unwrap();
            }
        }
    }
    rig.turn();
    format!("{told:?}\n{}", state_of(rig))
}

/// Two connections are established, and two flows of UDP have been answered.
fn begin(rig: &mut Rig) {
    for flow in 0..2 {
        for (tcp, flags, port) in [
            (false, 0, INSIDE),
            (false, 0, OUTSIDE),
            (true, SYN, INSIDE),
            (true, SYN | ACK, OUTSIDE),
            (true, ACK, INSIDE),
        ] {
            let packet = Packet {
                v6: false,
                tcp,
                flow,
                flags,
                seq: u32::from(flags == ACK),
                ack: u32::from(flags & ACK != 0),
                len: 0,
                damage: None,
                ttl: 64,
                padded: true,
            };
            rig.put(port, packet.frame(port));
            rig.turn();
            rig.acknowledge();
            rig.turn();
        }
    }
    // Long enough ago that it does not count as having come with the view.
    rig.run_ms(3_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_short_way_does_what_the_long_way_does(
        ops in prop::collection::vec(op(), 1..40),
        cluster: bool,
    ) {
        const { assert!(SLOTS > 5) };
        let setup = || Setup {
            cluster,
            mtu_outside: 75,
            rules: vec![
                allow("web", &["tcp/80"], SyncPolicy::Ack),
                allow("held", &["udp/9000"], SyncPolicy::Ack),
                allow("slow", &["udp/7000"], SyncPolicy::Delayed(2_000)),
            ],
            hold: Hold {
                at_deadline: AtDeadline::Release,
                ..Setup::default().hold
            },
            ..Setup::default()
        };
        let (mut short, mut long) = (Rig::new(setup()), Rig::new(setup()));
        long.worker.take_the_long_way();
        for rig in [&mut short, &mut long] {
            begin(rig);
        }
        for (number, op) in ops.iter().enumerate() {
            let (a, b) = (
                happen(&mut short, op, number as u32),
                happen(&mut long, op, number as u32),
            );
            prop_assert_eq!(a, b, "after {:?}", op);
        }
    }
}
