//! The bare cost of the transport: round trips of a 100 byte frame between two threads on
//! loopback, and throughput with 64 KiB frames.
//!
//! `cargo run --release -p transport --example rtt -- [round trips] [megabytes] [cpu] [other cpu]`
//!
//! With cpus, the asking thread is on the first and the answering one on the second. Without megabytes (0) the
//! throughput is left out. The benchmark's case `hold-latency` runs this and reads the line in nanoseconds.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use transport::{Endpoint, Event, Events, Identity, Options, Peer, SendError, Tuning, pki};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const FRAME: usize = 64 << 10;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let round_trips: usize = args.next().map_or(Ok(20_000), |arg| arg.parse())?;
    let megabytes: usize = args.next().map_or(Ok(1000), |arg| arg.parse())?;
    let cpus: Vec<usize> = args.map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    if cpus.len() > 2 {
        return Err("there are two threads: give two cpus at most".into());
    }
    let cpu_of = |at: usize| cpus.get(at).copied();

    let dir = tempfile::tempdir()?;
    pki::init(dir.path(), "bench")?;
    let sockets = [
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    ];
    let addrs = [sockets[0].local_addr()?, sockets[1].local_addr()?];
    let mut setups = Vec::new();
    for (at, socket) in sockets.into_iter().enumerate() {
        let peer = Peer {
            name: format!("n{}", 2 - at),
            id: 2 - at as u8,
            addr: addrs[1 - at],
        };
        setups.push((socket, options(dir.path(), &format!("n{}", at + 1), peer)?));
    }
    let (server, client) = (setups.pop(), setups.pop());
    let (Some(server), Some(client)) = (server, client) else {
        return Err("two setups were made".into());
    };

    let frames = megabytes * 1_000_000 / FRAME;
    // A thread has its maker's cpus.
    pin(cpu_of(1))?;
    let serving = std::thread::spawn(move || serve(server, frames));
    pin(cpu_of(0))?;
    measure(client, round_trips, frames)?;
    serving.join().map_err(|_| "the server panicked")?
}

fn pin(cpu: Option<usize>) -> Result<(), Failure> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|error| format!("cpu {cpu} cannot be used: {error}").into())
}

fn options(dir: &Path, node: &str, peer: Peer) -> Result<Options, Failure> {
    let written = pki::issue(dir, node, dir)?;
    Ok(Options {
        local: ([127, 0, 0, 1], 0).into(),
        identity: Identity::load(&dir.join("ca.pem"), &written.cert, &written.key)?,
        node: node.to_owned(),
        cluster: "bench".to_owned(),
        peers: vec![peer],
        tuning: Tuning::default(),
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Polls as the sync core does: look, then let the runtime run.
async fn poll(events: &mut Events) -> Result<Event, Failure> {
    loop {
        match events.try_recv() {
            Ok(event) => return Ok(event),
            Err(tokio::sync::mpsc::error::TryRecvError::Empty) => tokio::task::yield_now().await,
            Err(gone) => return Err(gone.into()),
        }
    }
}

/// Echoes stream 0; counts stream 1 and answers when all `frames` are there.
fn serve((socket, options): (UdpSocket, Options), frames: usize) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let mut endpoint = Endpoint::over(socket, options)?;
        let mut counted = 0;
        loop {
            match poll(&mut endpoint.events).await? {
                Event::Frame {
                    stream: 0,
                    frame,
                    reply,
                    ..
                } => reply.send(frame)?,
                Event::Frame { reply, .. } => {
                    counted += 1;
                    if counted == frames {
                        reply.send(vec![1])?;
                    }
                }
                Event::Disconnected { .. } => return Ok(()),
                _ => {}
            }
        }
    })
}

fn measure(
    (socket, options): (UdpSocket, Options),
    round_trips: usize,
    frames: usize,
) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let mut endpoint = Endpoint::over(socket, options)?;
        while !matches!(poll(&mut endpoint.events).await?, Event::Connected { .. }) {}

        let mut times = Vec::with_capacity(round_trips);
        for _ in 0..round_trips {
            let began = Instant::now();
            endpoint.send(2, 0, vec![7; 100])?;
            while !matches!(poll(&mut endpoint.events).await?, Event::Answer { .. }) {}
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "round trip of 100 bytes: median {:?}, p90 {:?}, p99 {:?}, least {:?}",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.0)
        );
        let ns = |share| at(share).as_nanos();
        println!(
            "round trip in ns: p50 {} p90 {} p99 {}",
            ns(0.5),
            ns(0.9),
            ns(0.99)
        );
        if frames == 0 {
            endpoint.shutdown(Duration::from_secs(1)).await?;
            return Ok(());
        }

        let frame = bytes::Bytes::from(vec![7; FRAME]);
        let began = Instant::now();
        let mut sent = 0;
        loop {
            if sent < frames {
                match endpoint.send(2, 1, frame.clone()) {
                    Ok(()) => {
                        sent += 1;
                        continue;
                    }
                    Err(SendError::Full { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            match endpoint.events.try_recv() {
                Ok(Event::Answer { .. }) => break,
                _ => tokio::task::yield_now().await,
            }
        }
        let bits = (frames * FRAME * 8) as f64;
        println!(
            "throughput with 64 KiB frames: {:.2} Gbit/s",
            bits / began.elapsed().as_secs_f64() / 1e9
        );
        if let Some(stats) = endpoint.stats(2).and_then(|stats| stats.dialed) {
            println!("{stats:?}");
        }
        endpoint.shutdown(Duration::from_secs(1)).await?;
        Ok(())
    })
}
