//! The dispatcher between a worker's rings, played by the test, and agents over real sockets.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use agent::{Client, ClientError, Done, Flow, Request, ToAgent, ToDaemon, frame};
use config::{Config, WhenGone};
use engine::memory::MemoryBuf;
use engine::port::PacketBuf;
use engine::{AgentLink, FlowChange, ForAgent, Instruct, Instruction, NodeShared, Notice, Policy};
use rtrb::RingBuffer;
use state::{Class, CommonKind, Dir, FlowKey, FlowRecord, Life, SyncMode, Verdict};
use telemetry::counters::{Counts, CountsReader};
use wire::build;

use super::dispatch::{AgentCounter, AgentEnds, Dispatcher, Event};
use super::link::{Reception, accept};
use crate::common_requests::Common;

const LIMIT: Duration = Duration::from_secs(10);

/// A dispatcher on a thread of its own, and the worker's side.
pub(crate) struct Rig {
    pub(crate) events: SyncSender<Event>,
    pub(crate) link: AgentLink<MemoryBuf>,
    node: Arc<NodeShared>,
    counts: CountsReader<AgentCounter>,
}

impl Rig {
    pub(crate) fn start(agents: Vec<config::Agent>) -> Self {
        let (instructions, from_us) = RingBuffer::new(64);
        let (to_us, notices) = RingBuffer::new(64);
        let (events, dispatched) = sync_channel(super::EVENTS);
        let config = Config::parse(
            include_str!("../../../../examples/single.toml"),
            "n.toml",
            "",
        );
        let config = config.expect("the example is good");
        let view = crate::daemon::first_view(&config);
        let node = Arc::new(NodeShared::new(view, Policy::new(&config.rules)));
        let ends = AgentEnds {
            instructions,
            notices,
        };
        let counts = Counts::new();
        let reader = counts.reader();
        let mut dispatcher = Dispatcher::new(dispatched, vec![ends], &agents, node.clone(), counts);
        std::thread::spawn(move || {
            loop {
                dispatcher.turn();
            }
        });
        Self {
            events,
            link: AgentLink {
                instructions: from_us,
                notices: to_us,
            },
            node,
            counts: reader,
        }
    }

    /// The next instruction, with its answer given.
    fn carry_out(&mut self) -> Instruction<MemoryBuf> {
        let next = wait(|| self.link.instructions.pop().ok());
        self.answered(next)
    }

    fn answered(&mut self, next: Instruct<MemoryBuf>) -> Instruction<MemoryBuf> {
        let Instruct { token, instruction } = next;
        let outcome = Ok(());
        match instruction {
            Instruction::Ask { .. } => self.notify(Notice::Flow {
                token,
                outcome: Ok(record()),
            }),
            _ => self.notify(Notice::Done { token, outcome }),
        }
        if matches!(
            instruction,
            Instruction::Synchronise { .. } | Instruction::SynchroniseAll
        ) {
            let protected = true;
            self.notify(Notice::Synchronised { token, protected });
        }
        instruction
    }

    fn notify(&mut self, notice: Notice<MemoryBuf>) {
        self.link.notices.push(notice).expect("there is room");
    }

    fn packet(&mut self, data: &[u8]) {
        self.frame(&tcp(data));
    }

    fn frame(&mut self, frame: &[u8]) {
        self.notify(Notice::Packet {
            key: key(),
            agent: Some(0),
            origin: origin(),
            dir: origin(),
            port: 7,
            buf: MemoryBuf::new(frame),
        });
    }

    fn count(&self, counter: AgentCounter) -> u64 {
        self.counts.value(counter)
    }

