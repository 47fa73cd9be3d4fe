//! A steady trickle of numbered UDP datagrams over many flows, and a receiver that says which are
//! missing, doubled or late, and how long the longest silence was.
//!
//! A datagram is, in network byte order: magic (4), flow (4), sequence within the flow (8), time
//! of sending (CLOCK_MONOTONIC, ns, 8), zeros up to 64 bytes.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::wait::{Interrupt, monotonic_ns};
use crate::{Error, Result};

const MAGIC: u32 = 0x5256_4c50;
const DATAGRAM_BYTES: usize = 64;
/// Flows that the receiver keeps books for.
const FLOWS_MAX: u32 = 4096;
/// Sequence numbers that the receiver keeps books for: a bit each, per flow.
const SEQUENCE_MAX: u64 = 1 << 24;
/// A sender that was kept from running for longer than this skips what it missed, so that it
/// never makes up for a pause with a burst.
const CATCH_UP_MAX: Duration = Duration::from_millis(50);

/// What to send.
#[derive(Debug, Clone)]
pub struct ProbePlan {
    /// Where to; flow `i` takes the `i mod n`th.
    pub targets: Vec<SocketAddr>,
    /// How many flows, each from a port of its own.
    pub flows: u32,
    /// Datagrams per second, all flows together.
    pub rate: u32,
}

/// What was sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Per flow, how many datagrams: they carry the sequence numbers below this.
    pub per_flow: Vec<u64>,
    /// How often the system refused one; it was not sent then.
    pub refused: u64,
}

/// What arrived.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Per flow, how many different datagrams.
    pub per_flow: Vec<u64>,
    /// Datagrams that had arrived before.
    pub duplicated: u64,
    /// Datagrams that arrived after a later one of their flow.
    pub reordered: u64,
    /// Datagrams that are not the probe's.
    pub foreign: u64,
    /// The longest time between two arrivals of one flow, in milliseconds.
    pub gap_ms_max: f64,
    /// The longest way from sender to receiver, in milliseconds (one machine, one clock).
    pub delay_ms_max: f64,
}

impl Sent {
    /// All flows together.
    pub fn total(&self) -> u64 {
        self.per_flow.iter().sum()
    }

    /// How many of these did not arrive.
    pub fn lost(&self, received: &Received) -> u64 {
        let arrived = received
            .per_flow
            .iter()
            .copied()
            .chain(std::iter::repeat(0));
        self.per_flow
            .iter()
            .zip(arrived)
            .map(|(sent, arrived)| sent.saturating_sub(arrived))
            .sum()
    }
}

impl Received {
    /// All flows together.
    pub fn total(&self) -> u64 {
        self.per_flow.iter().sum()
    }
}

/// Sends at the plan's rate until `stop`; `progress` is called about once a second.
pub fn send(
    plan: &ProbePlan,
    stop: &Interrupt,
    mut progress: impl FnMut(&Sent) -> Result<()>,
) -> Result<Sent> {
    let mut sockets = Vec::new();
    for flow in 0..plan.flows {
        let target = plan.targets[flow as usize % plan.targets.len()];
        let any: IpAddr = if target.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0)).and_then(|socket| {
            socket.connect(target)?;
            Ok(socket)
        });
        sockets.push(socket.map_err(Error::system(format!("open a socket to {target}")))?);
    }
    let mut sent = Sent {
        per_flow: vec![0; sockets.len()],
        refused: 0,
    };
    let interval = Duration::from_secs(1) / plan.rate.max(1);
    let mut due = Instant::now();
    let mut told = due;
    for flow in (0..sockets.len()).cycle() {
        if stop.is_set() {
            break;
        }
        let now = Instant::now();
        match due.checked_duration_since(now) {
            Some(early) => std::thread::sleep(early),
            None if now - due > CATCH_UP_MAX => due = now,
            None => {}
        }
        due += interval;
        // An ICMP error to an earlier datagram surfaces here, and then this one is not sent.
        match sockets[flow].send(&encode(flow as u32, sent.per_flow[flow], monotonic_ns())) {
            Ok(_) => sent.per_flow[flow] += 1,
            Err(_) => sent.refused += 1,
        }
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            progress(&sent)?;
        }
    }
    Ok(sent)
}

