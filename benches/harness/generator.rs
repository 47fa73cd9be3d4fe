//! dpdk-testpmd as the source of packets: it replays files of frames from its memory into memif, or, for a gateway
//! that is the kernel's, into a device of the kernel's by AF_XDP.
//!
//! It is memif's server, so that the gateway can be the client, which need not copy: with huge pages the generator
//! writes each frame to the gateway's own buffers. So it is there before the gateway.
//!
//! It is driven by its prompt, one lane at a time. For a gateway with one worker everything of it runs on one cpu; for more
//! it has as many forwarding threads and files, each with a queue and a cpu of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Error as LabError, Namespace};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::machine::{self, Cpus};
use crate::pcap::{self, Pcap};
use crate::prompt::{Prompt, number};
use crate::traffic::{Flows, Part};

/// Reading ten million frames into memory takes a while.
const START_LIMIT: Duration = Duration::from_secs(180);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Buffers besides those that hold the frames: rings, bursts, caches.
const SPARE_MBUFS: u32 = 16_384;
/// log2 of the descriptors of a memif ring.
const RING_LOG2: u32 = 11;
/// Bytes that a buffer must have at least which the kernel reads frames from (`XDP_UMEM_MIN_CHUNK_SIZE`).
const XDP_CHUNK_MIN: u32 = 2048;
/// Bytes of a buffer in memif's shared memory, where that is apart from the gateway's.
const RING_BUFFER: u32 = 2048;

/// Frames that go to a gateway's port.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    /// What is replayed, by queue. All lanes of a generator have as many.
    pub(crate) pcaps: Vec<Pcap>,
    /// Where to.
    pub(crate) way: Way,
}

/// How frames get to a gateway's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// By memif, whose socket this is.
    Memif(PathBuf),
    /// By a device of the kernel's, which is there already. A full one makes the generator wait: it drops nothing.
    Kernel {
        namespace: Namespace,
        device: &'static str,
    },
}

/// How a generator sends what a gateway has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// It is dropped: the gateway is offered more than it can take.
    Drop,
    /// It is sent again until there is room: every frame arrives once per pass.
    Retry,
}

/// What a generator did between start and stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
}

/// A running testpmd.
#[derive(Debug)]
pub(crate) struct Generator {
    prompt: Prompt,
    /// By lane: testpmd's number of its file and of its memif port.
    ports: Vec<(usize, usize)>,
    playing: bool,
}

impl Generator {
    /// Megabytes that its buffers take for these lanes.
    pub(crate) fn memory_mb(lanes: &[Lane]) -> u64 {
        let mbuf = 64 + 128 + u64::from(data_room(lanes));
        ((u64::from(mbufs(lanes)) * mbuf.next_multiple_of(64)) >> 20) + 128
    }