    /// The payload of the packet that is delivered next.
    fn delivered(&mut self) -> Vec<u8> {
        match self.carry_out() {
            Instruction::Deliver { port: 7, buf } => buf.data()[tcp(b"").len()..].to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

/// A rig with a socket before it.
struct Served {
    rig: Rig,
    common: Arc<Common>,
    dir: tempfile::TempDir,
}

impl Served {
    fn start(when_gone: WhenGone, queue: u32) -> Self {
        let common = Arc::new(crate::common_requests::tests::alone());
        Self::of(when_gone, queue, common)
    }

    fn of(when_gone: WhenGone, queue: u32, common: Arc<Common>) -> Self {
        let agent = config::Agent {
            name: "ftp".into(),
            command: vec![],
            user: None,
            when_gone,
            queue,
        };
        let rig = Rig::start(vec![agent]);
        let dir = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(dir.path().join("s")).expect("bound");
        let reception = Reception {
            names: vec!["ftp".into()],
            queues: vec![queue],
            events: rig.events.clone(),
            common: common.clone(),
        };
        std::thread::spawn(move || accept(&listener, &reception));
        Self { rig, common, dir }
    }

    fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.dir.path().join("s"), "ftp")
    }

    fn raw(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("s")).expect("connects")
    }

    fn is(&self, what: ForAgent) {
        wait(|| (self.rig.node.agents.get(0) == what).then_some(()));
    }
}

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "it does not come about");
        std::thread::yield_now();
    }
}

fn key() -> FlowKey {
    let ends = (
        state::v4_mapped([10, 1, 0, 10]),
        state::v4_mapped([10, 2, 0, 10]),
    );
    FlowKey::new(ends.0, ends.1, 40000, 21, 6).0
}

