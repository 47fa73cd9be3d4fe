//! The TFTP agent on its corpus, and on mutations of it (`corpus` says how to run longer).

use std::path::Path;

use agent::{Flow, Packet, Protocol};
use agent_tftp::tftp::Tftp;
use wire::build;

const ITERATIONS: u64 = 20_000;

/// One datagram to the server: a request has one answer expected, from the server to who asked, and all else nothing.
#[test]
fn requests() {
    let flow = Flow {
        proto: 17,
        src: "10.1.0.10".parse().unwrap(),
        sport: 40000,
        dst: "10.2.0.10".parse().unwrap(),
        dport: 69,
    };
    let mut expected = 0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/requests");
    corpus::run(&folder, ITERATIONS, |input| {
        let input = &input[..input.len().min(1400)];
        let (client, server) = ((flow.src, flow.sport).into(), (flow.dst, flow.dport).into());
        let packet = Packet {
            id: 1,
            flow,
            from_opener: true,
            frame: build::udp(client, server, input),
        };
        let announced = Tftp.announces(&packet);
        assert!(announced.refused.is_empty());
        if agent_tftp::request::request(input).is_some() {
            assert!(matches!(input, [0, 1 | 2, ..]) && input.ends_with(&[0]));
            let [expectation] = &announced.expect[..] else {
                panic!("{announced:?}");
            };
            assert_eq!(
                (expectation.src, expectation.dst),
                (Some(flow.dst), flow.src)
            );
            assert_eq!(expectation.dport, flow.sport);
            expected += 1;
        } else {
            assert!(announced.expect.is_empty());
        }
    });
    assert!(expected > 1000, "{expected}: the mutations reach nothing");
}
