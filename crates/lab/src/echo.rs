//! Long-lived TCP connections that notice everything: numbered, checksummed messages of changing
//! length, sent to an echo server and compared on return.
//!
//! A message is, in network byte order: magic (4), connection (4), sequence (8), payload length
//! (4), FNV-1a checksum of all of that and the payload (8), payload.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::wait::Interrupt;
use crate::{Error, Result};

const MAGIC: u32 = 0x5256_4c45;
const HEADER_BYTES: usize = 28;
/// Longest payload: with its header more than two segments of an MTU of 1500.
const PAYLOAD_BYTES_MAX: usize = 3500;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Threads here hold one message and a few frames of calls.
const STACK_BYTES: usize = 128 * 1024;

/// What the clients do.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// Where to connect to; connection `i` takes the `i mod n`th.
    pub targets: Vec<SocketAddr>,
    /// How many connections.
    pub connections: u32,
    /// The pause between an echo and the next message.
    pub pause: Duration,
    /// A connection without progress for so long is broken.
    pub stall_limit: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EchoReport {
    /// Connections that were to be made.
    pub connections: u32,
    /// Connections that were made.
    pub connected: u32,
    /// Those that broke, and how.
    pub broken: Vec<Broken>,
    /// Messages that came back as they were sent.
    pub messages: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// The longest that an echo took, in milliseconds: a failover shows here.
    pub round_trip_ms_max: u64,
}

/// A connection that broke.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Broken {
    /// Which.
    pub connection: u32,
    /// To where.
    pub target: SocketAddr,
    /// After how many messages.
    pub messages: u64,
    /// How.
    pub breakage: Breakage,
}

/// How a connection broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breakage {
    /// It never came to be; the system's words.
    NotConnected(String),
    /// A reset, or another error of the system; its words.
    Reset(String),
    /// The peer closed it.
    Closed,
    /// No progress within the limit.
    Stalled,
    /// What came back is not what was sent.
    Corrupted(Corruption),
}

/// How an echo differs from its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// It does not start like a message.
    Framing,
    /// It is another connection's.
    Connection {
        /// Whose.
        found: u32,
    },
    /// It is another message of this connection.
    Sequence {
        /// Which was sent.
        expected: u64,
        /// Which came.
        found: u64,
    },
    /// Its checksum does not fit its content.
    Checksum,
    /// It is sound in itself, but not what was sent.
    Payload,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connection,
            target,
            messages,
            breakage,
        } = self;
        write!(
            f,
            "connection {connection} to {target} after {messages} messages: {breakage:?}"
        )
    }
}

/// Echoes on every connection of this listener; returns only when accepting fails for good.
pub fn serve(listener: &TcpListener) -> Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                thread
                    .spawn(move || echo(stream))
                    .map_err(Error::system("start a thread"))?;
            }
            // One that was gone before it was accepted is the client's to report.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(Error::system("accept connections")(error)),
        }
    }
}

/// Runs the clients until `stop`, each to the end of its last exchange. `ready` is called once all
/// are connected (or could not be), `progress` about once a second.
pub fn run_clients(
    plan: &ClientPlan,
    stop: &Interrupt,
    ready: impl FnOnce() -> Result<()>,
    mut progress: impl FnMut(EchoReport) -> Result<()>,
) -> Result<EchoReport> {
    let totals = Totals::default();
    let snapshot = || {
        let broken = totals
            .broken
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        EchoReport {
            connections: plan.connections,
            connected: totals.connected.load(Ordering::Relaxed) as u32,
            broken: broken.clone(),
            messages: totals.messages.load(Ordering::Relaxed),
            bytes: totals.bytes.load(Ordering::Relaxed),
            round_trip_ms_max: totals.round_trip_ms_max.load(Ordering::Relaxed),
        }
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for connection in 0..plan.connections {
            let target = plan.targets[connection as usize % plan.targets.len()];
            let totals = &totals;
            let work = move || {
                let mut messages = 0;
                if let Err(breakage) =
                    converse(connection, target, plan, stop, totals, &mut messages)
                {
                    let broken = Broken {
                        connection,
                        target,
                        messages,
                        breakage,
                    };
                    eprintln!("{broken}");
                    totals
                        .broken
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push(broken);
                }
            };
            let thread = std::thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, work);
            threads.push(thread.map_err(Error::system("start a thread"))?);
        }
        let mut ready = Some(ready);
        let mut told = Instant::now();
        while threads.iter().any(|thread| !thread.is_finished()) {
            let now = snapshot();
            if now.connected as usize + now.broken.len() >= plan.connections as usize
                && let Some(ready) = ready.take()
            {
                ready()?;
            }
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                progress(now)?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Some(ready) = ready.take() {
            ready()?;
        }
        Ok(snapshot())
    })
}