fn origin() -> Dir {
    let client = state::v4_mapped([10, 1, 0, 10]);
    [Dir::AToB, Dir::BToA]
        .into_iter()
        .find(|dir| key().source(*dir).0 == client)
        .expect("an end")
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

fn tcp(data: &[u8]) -> Vec<u8> {
    tcp_at(1, data)
}

fn tcp_at(seq: u32, data: &[u8]) -> Vec<u8> {
    let (from, to) = ("10.1.0.10:40000", "10.2.0.10:21");
    let flags = wire::tcp::ACK | wire::tcp::PSH;
    build::tcp(
        from.parse().unwrap(),
        to.parse().unwrap(),
        flags,
        seq,
        1,
        data,
    )
}

fn record() -> FlowRecord {
    FlowRecord {
        key: key(),
        incarnation: 1,
        class: Class {
            origin: origin(),
            sync: SyncMode::Ack,
            zone_from: 0,
            zone_to: 1,
        },
        life: Life::Alive,
        progress: Default::default(),
        verdict: Verdict {
            generation: 1,
            rule: 77,
        },
        mark: Default::default(),
        tcp: Default::default(),
        nat: None,
    }
}

fn given(client: &mut Client) -> agent::Packet {
    match client.receive().expect("a message") {
        ToAgent::Packet(packet) => packet,
        other => panic!("{other:?}"),
    }
}

#[test]
fn packets_go_to_their_agent_and_come_back_as_it_says() {
    let mut served = Served::start(WhenGone::Bypass, 8);
    served.is(ForAgent::Pass);
    let mut client = served.connect().expect("taken");
    served.is(ForAgent::Divert);
    for data in [b"one", b"two", b"six"] {
        served.rig.packet(data);
    }
    let packets: Vec<_> = (0..3).map(|_| given(&mut client)).collect();
    assert_eq!((packets[0].flow, packets[0].from_opener), (flow(), true));
    assert_eq!(packets[1].frame, tcp(b"two"));
    client
        .deliver_rewritten(packets[1].id, tcp(b"TWO"))
        .unwrap();
    client.discard(packets[0].id).unwrap();
    client.deliver(packets[2].id).unwrap();
    assert_eq!(served.rig.delivered(), b"TWO");
    assert!(matches!(
        served.rig.carry_out(),
        Instruction::Discard { .. }
    ));
    assert_eq!(served.rig.delivered(), b"six");
    wait(|| (served.rig.count(AgentCounter::Delivered) == 2).then_some(()));
    assert_eq!(served.rig.count(AgentCounter::Rewritten), 1);
}

/// Other nodes know of a changed length before its packet leaves, and what comes behind it waits; sent again, the packet
/// must have the length that it had.
#[test]
fn changed_lengths_are_common_state_before_their_packets_leave() {
    let mut served = Served::start(WhenGone::Drop, 8);
    let mut client = served.connect().expect("taken");
    served.rig.frame(&tcp_at(1, b"abc"));
    served.rig.frame(&tcp_at(4, b"def"));
    let [first, second] = [given(&mut client), given(&mut client)];
    client
        .deliver_rewritten(first.id, tcp_at(1, b"abcabc"))
        .unwrap();
    client.deliver(second.id).unwrap();
    assert!(matches!(served.rig.carry_out(), Instruction::Ask { .. }));
    assert_eq!(served.rig.delivered(), b"abcabc");
    let entries = served.common.store.of_kind(CommonKind::SeqShift).unwrap();
    let Some(state::CommonValue::SeqShift(shift)) = &entries[0].value else {
        panic!("{entries:?}");
    };
    assert_eq!((shift.incarnation, shift.side(origin()).sent(4)), (1, 7));
    assert_eq!(served.rig.delivered(), b"def");
    wait(|| (served.rig.count(AgentCounter::Resized) == 1).then_some(()));

    // As the publisher has it.
    let mut map = state::CommonMap::new();
    let [entry] = &entries[..] else {
        panic!("{entries:?}");
    };
    let value = entry.value.clone().expect("it lives");
    map.put(entry.key, value, None, entry.stamp, 0).unwrap();
    let kinds = [CommonKind::SeqShift].into_iter().collect();
    let common = served.rig.node.common.load().rebuild(&map, kinds);
    served.rig.node.common.publish(Arc::new(common));
    for (again, passes) in [
        (None, false),
        (Some(b"abcxyz"), true),
        (Some(b"abc123"), true),
    ] {
        served.rig.frame(&tcp_at(1, b"abc"));
        let id = given(&mut client).id;
        match again {
            Some(data) => client.deliver_rewritten(id, tcp_at(1, data)).unwrap(),
            None => client.deliver(id).unwrap(),
        }
        assert!(matches!(served.rig.carry_out(), Instruction::Ask { .. }));
        let done = served.rig.carry_out();
        assert_eq!(
            matches!(done, Instruction::Deliver { .. }),
            passes,
            "{done:?}"
        );
    }
    wait(|| (served.rig.count(AgentCounter::ResizeRefused) == 1).then_some(()));
    assert_eq!(served.common.store.count(CommonKind::SeqShift), 1);

    // Numbers are the daemon's.
    served.rig.frame(&tcp_at(7, b"ghi"));
    let id = given(&mut client).id;
    client.deliver_rewritten(id, tcp_at(8, b"ghi")).unwrap();
    wait(|| (served.rig.count(AgentCounter::Malformed) == 1).then_some(()));
}

/// What an agent says that it may not say ends its connection and changes nothing.
#[test]
fn nonsense_ends_the_connection_and_the_packets_go_on() {
    let mut served = Served::start(WhenGone::Bypass, 8);
    let stray = build::udp(
        "10.1.0.10:40000".parse().unwrap(),
        "10.2.0.10:21".parse().unwrap(),
        b"x",
    );
    for (n, nonsense) in [
        ToDaemon::Deliver {
            id: 4711,
            frame: None,
        },
        ToDaemon::Hello {
            version: 1,
            name: "ftp".into(),
        },
        ToDaemon::Discard { id: 0 },
    ]
    .iter()
    .map(Some)
    .chain([None])
    .enumerate()
    {
        let mut stream = served.raw();
        let hello = ToDaemon::Hello {
            version: agent::PROTOCOL_VERSION,
            name: "ftp".into(),
        };
        frame::write(&mut stream, &hello).unwrap();
        let read = |stream: &mut _| frame::read::<ToAgent>(stream, frame::LEN_MAX);
        assert!(matches!(read(&mut stream), Ok(ToAgent::Welcome { .. })));
        served.rig.packet(b"kept");
        let Ok(ToAgent::Packet(packet)) = read(&mut stream) else {
            panic!("the packet");
        };
        match nonsense {
            Some(message) => frame::write(&mut stream, message).unwrap(),
            None => {
                let frame = Some(stray.clone());
                let id = packet.id;
                frame::write(&mut stream, &ToDaemon::Deliver { id, frame }).unwrap();
            }
        }
        assert_eq!(served.rig.delivered(), b"kept", "unchanged");
        assert!(read(&mut stream).is_err(), "closed");
        served.is(ForAgent::Pass);
        wait(|| (served.rig.count(AgentCounter::Malformed) == n as u64 + 1).then_some(()));
    }
    // Not even a message.
    let client = served.connect().expect("taken again");
    drop(client);
    served.is(ForAgent::Pass);
    assert_eq!(served.rig.count(AgentCounter::Malformed), 4);
}

/// Whatever an agent says, its packet is handed back once, as it was, unless it has it dropped. What is no message or
/// may not be said ends the connection, and the next agent is taken.
#[test]
fn whatever_is_said_has_its_effect_or_none() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/corpus/to_daemon");
    let mut served = Served::start(WhenGone::Bypass, 8);
    let (mut good, mut bad, mut asked) = (0, 0, 0);
    corpus::run(&folder, 300, |input| {
        let (malformed, asks) = served.hears(input);
        asked += asks;
        let store = &served.common.store;
        let changes = store.count(CommonKind::Block) + store.count(CommonKind::Expectation);
        assert!(changes <= asked, "{changes} changes by {asked} requests");
        match malformed {
            true => bad += 1,
            false => good += 1,
        }
    });
    assert!(good > 20 && bad > 20 && asked > 20, "{good} {bad} {asked}");
}

