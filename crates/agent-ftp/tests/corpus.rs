//! The parsers on their corpora, and on mutations of them (`corpus` says how to run longer).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use agent::stream::WAITING_BYTES_MAX;
use agent::{Action, Expectation, Flow, Packet, Protocol, Waiting};
use agent_ftp::ftp::Ftp;
use agent_ftp::line::{self, Command, LINE_MAX, Lines, Reply};
use agent_ftp::session::Session;
use wire::{build, tcp};

const ITERATIONS: u64 = 20_000;

fn folder(target: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    tests.join("corpus").join(target)
}

/// What a connection's ends say: lines, whatever pieces they come in, and what each means.
#[test]
fn lines() {
    let mut understood = 0;
    corpus::run(&folder("lines"), ITERATIONS, |input| {
        let whole = split(input, input.len().max(1));
        for piece in [1, 7] {
            assert_eq!(whole, split(input, piece), "in pieces of {piece}");
        }
        for line in &whole {
            assert!(line.len() <= LINE_MAX && !line.contains(&b'\n'));
            understood += u32::from(means_the_same_written_again(line));
        }
    });
    assert!(
        understood > 1000,
        "{understood}: the mutations reach nothing"
    );
}

fn split(input: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let (mut lines, mut out) = (Lines::default(), vec![]);
    for piece in input.chunks(piece) {
        lines.push(piece, |line| out.push(line.to_vec()));
        assert!(lines.unfinished() <= LINE_MAX);
    }
    out
}

/// Whether the line means anything.
fn means_the_same_written_again(text: &[u8]) -> bool {
    let (command, reply) = (line::command(text), line::reply(text));
    if let Some(Command::Active(ip, port)) = command {
        assert_ne!(port, 0);
        let family = if ip.is_ipv4() { 1 } else { 2 };
        let again = format!("EPRT |{family}|{ip}|{port}|");
        assert_eq!(line::command(again.as_bytes()), command);
    }
    let again = match reply {
        Some(Reply::Passive(ip, port)) => {
            let [high, low] = port.to_be_bytes();
            let ip = ip.to_string().replace('.', ",");
            format!("227 ({ip},{high},{low})")
        }
        Some(Reply::ExtendedPassive(port)) => format!("229 (|||{port}|)"),
        None => return command.is_some(),
    };
    assert_eq!(line::reply(again.as_bytes()), reply);
    true
}

/// Packets of two control connections in any order, cut, overlapping, again, in between what they wait for.
///
/// An input is a sequence of packets: a byte whose bits are the connection, the direction, SYN, ACK, FIN, RST and
/// whether what was asked first is answered now, well or badly; an offset into its direction, which begins shortly before the sequence
/// numbers wrap; a length; and so many bytes.
#[test]
fn packets() {
    let mut expected = 0;
    corpus::run(&folder("packets"), ITERATIONS, |input| {
        expected += Play::default().run(input);
    });
    assert!(expected > 1000, "{expected}: the mutations reach nothing");
}

#[derive(Default)]
struct Play {
    ftp: Ftp,
    waiting: Waiting,
    /// Not handed back yet, with the connection and the direction.
    out: HashMap<u64, [usize; 2]>,
    asked: Vec<u64>,
    /// The last that was handed back, by connection and direction.
    last: [[u64; 2]; 2],
    expected: u32,
}

const BEFORE_WRAP: u32 = u32::MAX - 100;

impl Play {
    fn run(mut self, mut input: &[u8]) -> u32 {
        let mut id = 0;
        while let Some(([bits, at, len], rest)) = input.split_first_chunk::<3>() {
            let (bits, len) = (*bits, usize::from(*len).min(rest.len()));
            let data;
            (data, input) = rest.split_at(len);
            let packet = packet(id + 1, bits, *at, data);
            if wire::parse(&packet.frame).is_err() {
                // The worker drops what is no packet, such as a SYN with a RST.
                continue;
            }
            id += 1;
            let of = [usize::from(bits & 1), usize::from(bits & 2 != 0)];
            self.out.insert(id, of);
            let announced = self.ftp.announces(&packet);
            let actions = self.waiting.packet(&packet, announced);
            self.carry_out(actions, &packet.flow);
            if bits & 0x40 != 0 && !self.asked.is_empty() {
                let answer = if bits & 0x80 == 0 {
                    Ok(())
                } else {
                    Err("full".into())
                };
                self.answer(answer);
            }
            self.bounds();
        }
        while !self.asked.is_empty() {
            self.answer(Ok(()));
        }
        self.bounds();
        assert!(self.out.is_empty(), "kept for ever: {:?}", self.out);
        assert!(self.waiting.is_empty());
        for bits in [0, 1] {
            let reset = packet(id + 1, bits | 0x20, 0, b"");
            self.ftp.announces(&reset);
        }
        assert_eq!((self.ftp.connections(), self.ftp.kept_bytes()), (0, 0));
        self.expected
    }