#[derive(Default)]
struct Totals {
    connected: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    round_trip_ms_max: AtomicU64,
    broken: Mutex<Vec<Broken>>,
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 8192];
    // The client judges; here an end is an end.
    let _ = stream.set_nodelay(true);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
}

fn converse(
    connection: u32,
    target: SocketAddr,
    plan: &ClientPlan,
    stop: &Interrupt,
    totals: &Totals,
    messages: &mut u64,
) -> Result<(), Breakage> {
    let mut stream = TcpStream::connect_timeout(&target, CONNECT_LIMIT)
        .map_err(|error| Breakage::NotConnected(error.to_string()))?;
    totals.connected.fetch_add(1, Ordering::Relaxed);
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(plan.stall_limit)))
        .and_then(|()| stream.set_write_timeout(Some(plan.stall_limit)));
    prepared.map_err(|error| Breakage::NotConnected(error.to_string()))?;

    let mut sent = Vec::with_capacity(HEADER_BYTES + PAYLOAD_BYTES_MAX);
    let mut echoed = Vec::with_capacity(HEADER_BYTES + PAYLOAD_BYTES_MAX);
    while !stop.is_set() {
        encode(connection, *messages, &mut sent);
        let begin = Instant::now();
        stream.write_all(&sent).map_err(breakage)?;
        echoed.resize(sent.len(), 0);
        stream.read_exact(&mut echoed).map_err(breakage)?;
        verify(connection, *messages, &sent, &echoed).map_err(Breakage::Corrupted)?;
        *messages += 1;
        totals.messages.fetch_add(1, Ordering::Relaxed);
        totals.bytes.fetch_add(sent.len() as u64, Ordering::Relaxed);
        totals
            .round_trip_ms_max
            .fetch_max(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
        std::thread::sleep(plan.pause);
    }
    Ok(())
}

fn breakage(error: io::Error) -> Breakage {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Breakage::Stalled,
        ErrorKind::UnexpectedEof => Breakage::Closed,
        _ => Breakage::Reset(error.to_string()),
    }
}

fn encode(connection: u32, sequence: u64, out: &mut Vec<u8>) {
    // A splitmix64 step: spreads neighbouring sequence numbers over all lengths and contents.
    let mut seed = mix((u64::from(connection) << 40) ^ sequence);
    let length = 4 + (seed % (PAYLOAD_BYTES_MAX as u64 - 4)) as usize;
    out.clear();
    out.extend(MAGIC.to_be_bytes());
    out.extend(connection.to_be_bytes());
    out.extend(sequence.to_be_bytes());
    out.extend((length as u32).to_be_bytes());
    out.extend([0; 8]);
    while out.len() < HEADER_BYTES + length {
        seed = mix(seed);
        let word = seed.to_be_bytes();
        let take = word.len().min(HEADER_BYTES + length - out.len());
        out.extend(&word[..take]);
    }
    let sum = checksum(out);
    out[20..28].copy_from_slice(&sum.to_be_bytes());
}

fn verify(connection: u32, sequence: u64, sent: &[u8], echoed: &[u8]) -> Result<(), Corruption> {
    if echoed == sent {
        return Ok(());
    }
    // It is wrong; the rest finds out how.
    let word = |at: usize| {
        echoed
            .get(at..at + 4)
            .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    };
    let long = |at: usize| Some((u64::from(word(at)?) << 32) | u64::from(word(at + 4)?));
    let (Some(MAGIC), Some(found_connection), Some(found), Some(sum)) =
        (word(0), word(4), long(8), long(20))
    else {
        return Err(Corruption::Framing);
    };
    // Another message has another length, so its checksum cannot be judged: say whose it is.
    if found_connection != connection {
        return Err(Corruption::Connection {
            found: found_connection,
        });
    }
    if found != sequence {
        return Err(Corruption::Sequence {
            expected: sequence,
            found,
        });
    }
    Err(if sum == checksum(echoed) {
        Corruption::Payload
    } else {
        Corruption::Checksum
    })
}

