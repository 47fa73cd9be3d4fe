//! Messages over the socket: what is written is read, and what is not a message is an error.

use std::net::IpAddr;

use agent::frame::{self, FrameError, LEN_MAX};
use agent::{Done, Expectation, Flow, FlowState, Packet, Request, ToAgent, ToDaemon};
use proptest::prelude::*;

fn flow() -> impl Strategy<Value = Flow> {
    let ends = (any::<IpAddr>(), any::<u16>(), any::<IpAddr>(), any::<u16>());
    (any::<u8>(), ends).prop_map(|(proto, (src, sport, dst, dport))| Flow {
        proto,
        src,
        sport,
        dst,
        dport,
    })
}

fn expectation() -> impl Strategy<Value = Expectation> {
    let numbers = (any::<u8>(), any::<u16>(), any::<u32>(), any::<u64>());
    let ends = (any::<Option<IpAddr>>(), any::<IpAddr>());
    (flow(), numbers, ends, any::<(bool, bool)>()).prop_map(
        |(parent, (proto, dport, mark, for_ms), (src, dst), (from_opener, once))| Expectation {
            parent,
            from_opener,
            proto,
            src,
            dst,
            dport,
            mark,
            once,
            for_ms,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        expectation().prop_map(Request::Expect),
        (flow(), any::<u32>()).prop_map(|(flow, value)| Request::Mark { flow, value }),
        (flow(), any::<u16>()).prop_map(|(flow, seconds)| Request::Timeout { flow, seconds }),
        Just(Request::SynchroniseAll),
        flow().prop_map(|flow| Request::End { flow }),
        (any::<IpAddr>(), any::<u64>(), any::<String>()).prop_map(|(source, for_ms, note)| {
            Request::Block {
                source,
                for_ms,
                note,
            }
        }),
        (flow(), any::<bool>()).prop_map(|(flow, hold)| Request::Synchronise { flow, hold }),
        flow().prop_map(|flow| Request::Ask { flow }),
        (flow(), any::<bool>()).prop_map(|(flow, on)| Request::Watch { flow, on }),
    ]
}

fn to_daemon() -> impl Strategy<Value = ToDaemon> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..2000);
    prop_oneof![
        (any::<u32>(), any::<String>())
            .prop_map(|(version, name)| ToDaemon::Hello { version, name }),
        (any::<u64>(), prop::option::of(bytes()))
            .prop_map(|(id, frame)| ToDaemon::Deliver { id, frame }),
        any::<u64>().prop_map(|id| ToDaemon::Discard { id }),
        (any::<u64>(), request()).prop_map(|(token, request)| ToDaemon::Ask { token, request }),
    ]
}

fn to_agent() -> impl Strategy<Value = ToAgent> {
    let packet = (
        any::<u64>(),
        flow(),
        any::<bool>(),
        prop::collection::vec(any::<u8>(), 0..2000),
    );
    let state = (flow(), any::<[u32; 2]>(), any::<u16>(), any::<bool>()).prop_map(
        |(flow, [rule, mark], timeout_s, replied)| FlowState {
            flow,
            rule,
            mark,
            timeout_s,
            replied,
        },
    );
    let done = prop_oneof![
        Just(Done::Complete),
        any::<Vec<String>>().prop_map(Done::Lacking),
        state.prop_map(Done::Flow),
    ];
    let outcome = prop_oneof![done.prop_map(Ok), any::<String>().prop_map(Err)];
    prop_oneof![
        any::<u32>().prop_map(|version| ToAgent::Welcome { version }),
        any::<String>().prop_map(|reason| ToAgent::Refused { reason }),
        packet.prop_map(|(id, flow, from_opener, frame)| ToAgent::Packet(Packet {
            id,
            flow,
            from_opener,
            frame
        })),
        (any::<u64>(), outcome).prop_map(|(token, outcome)| ToAgent::Answer { token, outcome }),
        (any::<u64>(), any::<bool>())
            .prop_map(|(token, protected)| ToAgent::Synchronised { token, protected }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(sent in prop::collection::vec(to_daemon(), 1..4), told in to_agent()) {
        let mut bytes = Vec::new();
        for message in &sent {
            frame::write(&mut bytes, message).unwrap();
        }
        let mut rest = &bytes[..];
        for message in &sent {
            prop_assert_eq!(&frame::read::<ToDaemon>(&mut rest, LEN_MAX).unwrap(), message);
        }
        prop_assert!(matches!(frame::read::<ToDaemon>(&mut rest, LEN_MAX), Err(FrameError::Closed)));
        let bytes = frame::encode(&told).unwrap();
        prop_assert_eq!(frame::read::<ToAgent>(&mut &bytes[..], LEN_MAX).unwrap(), told);
    }

    #[test]
    fn a_message_that_is_cut_is_an_error(message in to_daemon(), cut in any::<prop::sample::Index>()) {
        let bytes = frame::encode(&message).unwrap();
        let cut = cut.index(bytes.len());
        let read = frame::read::<ToDaemon>(&mut &bytes[..cut], LEN_MAX);
        prop_assert!(matches!(read, Err(FrameError::Closed | FrameError::Io(_))), "{read:?}");
    }

    /// Anything at all, and a good message in which some bytes are others: an error or a message, never a panic.
    #[test]
    fn garbage_never_panics(
        garbage in prop::collection::vec(any::<u8>(), 0..400),
        message in to_daemon(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut framed = (garbage.len() as u32).to_le_bytes().to_vec();
        framed.extend(&garbage);
        let _ = frame::read::<ToDaemon>(&mut &framed[..], LEN_MAX);
        let _ = frame::read::<ToAgent>(&mut &framed[..], LEN_MAX);
        let _ = frame::read::<ToAgent>(&mut &garbage[..], LEN_MAX);
        let mut bytes = frame::encode(&message).unwrap();
        for (at, with) in flips {
            let at = 4 + at.index(bytes.len() - 4);
            bytes[at] = with;
        }
        let _ = frame::read::<ToDaemon>(&mut &bytes[..], LEN_MAX);
        let _ = frame::read::<ToAgent>(&mut &bytes[..], LEN_MAX);
    }
}

#[test]
fn lengths_have_a_limit_on_both_sides() {
    let long = ToDaemon::Deliver {
        id: 1,
        frame: Some(vec![0; LEN_MAX + 1]),
    };
    assert!(matches!(frame::encode(&long), Err(FrameError::TooLong(_))));
    // Refused by its length alone: nothing of that size is allocated or awaited.
    let claimed = u32::MAX.to_le_bytes();
    let read = frame::read::<ToDaemon>(&mut &claimed[..], LEN_MAX);
    assert!(matches!(read, Err(FrameError::TooLong(n)) if n == u32::MAX as usize));
}
