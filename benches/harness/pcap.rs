//! Files of frames for testpmd's net_pcap, in libpcap's classic format
//! (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>).

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use lab::wait::Interrupt;

use crate::error::Result;
use crate::traffic::{Flows, Part, shuffled};

const MAGIC_US: u32 = 0xa1b2_c3d4;
const LINKTYPE_ETHERNET: u32 = 1;
const SNAP_LEN: u32 = 65_535;

/// A file of frames, one per flow in random order.
#[derive(Debug, Clone)]
pub(crate) struct Pcap {
    pub(crate) path: PathBuf,
    pub(crate) frames: u32,
    pub(crate) frame_max: u32,
}

/// Makes the file of one part of all flows in `dir`, unless it is there already.
pub(crate) fn of(flows: &Flows, part: Part, dir: &Path, interrupt: &Interrupt) -> Result<Pcap> {
    let order = shuffled(flows.count);
    let name = format!("{}-{}", flows.name(), format!("{part:?}").to_lowercase());
    make(flows, part, &order, &dir.join(name + ".pcap"), interrupt)
}

/// Makes the files of the data of all flows, one for each worker, with the flows that are its own: as a card's RSS would
/// spread them over the workers' queues.
pub(crate) fn by_worker(
    flows: &Flows,
    workers: usize,
    dir: &Path,
    interrupt: &Interrupt,
) -> Result<Vec<Pcap>> {
    let mut orders = vec![vec![]; workers];
    for n in shuffled(flows.count) {
        orders[state::worker_of(flows.slot(n), workers)].push(n);
    }
    let of_worker = |(worker, order): (usize, &Vec<u32>)| {
        let name = format!("{}-data-{worker}-of-{workers}.pcap", flows.name());
        make(flows, Part::Data, order, &dir.join(name), interrupt)
    };
    orders.iter().enumerate().map(of_worker).collect()
}

fn make(
    flows: &Flows,
    part: Part,
    order: &[u32],
    path: &Path,
    interrupt: &Interrupt,
) -> Result<Pcap> {
    let pcap = Pcap {
        path: path.to_owned(),
        frames: order.len() as u32,
        frame_max: flows.frame_max(),
    };
    if path.exists() {
        return Ok(pcap);
    }
    // Under another name first: what is there under its own is whole.
    let partial = path.with_extension("partial");
    let file = File::create(&partial).map_err(lab::Error::file("make", &partial))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let written = write_header(&mut out);
    written.map_err(lab::Error::file("write", &partial))?;
    for (at, &n) in order.iter().enumerate() {
        if at % 65_536 == 0 {
            interrupt.check()?;
        }
        let written = write_frame(&mut out, &flows.frame(n, part));
        written.map_err(lab::Error::file("write", &partial))?;
    }
    out.flush().map_err(lab::Error::file("write", &partial))?;
    fs::rename(&partial, path).map_err(lab::Error::file("make", path))?;
    Ok(pcap)
}

fn write_header(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&MAGIC_US.to_le_bytes())?;
    out.write_all(&2_u16.to_le_bytes())?;
    out.write_all(&4_u16.to_le_bytes())?;
    out.write_all(&[0; 8])?;
    out.write_all(&SNAP_LEN.to_le_bytes())?;
    out.write_all(&LINKTYPE_ETHERNET.to_le_bytes())
}

fn write_frame(out: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let len = (frame.len() as u32).to_le_bytes();
    out.write_all(&[0; 8])?;
    out.write_all(&len)?;
    out.write_all(&len)?;
    out.write_all(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_header_and_every_flow_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let flows = Flows::udp(100);
        let pcap = of(&flows, Part::Data, dir.path(), &Interrupt::default()).expect("written");
        let bytes = fs::read(&pcap.path).expect("is there");
        assert_eq!(bytes.len(), 24 + 100 * (16 + 60));
        assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
        let mut frames: Vec<&[u8]> = bytes[24..].chunks(76).map(|record| &record[16..]).collect();
        let mut expected: Vec<Vec<u8>> = (0..100).map(|n| flows.frame(n, Part::Data)).collect();
        assert_ne!(frames, expected, "not in order");
        frames.sort();
        expected.sort();
        assert_eq!(frames, expected);
    }

    #[test]
    fn each_worker_has_the_flows_of_its_slots() {
        let dir = tempfile::tempdir().expect("a folder");
        let flows = Flows::udp(1000);
        let made = by_worker(&flows, 3, dir.path(), &Interrupt::default()).expect("written");
        assert_eq!(made.iter().map(|pcap| pcap.frames).sum::<u32>(), 1000);
        for (worker, pcap) in made.iter().enumerate() {
            assert!(pcap.frames > 200, "{worker}: {}", pcap.frames);
            let bytes = fs::read(&pcap.path).expect("is there");
            assert_eq!(bytes.len(), 24 + pcap.frames as usize * 76);
            for record in bytes[24..].chunks(76) {
                // Of the frame itself, by the engine's own way from a frame to its slot.
                let p = wire::parse(&record[16..]).expect("a good frame");
                let (key, _) = state::FlowKey::new(p.src, p.dst, p.sport, p.dport, p.proto);
                assert_eq!(state::worker_of(state::slot_of(&key), 3), worker);
            }
        }
    }

    #[test]
    fn an_interrupted_file_is_not_taken_for_a_whole_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let interrupt = Interrupt::default();
        interrupt.set();
        let stopped = of(&Flows::udp(100), Part::Data, dir.path(), &interrupt);
        assert!(stopped.expect_err("interrupted").is_interrupt());
        let pcap = of(
            &Flows::udp(100),
            Part::Data,
            dir.path(),
            &Interrupt::default(),
        );
        let pcap = pcap.expect("written");
        assert_eq!(
            fs::metadata(&pcap.path).expect("is there").len(),
            24 + 100 * 76
        );
    }
}
