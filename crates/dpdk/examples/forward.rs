//! Forwards between two ports, both ways, on one core, and says how fast: what the safe layer
//! costs over DPDK itself (compare with `dpdk-testpmd --forward-mode=io` on the same devices).
//!
//! ```text
//! forward --vdev net_null0 --vdev net_null1 --seconds 3
//! forward --vdev net_memif0,role=server,socket=/tmp/m0.sock,socket-abstract=no \
//!         --vdev net_memif1,role=server,socket=/tmp/m1.sock,socket-abstract=no --cpu 0
//! ```
//! `--pci ADDRESS` and `--hugepages` take real devices, `--memory MB` sizes the memory.

use std::error::Error;
use std::process::ExitCode;
use std::slice::from_ref;
use std::time::{Duration, Instant};
use std::{env, thread};

use dpdk::{
    Burst, Eal, EalOptions, EthPort, Mempool, Port, PortConfig, QueuePair, register_thread,
};

/// How many rounds of the poll loop pass between two looks at the clock.
const ROUNDS: u32 = 4096;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forward: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (options, seconds) = arguments()?;
    let eal = Eal::init(&options)?;
    let [first, second] = eal.ports().try_into().map_err(|ports: Vec<String>| {
        format!(
            "forward wants two ports, there are {}: {}",
            ports.len(),
            ports.join(", ")
        )
    })?;
    let pool = Mempool::new(&eal, "forward", 8191, 256, None)?;
    let open = |name: &str| -> Result<(EthPort, QueuePair), dpdk::Error> {
        let config = PortConfig {
            promiscuous: true,
            ..PortConfig::default()
        };
        let mut port = EthPort::configure(&eal, name, &config, from_ref(&pool))?;
        let queue = port.start()?.remove(0);
        Ok((port, queue))
    };
    let (first_port, mut a) = open(&first)?;
    let (second_port, mut b) = open(&second)?;
    println!("{first} <-> {second}, {}, {seconds} s", Eal::version());

    // A thread of its own, registered, as a worker's is; it stays where the caller may run.
    let worker = thread::spawn(move || -> Result<(Counts, Duration), dpdk::Error> {
        let _registered = register_thread()?;
        let mut counts = Counts::default();
        let started = Instant::now();
        let end = started + Duration::from_secs(seconds);
        while Instant::now() < end {
            for _ in 0..ROUNDS {
                counts.forward(&mut a, &mut b);
                counts.forward(&mut b, &mut a);
            }
        }
        Ok((counts, started.elapsed()))
    });
    let (counts, elapsed) = worker.join().expect("the worker does not panic")?;
    println!(
        "{:.2} Mpps forwarded, {} packets, {:.1} per burst that had any, {} dropped",
        counts.sent as f64 / elapsed.as_secs_f64() / 1e6,
        counts.sent,
        counts.sent as f64 / counts.bursts.max(1) as f64,
        counts.dropped,
    );
    for port in [first_port, second_port] {
        println!("{}: {:?}", port.name(), port.stats()?);
        port.close()?;
    }
    drop(pool);
    Ok(eal.shut_down()?)
}

#[derive(Default)]
struct Counts {
    sent: u64,
    dropped: u64,
    bursts: u64,
}

impl Counts {
    fn forward(&mut self, from: &mut QueuePair, to: &mut QueuePair) {
        let mut burst = Burst::new();
        if from.rx_burst(&mut burst) == 0 {
            return;
        }
        self.bursts += 1;
        self.sent += to.tx_burst(&mut burst) as u64;
        self.dropped += burst.len() as u64;
        to.free_burst(&mut burst);
    }
}

fn arguments() -> Result<(EalOptions, u64), Box<dyn Error>> {
    let mut options = EalOptions::without_hugepages(256);
    let mut seconds = 3;
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--hugepages" {
            (options.no_huge, options.in_memory) = (false, true);
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--vdev" => options.vdevs.push(value),
            "--pci" => options.pci.push(value),
            "--cpu" => options.main_cpu = Some(value.parse()?),
            "--memory" => options.memory_mb = Some(value.parse()?),
            "--seconds" => seconds = value.parse()?,
            _ => return Err(format!("{word} is unknown; see the top of this example").into()),
        }
    }
    Ok((options, seconds))
}