    fn answer(&mut self, outcome: Result<(), String>) {
        let ticket = self.asked.remove(0);
        let actions = self.waiting.answered(ticket, outcome);
        // It asks for nothing, so that whose it was is not looked at.
        self.carry_out(actions, &flow(0));
    }

    fn carry_out(&mut self, actions: Vec<Action>, of: &Flow) {
        for action in actions {
            match action {
                Action::Deliver(id) => {
                    let of = self.out.remove(&id);
                    let [connection, side] = of.expect("delivered once");
                    let before = std::mem::replace(&mut self.last[connection][side], id);
                    assert!(before < id, "{id} has overtaken {before}");
                }
                Action::Expect(ticket, expectation) => {
                    assert!(!self.asked.contains(&ticket));
                    self.asked.push(ticket);
                    self.expected += 1;
                    may_be(&expectation, of);
                }
                Action::Note(_) => {}
            }
        }
    }

    fn bounds(&self) {
        assert!(self.ftp.connections() <= 2);
        let each = 2 * (WAITING_BYTES_MAX + LINE_MAX);
        assert!(self.ftp.kept_bytes() <= self.ftp.connections() * each);
    }
}

/// From one end of the connection to the other, and to no service.
fn may_be(expectation: &Expectation, of: &Flow) {
    let (from, to) = if expectation.from_opener {
        (of.src, of.dst)
    } else {
        (of.dst, of.src)
    };
    assert_eq!(expectation.parent, *of);
    assert_eq!((expectation.src, expectation.dst), (Some(from), to));
    assert!(expectation.dport >= 1024 && expectation.once);
}

fn flow(bits: u8) -> Flow {
    Flow {
        proto: 6,
        src: "10.1.0.10".parse().unwrap(),
        sport: 40000 + u16::from(bits & 1),
        dst: "10.2.0.10".parse().unwrap(),
        dport: 21,
    }
}

fn packet(id: u64, bits: u8, at: u8, data: &[u8]) -> Packet {
    let (flow, from_opener) = (flow(bits), bits & 2 != 0);
    let (client, server) = ((flow.src, flow.sport).into(), (flow.dst, flow.dport).into());
    let (from, to) = if from_opener {
        (client, server)
    } else {
        (server, client)
    };
    let mut flags = 0;
    for (bit, flag) in [(4, tcp::SYN), (8, tcp::ACK), (16, tcp::FIN), (32, tcp::RST)] {
        if bits & bit != 0 {
            flags |= flag;
        }
    }
    // The first byte after a SYN is that at 1.
    let seq = BEFORE_WRAP.wrapping_add(u32::from(at));
    let frame = build::tcp(from, to, flags, seq, BEFORE_WRAP.wrapping_add(1), data);
    Packet {
        id,
        flow,
        from_opener,
        frame,
    }
}

/// However what both ends say is cut, repeated, overlapped and put out of order, the same is announced.
#[test]
fn announcements_do_not_depend_on_how_they_arrive() {
    let said: [&[u8]; 2] = [
        b"220 hello\r\n227 Entering Passive Mode (10,2,0,10,195,80).\r\n229 Ok (|||50001|)\r\n",
        b"USER x\r\nPASV\r\nPORT 10,1,0,10,4,1\r\nEPSV\r\nEPRT |1|10.1.0.10|1026|\r\n",
    ];
    let mut random = corpus::Random::new(3);
    for _ in 0..2000 {
        let start = [random.next() as u32, BEFORE_WRAP];
        let mut session = Session::new(flow(0));
        for from_client in [true, false] {
            session.segment(from_client, start[usize::from(from_client)], true, b"");
        }
        let mut ports = vec![];
        // The client's first, so that the replies are asked for.
        for from_client in [true, false] {
            let side = usize::from(from_client);
            let text = said[side];
            let mut pieces: Vec<(usize, usize)> = (0..text.len())
                .step_by(9)
                .map(|at| (at, (at + 9).min(text.len())))
                .collect();
            for _ in 0..random.below(20) {
                let from = random.below(text.len());
                let to = from + 1 + random.below(text.len() - from);
                pieces.push((from, to));
            }
            for n in (1..pieces.len()).rev() {
                pieces.swap(n, random.below(n + 1));
            }
            for (from, to) in pieces {
                let seq = start[side].wrapping_add(1 + from as u32);
                let announced = session.segment(from_client, seq, false, &text[from..to]);
                assert!(announced.refused.is_empty());
                ports.extend(announced.expect.iter().map(|e| (e.from_opener, e.dport)));
            }
        }
        let expected = [(false, 1025), (false, 1026), (true, 50000), (true, 50001)];
        assert_eq!(ports, expected);
        assert_eq!(session.kept_bytes(), 0);
    }
}