impl Served {
    /// An agent that has one packet says this and goes. Whether something of it may not be said, and how many requests
    /// were before that.
    fn hears(&mut self, input: &[u8]) -> (bool, u64) {
        let counted = |served: &Self, counter| served.rig.count(counter);
        let malformed_before = counted(self, AgentCounter::Malformed);
        let requests_before = counted(self, AgentCounter::Requests);
        let mut stream = self.raw();
        let (version, name) = (agent::PROTOCOL_VERSION, "ftp".into());
        frame::write(&mut stream, &ToDaemon::Hello { version, name }).unwrap();
        let welcome = frame::read::<ToAgent>(&mut stream, frame::LEN_MAX);
        assert!(
            matches!(welcome, Ok(ToAgent::Welcome { .. })),
            "{welcome:?}"
        );
        self.rig.packet(b"kept");
        let Ok(ToAgent::Packet(packet)) = frame::read(&mut stream, frame::LEN_MAX) else {
            panic!("the packet");
        };

        // The corpus calls it 1.
        let id_of = |id| if id == 1 { packet.id } else { id };
        let (mut rest, mut bytes, mut messages) = (input, vec![], vec![]);
        let end = loop {
            let at = rest;
            let mut message = match frame::read::<ToDaemon>(&mut rest, frame::LEN_MAX) {
                Ok(message) => message,
                Err(end) => {
                    bytes.extend_from_slice(at);
                    break end;
                }
            };
            if let ToDaemon::Deliver { id, .. } | ToDaemon::Discard { id } = &mut message {
                *id = id_of(*id);
            }
            bytes.extend(frame::encode(&message).unwrap());
            messages.push(message);
        };
        // It may have closed the connection before all is written.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);

        let (mut has, mut discards, mut asks) = (true, false, 0);
        let mut malformed = false;
        for message in &messages {
            malformed = match message {
                ToDaemon::Hello { .. } => true,
                // None of the corpus is one of its flow.
                ToDaemon::Deliver { id, frame } => *id != packet.id || !has || frame.is_some(),
                ToDaemon::Discard { id } => *id != packet.id || !has,
                ToDaemon::Ask { .. } => {
                    asks += 1;
                    continue;
                }
            };
            if malformed {
                break;
            }
            has = false;
            discards = matches!(message, ToDaemon::Discard { .. });
        }
        let is_none = matches!(
            end,
            frame::FrameError::Malformed | frame::FrameError::TooLong(_)
        );
        malformed |= is_none;

        let (others, discarded) = self.until_closed(stream);
        self.is(ForAgent::Pass);
        assert_eq!(discarded, discards, "{messages:?} {end:?}");
        // A watched flow is no longer watched at the end.
        assert!(
            others <= 2 * asks,
            "{others} instructions by {asks} requests"
        );
        wait(|| {
            let requests = counted(self, AgentCounter::Requests) - requests_before;
            let refused = counted(self, AgentCounter::Malformed) - malformed_before;
            ((requests, refused) == (asks, u64::from(malformed))).then_some(())
        });
        (malformed, asks)
    }