/// FNV-1a, 64 bits, over the message without its checksum field.
fn checksum(message: &[u8]) -> u64 {
    let covered = message[..20].iter().chain(&message[HEADER_BYTES..]);
    covered.fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(target: SocketAddr) -> ClientPlan {
        ClientPlan {
            targets: vec![target],
            connections: 4,
            pause: Duration::from_millis(1),
            stall_limit: Duration::from_millis(400),
        }
    }

    /// Runs the clients against a server that treats each connection with `treat`, until they have
    /// echoed something or given up.
    fn against(treat: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> EchoReport {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let plan = plan(listener.local_addr().expect("bound"));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || treat(stream));
            }
        });
        let stop = Interrupt::default();
        let ended = stop.clone();
        run_clients(
            &plan,
            &stop,
            || Ok(()),
            |now| {
                if now.messages > 50 {
                    ended.set();
                }
                Ok(())
            },
        )
        .expect("the tool itself works")
    }

    #[test]
    fn a_faithful_server_breaks_nothing() {
        let report = against(echo);
        assert_eq!((report.connected, &report.broken[..]), (4, &[][..]));
        assert!(report.messages > 50 && report.bytes > report.messages * HEADER_BYTES as u64);
    }

    #[test]
    fn one_flipped_bit_is_found() {
        let report = against(|mut stream| {
            let mut buffer = [0; 8192];
            let mut total = 0;
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                // Byte 3000 of the stream falls in the payload of an early message.
                if (total..total + n).contains(&3000) {
                    buffer[3000 - total] ^= 0x10;
                }
                total += n;
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        });
        assert_eq!(report.broken.len(), 4, "{:?}", report.broken);
        for broken in &report.broken {
            assert!(
                matches!(broken.breakage, Breakage::Corrupted(_)),
                "{broken}"
            );
        }
    }

    #[test]
    fn a_reset_is_told_from_a_close() {
        let reset = against(|mut stream| {
            // Closing with unread bytes in the receive queue makes the kernel send a reset.
            let _ = stream.read(&mut [0; 1]);
        });
        assert_eq!(reset.broken.len(), 4);
        for broken in &reset.broken {
            assert!(matches!(broken.breakage, Breakage::Reset(_)), "{broken}");
        }
        let closed = against(|stream| {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut rest = stream;
            while matches!(rest.read(&mut [0; 8192]), Ok(1..)) {}
        });
        assert_eq!(closed.broken.len(), 4);
        for broken in &closed.broken {
            assert_eq!(broken.breakage, Breakage::Closed);
        }
    }

    #[test]
    fn silence_is_a_stall() {
        let report = against(|mut stream| while matches!(stream.read(&mut [0; 8192]), Ok(1..)) {});
        assert_eq!(report.broken.len(), 4);
        for broken in &report.broken {
            assert_eq!(broken.breakage, Breakage::Stalled);
        }
    }

    #[test]
    fn nobody_there_is_not_connected() {
        // Bound and dropped: the port was free a moment ago.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let target = listener.local_addr().expect("bound");
        drop(listener);
        let report = run_clients(&plan(target), &Interrupt::default(), || Ok(()), |_| Ok(()))
            .expect("works");
        assert_eq!((report.connected, report.broken.len()), (0, 4));
        assert!(matches!(
            report.broken[0].breakage,
            Breakage::NotConnected(_)
        ));
    }

    #[test]
    fn the_kind_of_damage_is_named() {
        let (mut sent, mut other) = (Vec::new(), Vec::new());
        encode(7, 41, &mut sent);
        encode(7, 42, &mut other);
        other.resize(sent.len(), 0);
        assert_eq!(
            verify(7, 41, &sent, &other),
            Err(Corruption::Sequence {
                expected: 41,
                found: 42
            })
        );
        encode(8, 41, &mut other);
        other.resize(sent.len(), 0);
        assert_eq!(
            verify(7, 41, &sent, &other),
            Err(Corruption::Connection { found: 8 })
        );
        let mut forged = sent.clone();
        forged[HEADER_BYTES] ^= 1;
        assert_eq!(verify(7, 41, &sent, &forged), Err(Corruption::Checksum));
        let sum = checksum(&forged);
        forged[20..28].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(verify(7, 41, &sent, &forged), Err(Corruption::Payload));
        assert_eq!(verify(7, 41, &sent, &[0; 40]), Err(Corruption::Framing));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_flip_anywhere_is_found(connection: u32, sequence: u64, at: prop::sample::Index, bit in 0u8..8) {
            let mut sent = Vec::new();
            encode(connection, sequence, &mut sent);
            prop_assert!(sent.len() > HEADER_BYTES && sent.len() <= HEADER_BYTES + PAYLOAD_BYTES_MAX);
            prop_assert_eq!(verify(connection, sequence, &sent, &sent), Ok(()));
            let mut echoed = sent.clone();
            echoed[at.index(sent.len())] ^= 1u8 << bit;
            prop_assert!(verify(connection, sequence, &sent, &echoed).is_err());
        }
    }
}
