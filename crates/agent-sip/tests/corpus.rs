//! The SIP agent on its corpus, and on mutations of it (`corpus` says how to run longer).

use std::path::Path;

use agent::{Flow, Packet, Protocol};
use agent_sip::sip::Sip;
use wire::build;

const ITERATIONS: u64 = 20_000;
/// Ports that one message may have expected.
const PORTS_MAX: usize = 32;

/// Calls: messages of both ends, each a byte whose lowest bit says that the opener has sent it, a length of two bytes,
/// and so many bytes. Whatever they say, what is expected is the speaker's and no service's.
#[test]
fn calls() {
    let mut expected = 0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/calls");
    corpus::run(&folder, ITERATIONS, |mut input| {
        let mut sip = Sip::default();
        let mut id = 0;
        while let Some(([side, low, high], rest)) = input.split_first_chunk::<3>() {
            let len = usize::from(u16::from_le_bytes([*low, *high]));
            // Longer than a packet of this network, or than what is left: all that there is.
            let len = len.min(rest.len()).min(1400);
            let message;
            (message, input) = rest.split_at(len);
            id += 1;
            let packet = packet(id, side & 1 == 1, message);
            let announced = sip.announces(&packet);
            assert!(announced.expect.len() <= PORTS_MAX);
            let (speaker, other) = match packet.from_opener {
                true => (packet.flow.src, packet.flow.dst),
                false => (packet.flow.dst, packet.flow.src),
            };
            for expectation in announced.expect {
                assert_eq!((expectation.dst, expectation.src), (speaker, Some(other)));
                assert_eq!((expectation.parent, expectation.proto), (packet.flow, 17));
                assert!(expectation.dport >= 1024 && expectation.once);
                expected += 1;
            }
        }
    });
    assert!(expected > 1000, "{expected}: the mutations reach nothing");
}

fn packet(id: u64, from_opener: bool, message: &[u8]) -> Packet {
    let flow = Flow {
        proto: 17,
        src: "10.1.0.10".parse().unwrap(),
        sport: 5060,
        dst: "10.2.0.10".parse().unwrap(),
        dport: 5060,
    };
    let (client, server) = ((flow.src, flow.sport).into(), (flow.dst, flow.dport).into());
    let frame = match from_opener {
        true => build::udp(client, server, message),
        false => build::udp(server, client, message),
    };
    Packet {
        id,
        flow,
        from_opener,
        frame,
    }
}
