//! What is said over the socket, from corpora and from mutations of them (`corpus` says how to run longer): it is read or
//! refused, the same in whatever pieces it comes, and what is read is written again as what was meant.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use agent::frame::{self, Decoder, FrameError, LEN_MAX, Message};
use agent::{
    Done, Expectation, Flow, FlowState, PROTOCOL_VERSION, Packet, Request, ToAgent, ToDaemon,
};

const ITERATIONS: u64 = 20_000;

fn folder(target: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    tests.join("corpus").join(target)
}

#[test]
fn to_daemon() {
    play::<ToDaemon>("to_daemon", &said());
}

#[test]
fn to_agent() {
    play::<ToAgent>("to_agent", &told());
}

fn play<M: Message + Debug + PartialEq>(target: &str, seeds: &[(&str, Vec<M>)]) {
    // The seeds are of this version: else nothing but refusals would be tried.
    for (name, messages) in seeds {
        let path = folder(target).join(name);
        if std::env::var_os("RAVELIN_WRITE_CORPUS").is_some() {
            std::fs::write(&path, encode(messages)).expect("written");
        }
        let bytes = std::fs::read(path).expect("committed");
        let (read, end) = read::<M>(&bytes);
        assert!(
            read == *messages && matches!(end, FrameError::Closed),
            "{name}: {WRITE}"
        );
    }
    let (mut good, mut bad) = (0, 0);
    corpus::run(&folder(target), ITERATIONS, |input| {
        let (messages, end) = read::<M>(input);
        for piece in [1, 50] {
            let (in_pieces, its_end) = decode(input, piece);
            assert_eq!(messages, in_pieces, "in pieces of {piece}");
            assert_eq!(format!("{end}"), format!("{its_end}"));
        }
        for message in &messages {
            // What was read is no more than what came: nothing in it is counted twice.
            let again = frame::encode(message).expect("as long as it was, or shorter");
            assert!(
                again.len() <= input.len() + 64,
                "{} of {}",
                again.len(),
                input.len()
            );
            let (same, end) = read::<M>(&again);
            assert!(same.len() == 1 && same[0] == *message && matches!(end, FrameError::Closed));
        }
        good += messages.len();
        bad += usize::from(!matches!(end, FrameError::Closed));
    });
    assert!(
        good > 1000 && bad > 1000,
        "{good} and {bad}: the mutations reach little"
    );
}

/// What a blocking reader has of the bytes, and how that ends.
fn read<M: Message>(mut bytes: &[u8]) -> (Vec<M>, FrameError) {
    let mut messages = vec![];
    loop {
        match frame::read(&mut bytes, LEN_MAX) {
            Ok(message) => messages.push(message),
            Err(error) => return (messages, plain(error)),
        }
    }
}

/// The same of one that takes them in pieces.
fn decode<M: Message>(bytes: &[u8], piece: usize) -> (Vec<M>, FrameError) {
    let (mut messages, mut decoder) = (vec![], Decoder::default());
    for piece in bytes.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.message(LEN_MAX) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, error),
            }
        }
    }
    (messages, plain(decoder.end()))
}

/// An end within a message has another text wherever it was met.
fn plain(error: FrameError) -> FrameError {
    match error {
        FrameError::Io(error) => FrameError::Io(error.kind().into()),
        error => error,
    }
}

const WRITE: &str = "the corpus is of another version: `RAVELIN_WRITE_CORPUS=1 cargo test --profile ci -p agent --test corpus` \
                     writes it anew";

fn encode<M: Message>(messages: &[M]) -> Vec<u8> {
    let encoded = messages.iter().map(|m| frame::encode(m).expect("short"));
    encoded.flatten().collect()
}

fn flow() -> Flow {
    Flow {
        proto: 6,
        src: "10.1.0.10".parse().unwrap(),
        sport: 40000,
        dst: "10.2.0.10".parse().unwrap(),
        dport: 21,
    }
}

fn said() -> Vec<(&'static str, Vec<ToDaemon>)> {
    let expectation = Expectation {
        parent: flow(),
        from_opener: true,
        proto: 6,
        src: Some(flow().src),
        dst: "fd00:2::10".parse().unwrap(),
        dport: 50000,
        mark: 7,
        once: true,
        for_ms: 60_000,
    };
    let requests = [
        Request::Expect(expectation.clone()),
        Request::Expect(Expectation {
            src: None,
            dst: flow().dst,
            ..expectation
        }),
        Request::Mark {
            flow: flow(),
            value: 7,
        },
        Request::Timeout {
            flow: flow(),
            seconds: 3600,
        },
        Request::SynchroniseAll,
        Request::End { flow: flow() },
        Request::Block {
            source: "192.0.2.7".parse().unwrap(),
            for_ms: 60_000,
            note: "a bounce to another host".into(),
        },
        Request::Synchronise {
            flow: flow(),
            hold: true,
        },
        Request::Ask { flow: flow() },
        Request::Watch {
            flow: flow(),
            on: true,
        },
    ];
    let ask = |(token, request): (u64, &Request)| ToDaemon::Ask {
        token,
        request: request.clone(),
    };
    let hello = ToDaemon::Hello {
        version: PROTOCOL_VERSION,
        name: "ftp".into(),
    };
    let deliver = |id, frame| ToDaemon::Deliver { id, frame };
    vec![
        ("hello", vec![hello]),
        ("deliver", vec![deliver(1, None)]),
        (
            "rewritten",
            vec![deliver(1, Some(b"another frame of the same flow".to_vec()))],
        ),
        ("discard", vec![ToDaemon::Discard { id: 1 }]),
        ("all", (1..).zip(&requests[2..]).map(ask).collect()),
        ("expect", (1..).zip(&requests[..2]).map(ask).collect()),
    ]
}

fn told() -> Vec<(&'static str, Vec<ToAgent>)> {
    let packet = Packet {
        id: 1,
        flow: flow(),
        from_opener: true,
        frame: b"PORT 10,1,0,10,4,1\r\n".repeat(4),
    };
    let state = FlowState {
        flow: flow(),
        rule: 77,
        mark: 7,
        timeout_s: 3600,
        replied: true,
    };
    let answer = |token, outcome| ToAgent::Answer { token, outcome };
    let lacking = ["n2", "a node whose name is longer", "n3"].map(str::to_owned);
    vec![
        (
            "welcome",
            vec![ToAgent::Welcome {
                version: PROTOCOL_VERSION,
            }],
        ),
        (
            "refused",
            vec![ToAgent::Refused {
                reason: "there is no agent of this name".into(),
            }],
        ),
        ("packet", vec![ToAgent::Packet(packet)]),
        (
            "answers",
            vec![
                answer(1, Ok(Done::Complete)),
                answer(2, Ok(Done::Flow(state))),
                answer(3, Err("no such flow".into())),
            ],
        ),
        (
            "lacking",
            vec![answer(4, Ok(Done::Lacking(lacking.to_vec())))],
        ),
        (
            "synchronised",
            vec![ToAgent::Synchronised {
                token: 5,
                protected: true,
            }],
        ),
    ]
}