/// Receives until `stop` and then until nothing has come for a while; `progress` is called about
/// once a second.
pub fn receive(
    socket: &UdpSocket,
    stop: &Interrupt,
    mut progress: impl FnMut(Received) -> Result<()>,
) -> Result<Received> {
    let quiet = Duration::from_millis(300);
    socket
        .set_read_timeout(Some(quiet))
        .map_err(Error::system("set a socket's timeout"))?;
    let mut books = Books::default();
    let mut buffer = [0; 2048];
    let mut told = Instant::now();
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => books.enter(&buffer[..length], monotonic_ns()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.is_set() {
                    return Ok(books.report());
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::system("receive")(error)),
        }
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            progress(books.report())?;
        }
    }
}

/// The receiver's books: every arrival, per flow.
#[derive(Debug, Default)]
pub struct Books {
    flows: Vec<Flow>,
    duplicated: u64,
    reordered: u64,
    foreign: u64,
    gap_ns_max: u64,
    delay_ns_max: u64,
}

#[derive(Debug, Default)]
struct Flow {
    /// One bit per sequence number that arrived.
    seen: Vec<u64>,
    arrived: u64,
    highest: u64,
    last_ns: u64,
}

impl Books {
    /// Enters a datagram that arrived at `now_ns`.
    pub fn enter(&mut self, datagram: &[u8], now_ns: u64) {
        let Some((flow, sequence, sent_ns)) = decode(datagram) else {
            self.foreign += 1;
            return;
        };
        let index = flow as usize;
        if self.flows.len() <= index {
            self.flows.resize_with(index + 1, Flow::default);
        }
        let flow = &mut self.flows[index];
        let (word, bit) = ((sequence / 64) as usize, 1 << (sequence % 64));
        if flow.seen.len() <= word {
            flow.seen.resize(word + 1, 0);
        }
        if flow.seen[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        flow.seen[word] |= bit;
        if flow.arrived > 0 {
            self.gap_ns_max = self.gap_ns_max.max(now_ns.saturating_sub(flow.last_ns));
            if sequence < flow.highest {
                self.reordered += 1;
            }
        }
        flow.arrived += 1;
        flow.highest = flow.highest.max(sequence);
        flow.last_ns = now_ns;
        self.delay_ns_max = self.delay_ns_max.max(now_ns.saturating_sub(sent_ns));
    }

    /// The figures so far.
    pub fn report(&self) -> Received {
        Received {
            per_flow: self.flows.iter().map(|flow| flow.arrived).collect(),
            duplicated: self.duplicated,
            reordered: self.reordered,
            foreign: self.foreign,
            gap_ms_max: self.gap_ns_max as f64 / 1e6,
            delay_ms_max: self.delay_ns_max as f64 / 1e6,
        }
    }
}

fn encode(flow: u32, sequence: u64, now_ns: u64) -> [u8; DATAGRAM_BYTES] {
    let mut datagram = [0; DATAGRAM_BYTES];
    datagram[..4].copy_from_slice(&MAGIC.to_be_bytes());
    datagram[4..8].copy_from_slice(&flow.to_be_bytes());
    datagram[8..16].copy_from_slice(&sequence.to_be_bytes());
    datagram[16..24].copy_from_slice(&now_ns.to_be_bytes());
    datagram
}

/// Flow, sequence and time of sending, if this is one of ours and within the books' limits.
fn decode(datagram: &[u8]) -> Option<(u32, u64, u64)> {
    let datagram: &[u8; DATAGRAM_BYTES] = datagram.try_into().ok()?;
    let word = |at: usize| {
        u32::from_be_bytes([
            datagram[at],
            datagram[at + 1],
            datagram[at + 2],
            datagram[at + 3],
        ])
    };
    let long = |at: usize| (u64::from(word(at)) << 32) | u64::from(word(at + 4));
    let (flow, sequence) = (word(4), long(8));
    (word(0) == MAGIC && flow < FLOWS_MAX && sequence < SEQUENCE_MAX).then_some((
        flow,
        sequence,
        long(16),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn sent(per_flow: &[u64]) -> Sent {
        Sent {
            per_flow: per_flow.to_vec(),
            refused: 0,
        }
    }

    #[test]
    fn what_is_missing_is_counted() {
        let mut books = Books::default();
        for sequence in [0, 1, 3, 4] {
            books.enter(&encode(0, sequence, 0), sequence * MS);
        }
        books.enter(&encode(2, 0, 0), 9 * MS);
        let received = books.report();
        assert_eq!(received.per_flow, [4, 0, 1]);
        // One of flow 0, both of flow 1, none of flow 2, and flow 3 that never came.
        assert_eq!(sent(&[5, 2, 1, 7]).lost(&received), 1 + 2 + 7);
        assert_eq!(
            (received.duplicated, received.reordered, received.foreign),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_duplicate_does_not_hide_a_loss() {
        let mut books = Books::default();
        for sequence in [0, 1, 1, 3] {
            books.enter(&encode(0, sequence, 0), 0);
        }
        let received = books.report();
        assert_eq!((received.duplicated, received.total()), (1, 3));
        assert_eq!(sent(&[4]).lost(&received), 1);
    }

    #[test]
    fn late_is_not_lost() {
        let mut books = Books::default();
        for sequence in [0, 2, 1, 3] {
            books.enter(&encode(0, sequence, 0), 0);
        }
        let received = books.report();
        assert_eq!((received.reordered, received.duplicated), (1, 0));
        assert_eq!(sent(&[4]).lost(&received), 0);
    }

    #[test]
    fn the_longest_silence_is_that_of_one_flow() {
        let mut books = Books::default();
        for (flow, at_ms) in [(0, 0), (1, 1), (1, 2), (1, 3), (0, 250), (1, 251)] {
            books.enter(&encode(flow, at_ms, (at_ms.max(7) - 7) * MS), at_ms * MS);
        }
        let received = books.report();
        assert_eq!(received.gap_ms_max, 250.0);
        assert_eq!(received.delay_ms_max, 7.0);
    }

    #[test]
    fn strangers_are_not_booked() {
        let mut books = Books::default();
        books.enter(b"hello", 0);
        books.enter(&[0; DATAGRAM_BYTES], 0);
        books.enter(&encode(FLOWS_MAX, 0, 0), 0);
        books.enter(&encode(0, SEQUENCE_MAX, 0), 0);
        let received = books.report();
        assert_eq!((received.foreign, received.per_flow.len()), (4, 0));
    }

    #[test]
    fn loopback_loses_nothing_of_two_families() {
        let socket = UdpSocket::bind("[::]:0").expect("loopback");
        let port = socket.local_addr().expect("bound").port();
        let plan = ProbePlan {
            targets: vec![
                ([127, 0, 0, 1], port).into(),
                (Ipv6Addr::LOCALHOST, port).into(),
            ],
            flows: 8,
            rate: 2000,
        };
        let (stop_sending, stop_receiving) = (Interrupt::default(), Interrupt::default());
        let receiver = std::thread::spawn({
            let (sender, receiver) = (stop_sending.clone(), stop_receiving.clone());
            move || {
                let stop_sender = |so_far: Received| {
                    if so_far.total() > 500 {
                        sender.set();
                    }
                    Ok(())
                };
                receive(&socket, &receiver, stop_sender)
            }
        });
        let sent = send(&plan, &stop_sending, |_| Ok(())).expect("sends");
        stop_receiving.set();
        let received = receiver.join().expect("no panic").expect("receives");
        assert_eq!(sent.lost(&received), 0, "{sent:?} {received:?}");
        assert_eq!(received.total(), sent.total());
        assert!(sent.per_flow.iter().all(|&count| count > 50), "{sent:?}");
    }
}