    /// Starts it, and waits until its frames are in memory and gateways can connect.
    pub(crate) fn start(bench: &Bench, lanes: &[Lane]) -> Result<Self> {
        let mut ways: Vec<&Way> = vec![];
        for lane in lanes {
            if !ways.contains(&&lane.way) {
                ways.push(&lane.way);
            }
        }
        let kernel = lanes.iter().any(|lane| lane.kernel());
        let memory_mb = Self::memory_mb(lanes) + 64;
        if kernel && bench.pages.huge() {
            machine::wait_free(memory_mb, &bench.interrupt)?;
        }
        let queues = lanes.iter().map(|lane| lane.pcaps.len()).max().unwrap_or(1);
        let mut args = vec![
            "--no-pci".to_owned(),
            "--no-telemetry".into(),
            lcores(&bench.cpus, queues),
            "--file-prefix".into(),
            bench.name("gen"),
            "-m".into(),
            memory_mb.to_string(),
        ];
        args.extend(bench.pages.eal_arguments().iter().map(|a| (*a).to_owned()));
        for (number, way) in ways.iter().enumerate() {
            args.push("--vdev".into());
            args.push(way.device(number)?);
        }
        // A gateway's thread that only controls it wants a queue to send by too, and this program gives all ports as
        // many; what would come from the second one of a file is never asked for.
        let unused = pcap::of(&Flows::udp(1), Part::Data, &bench.pcaps, &bench.interrupt)?;
        let mut ports = vec![];
        for (number, lane) in lanes.iter().enumerate() {
            let mut files: Vec<&Pcap> = lane.pcaps.iter().collect();
            if !kernel {
                files.push(&unused);
            }
            let files: String = files
                .iter()
                .map(|pcap| format!("rx_pcap={},", pcap.path.display()))
                .collect();
            args.push("--vdev".into());
            args.push(format!("net_pcap{number},{files}infinite_rx=1"));
            let to = ways.iter().position(|way| **way == lane.way);
            ports.push((ways.len() + number, to.expect("every lane's way is listed")));
        }
        args.extend(
            [
                "--",
                "--interactive",
                "--forward-mode=io",
                "--burst=64",
                "--rxd=2048",
                "--txd=2048",
                "--no-flush-rx",
                "--no-lsc-interrupt",
                // Nobody is connected yet.
                "--disable-link-check",
            ]
            .map(str::to_owned),
        );
        args.push(format!("--nb-cores={queues}"));
        args.push(format!("--rxq={}", queues + usize::from(!kernel)));
        args.push(format!("--txq={queues}"));
        args.push(format!("--total-num-mbufs={}", mbufs(lanes)));
        args.push(format!("--mbuf-size={}", data_room(lanes)));
        let space = ways.iter().find_map(|way| match way {
            Way::Kernel { namespace, .. } => Some(namespace),
            Way::Memif(_) => None,
        });
        Ok(Self {
            prompt: Prompt::start(bench, "testpmd", &args, space, START_LIMIT)?,
            ports,
            playing: false,
        })
    }

    /// Replays one lane, from its beginning to its end and again, until [`Generator::stop`].
    pub(crate) fn play(&mut self, bench: &Bench, lane: usize, full: WhenFull) -> Result<()> {
        let (file, port) = self.ports[lane];
        let retry = match full {
            WhenFull::Drop => "set fwd io",
            // Practically for ever.
            WhenFull::Retry => "set burst tx delay 1 retry 1000000\nset fwd io retry",
        };
        let begin = self.prompt.said()?;
        self.prompt
            .order(&format!("{retry}\nset portlist {file},{port}\nstart\n"))?;
        self.prompt
            .wait_for(bench, begin, "packets/burst", ANSWER_LIMIT)?;
        self.playing = true;
        Ok(())
    }

    /// Ends the replay and tells what it was.
    pub(crate) fn stop(&mut self, bench: &Bench) -> Result<Offered> {
        let begin = self.prompt.said()?;
        self.prompt.order("stop\n")?;
        let said = self.prompt.wait_for(bench, begin, "Done.", ANSWER_LIMIT)?;
        self.playing = false;
        offered(&said).ok_or(Error::Unreadable {
            from: "testpmd",
            said,
            wanted: "accumulated forward statistics",
        })
    }

    /// Fails when it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.prompt.must_run()
    }
}

/// The prompt on the cpu of all else, and a forwarding thread for each queue: the first on the same cpu, the others on cpus of
/// their own as far as there are any beside the workers'.
fn lcores(cpus: &Cpus, queues: usize) -> String {
    let threads = cpus.generators(queues);
    let threads = threads.iter().enumerate();
    let threads: String = threads
        .map(|(n, cpu)| format!(",{}@{cpu}", n + 1))
        .collect();
    format!("--lcores=0@{}{threads}", cpus.others)
}

impl Lane {
    fn kernel(&self) -> bool {
        matches!(self.way, Way::Kernel { .. })
    }
}

impl Way {
    /// The generator's end, as DPDK is told it.
    fn device(&self, number: usize) -> Result<String> {
        match self {
            Self::Memif(socket) => {
                // One that was killed leaves its socket, and nobody could listen there.
                match fs::remove_file(socket) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(LabError::file("remove", socket)(error).into());
                    }
                    _ => {}
                }
                Ok(format!(
                    "net_memif{number},role=server,socket={},socket-abstract=no",
                    socket.display()
                ))
            }
            // Without the budget, each look for what never comes from there would be a system call.
            Self::Kernel { device, .. } => Ok(format!(
                "net_af_xdp{number},iface={device},start_queue=0,queue_count=1,busy_budget=0"
            )),
        }
    }
}

