//! The pcap device reads frames from a file and writes to another: contents, and the frame that does
//! not fit one buffer is dropped and counted.

mod common;

use std::fs;
use std::path::Path;
use std::slice::from_ref;

use common::frame;
use dpdk::{Burst, EthPort, Mempool, Port, PortConfig};

#[test]
fn pcap() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, output) = (
        folder.path().join("in.pcap"),
        folder.path().join("out.pcap"),
    );
    // The third is longer than a buffer's data room of 2048: the driver chains two for it.
    let lengths = [60, 1514, 3000, 2048, 61];
    let given: Vec<Vec<u8>> = lengths
        .iter()
        .enumerate()
        .map(|(i, &len)| frame(i as u32, len))
        .collect();
    write_pcap(&input, &given);

    let vdev = format!(
        "net_pcap0,rx_pcap={},tx_pcap={}",
        input.display(),
        output.display()
    );
    let eal = common::eal(&[&vdev]);
    let pool = Mempool::new(&eal, "pcap", 255, 0, None).expect("a pool");
    let mut port = EthPort::configure(&eal, "net_pcap0", &PortConfig::default(), from_ref(&pool))
        .expect("a port");
    let mut queues = port.start().expect("a started port");
    let queue = &mut queues[0];

    let mut burst = Burst::new();
    let received = queue.rx_burst(&mut burst);
    assert_eq!((received, queue.multi_segment_drops()), (4, 1));
    let expected: Vec<_> = given
        .iter()
        .filter(|frame| frame.len() <= 2048)
        .cloned()
        .collect();
    assert_eq!(
        common::frames(&burst),
        expected,
        "the others close up, in order"
    );
    assert_eq!(pool.in_use(), 4, "both segments of the long one are back");
    assert_eq!(queue.tx_burst(&mut burst), 4);
    assert_eq!(queue.rx_burst(&mut burst), 0, "the file is over");
    assert_eq!(port.stats().expect("counters").rx_packets, 5);

    drop(queues);
    drop(port);
    assert_eq!(pool.in_use(), 0);
    drop(pool);
    eal.shut_down().expect("nothing is left");
    assert_eq!(read_pcap(&output), expected);
}

/// The classic format: a header of 24 bytes, then per frame 16 bytes of which two lengths matter.
fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    for word in [0u32, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(path, file).expect("a written file");
}

fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).expect("the output file");
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        frames.push(behind[..len].to_vec());
        rest = &behind[len..];
    }
    frames
}