    /// Carries out what comes until the connection is closed and the packet is back: how many other instructions there
    /// were, and whether it was dropped.
    fn until_closed(&mut self, mut stream: UnixStream) -> (u64, bool) {
        stream.set_nonblocking(true).unwrap();
        let (mut others, mut back, mut closed) = (0, None, false);
        wait(|| {
            while let Ok(next) = self.rig.link.instructions.pop() {
                let (buf, discarded) = match self.rig.answered(next) {
                    Instruction::Deliver { buf, .. } => (buf, false),
                    Instruction::Discard { buf } => (buf, true),
                    _ => {
                        others += 1;
                        continue;
                    }
                };
                assert_eq!(buf.data(), tcp(b"kept"), "unchanged");
                assert!(back.replace(discarded).is_none(), "handed back twice");
            }
            closed |= match stream.read(&mut [0; 4096]) {
                Ok(read) => read == 0,
                Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            };
            (closed && back.is_some()).then_some(())
        });
        (others, back.expect("it is back"))
    }
}

#[test]
fn who_is_not_known_or_there_already_is_refused_with_the_reason() {
    let served = Served::start(WhenGone::Drop, 8);
    served.is(ForAgent::Drop);
    let socket = served.dir.path().join("s");
    let refused = |name: &str| match Client::connect(&socket, name) {
        Err(ClientError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert!(refused("sip").contains("the agents are ftp"));
    let _client = served.connect().expect("taken");
    assert!(refused("ftp").contains("connected already"));
    let mut stream = served.raw();
    let old = ToDaemon::Hello {
        version: 0,
        name: "ftp".into(),
    };
    frame::write(&mut stream, &old).unwrap();
    let Ok(ToAgent::Refused { reason }) = frame::read(&mut stream, frame::LEN_MAX) else {
        panic!("refused");
    };
    assert!(reason.contains("version 0"), "{reason}");
    served.is(ForAgent::Divert);
    wait(|| (served.rig.count(AgentCounter::Refused) == 3).then_some(()));
}

/// A slow agent fills its own queue; what waits for one that is gone is given to the next.
#[test]
fn a_queue_is_bounded_and_held_packets_wait_for_the_next() {
    let mut served = Served::start(WhenGone::Hold, 2);
    served.is(ForAgent::Divert);
    let client = served.connect().expect("taken");
    for data in [b"1", b"2", b"3"] {
        served.rig.packet(data);
    }
    assert!(matches!(
        served.rig.carry_out(),
        Instruction::Discard { .. }
    ));
    wait(|| (served.rig.count(AgentCounter::QueueFull) == 1).then_some(()));
    drop(client);
    let mut next = wait(|| served.connect().ok());
    assert_eq!(served.rig.count(AgentCounter::GoneHeld), 2);
    for data in [b"1", b"2"] {
        let packet = given(&mut next);
        assert!(packet.frame.ends_with(data));
        next.deliver(packet.id).unwrap();
        assert_eq!(served.rig.delivered(), data);
    }
}

#[test]
fn requests_are_carried_out_and_answered_by_their_tokens() {
    let mut served = Served::start(WhenGone::Bypass, 8);
    let mut client = served.connect().expect("taken");
    let sync = client
        .ask(Request::Synchronise {
            flow: flow(),
            hold: true,
        })
        .unwrap();
    assert!(matches!(
        served.rig.carry_out(),
        Instruction::Synchronise { hold: true, .. }
    ));
    let complete = |token| ToAgent::Answer {
        token,
        outcome: Ok(Done::Complete),
    };
    assert_eq!(client.receive().unwrap(), complete(sync));
    let protected = true;
    assert_eq!(
        client.receive().unwrap(),
        ToAgent::Synchronised {
            token: sync,
            protected
        }
    );

    let timeout = Request::Timeout {
        flow: flow(),
        seconds: 3600,
    };
    let timeout = client.ask(timeout).unwrap();
    let change = FlowChange::Timeout(3600);
    let Instruction::Modify { change: made, .. } = served.rig.carry_out() else {
        panic!("it is a change");
    };
    assert_eq!(made, change);
    assert_eq!(client.receive().unwrap(), complete(timeout));

    let all = client.ask(Request::SynchroniseAll).unwrap();
    assert!(matches!(
        served.rig.carry_out(),
        Instruction::SynchroniseAll
    ));
    assert_eq!(client.receive().unwrap(), complete(all));
    let token = all;
    let synchronised = ToAgent::Synchronised { token, protected };
    assert_eq!(client.receive().unwrap(), synchronised);

    // The data connection of a passive transfer: in the zones and under the rule of its parent.
    let wanted = agent::Expectation {
        parent: flow(),
        from_opener: true,
        proto: 6,
        src: Some(flow().src),
        dst: flow().dst,
        dport: 5000,
        mark: 0,
        once: true,
        for_ms: 30_000,
    };
    let expect = client.ask(Request::Expect(wanted.clone())).unwrap();
    assert!(matches!(served.rig.carry_out(), Instruction::Ask { .. }));
    assert_eq!(client.receive().unwrap(), complete(expect));
    let entries = served
        .common
        .store
        .of_kind(CommonKind::Expectation)
        .unwrap();
    let Some(state::CommonValue::Expectation(made)) = &entries[0].value else {
        panic!("{entries:?}");
    };
    assert_eq!((made.zone_from, made.zone_to, made.rule), (0, 1, 77));
    let short = agent::Expectation {
        for_ms: 5,
        ..wanted
    };
    client.ask(Request::Expect(short)).unwrap();
    served.rig.carry_out();
    let refused = client.receive().unwrap();
    assert!(
        matches!(
            refused,
            ToAgent::Answer {
                outcome: Err(_),
                ..
            }
        ),
        "{refused:?}"
    );

    let block = client
        .ask(Request::Block {
            source: "192.0.2.7".parse().unwrap(),
            for_ms: 60_000,
            note: "bounce".into(),
        })
        .unwrap();
    assert_eq!(client.receive().unwrap(), complete(block));
    assert_eq!(served.common.store.count(CommonKind::Block), 1);
}

/// With `[sync] expectations = "async"` nobody is waited for: not even a node that never confirms.
#[test]
fn what_is_announced_waits_for_all_nodes_as_the_rules_say() {
    use policy::{ClassSync, RuleSet, SyncDefaults, Zones};

    for (expectations, complete) in [(ClassSync::Ack, false), (ClassSync::Async, true)] {
        let common = Arc::new(crate::common_requests::tests::of_three(Some(2), None));
        let zones = Zones::new(["inside", "outside"]).unwrap();
        let defaults = SyncDefaults {
            expectations,
            ..Default::default()
        };
        let rules = RuleSet::new(2, zones, vec![], defaults).unwrap();
        let policy = engine::Policy::new(&rules);
        common.board.node.policy.publish(Arc::new(policy));
        let mut served = Served::of(WhenGone::Bypass, 8, common);
        let mut client = served.connect().expect("taken");
        let wanted = agent::Expectation {
            parent: flow(),
            from_opener: true,
            proto: 6,
            src: None,
            dst: flow().dst,
            dport: 5000,
            mark: 0,
            once: true,
            for_ms: 30_000,
        };
        let token = client.ask(Request::Expect(wanted)).unwrap();
        assert!(matches!(served.rig.carry_out(), Instruction::Ask { .. }));
        let outcome = match complete {
            true => Ok(Done::Complete),
            false => Ok(Done::Lacking(vec!["n2".into()])),
        };
        let answer = ToAgent::Answer { token, outcome };
        assert_eq!(client.receive().unwrap(), answer);
        let expected = served.common.store.count(CommonKind::Expectation);
        assert_eq!(expected, 1);
    }
}