/// What the EAL of a gateway must be told so that it can share its buffers.
pub(crate) const SHARED_BUFFERS: &str = "--single-file-segments";

/// How a gateway's end of a lane has its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buffers {
    /// The generator writes into the gateway's own, for which its EAL wants [`SHARED_BUFFERS`] and huge pages. At
    /// most one port of a process can do that: memif closes the file of EAL's memory once it is connected.
    Shared,
    /// The gateway copies.
    Copied,
}

impl Buffers {
    /// What the clients' lane uses.
    pub(crate) fn best(huge_pages: bool) -> Self {
        if huge_pages {
            Self::Shared
        } else {
            Self::Copied
        }
    }
}

/// The gateway's end of a lane, as DPDK is told it.
pub(crate) fn gateway_device(
    number: usize,
    socket: &Path,
    mac: wire::Mac,
    buffers: Buffers,
) -> String {
    let zero_copy = match buffers {
        Buffers::Shared => "yes",
        Buffers::Copied => "no",
    };
    format!(
        "net_memif{number},role=client,zero-copy={zero_copy},socket={},socket-abstract=no,rsize={RING_LOG2},bsize={RING_BUFFER},mac={mac}",
        socket.display()
    )
}

fn mbufs(lanes: &[Lane]) -> u32 {
    let pcaps = lanes.iter().flat_map(|lane| &lane.pcaps);
    pcaps.map(|pcap| pcap.frames).sum::<u32>() + SPARE_MBUFS
}

/// Bytes of a buffer: headroom of 128, and the longest frame.
fn data_room(lanes: &[Lane]) -> u32 {
    let longest = |lane: &Lane| lane.pcaps.iter().map(|pcap| pcap.frame_max).max();
    let room = |lane: &Lane| frame_room(longest(lane).unwrap_or(0), lane.kernel());
    128 + lanes.iter().map(room).max().unwrap_or(128)
}

/// Bytes that a frame takes of a buffer, whose size the kernel does not leave to us.
pub(crate) fn frame_room(frame_max: u32, kernel: bool) -> u32 {
    let least = if kernel { XDP_CHUNK_MIN } else { 128 };
    frame_max.next_multiple_of(64).max(least)
}

/// Reads the sums that testpmd prints when it stops.
fn offered(said: &str) -> Option<Offered> {
    let sums = &said[said.find("Accumulated forward statistics")?..];
    let line = sums.lines().find(|line| line.contains("TX-packets:"))?;
    Some(Offered {
        sent: number(line, "TX-packets:")?,
        dropped: number(line, "TX-dropped:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_testpmd_prints_is_read() {
        let said = "Telling cores to stop...\n\
            ---------------------- Forward statistics for port 0  ----------------------\n\
            RX-packets: 20563264       RX-dropped: 0             RX-total: 20563264\n\
            TX-packets: 0              TX-dropped: 0             TX-total: 0\n\
            +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++\n\
            RX-packets: 20563264       RX-dropped: 0             RX-total: 20563264\n\
            TX-packets: 860672         TX-dropped: 19702592      TX-total: 20563264\n\nDone.\n";
        let sums = Offered {
            sent: 860_672,
            dropped: 19_702_592,
        };
        assert_eq!(offered(said), Some(sums));
        assert_eq!(offered("Telling cores to stop..."), None);
    }

    #[test]
    fn buffers_fit_the_longest_frame() {
        let lane = |frames, frame_max| Lane {
            pcaps: vec![Pcap {
                path: PathBuf::new(),
                frames,
                frame_max,
            }],
            way: Way::Memif(PathBuf::new()),
        };
        let mut kernel = lane(1, 60);
        kernel.way = Way::Kernel {
            namespace: Namespace::named("n"),
            device: "g0",
        };
        assert_eq!(data_room(&[kernel]), 128 + 2048);
        assert_eq!(data_room(&[lane(1, 60)]), 256);
        assert_eq!(data_room(&[lane(1, 60), lane(1, 1514)]), 128 + 1536);
        assert_eq!(mbufs(&[lane(1000, 60), lane(500, 60)]), 1500 + 16_384);
        assert_eq!(Generator::memory_mb(&[lane(1 << 20, 60)]), 128 + 455);
    }
}
