//! The far end of testpmd's flow generator: counts which of its flows came through.
//!
//! testpmd's `flowgen` engine has its addresses built in: UDP from 10.254.0.0 port 1000 to
//! 10.253.0.0 + n port 1001, n counting the flows. They are nobody's, so an AF_PACKET socket reads
//! the frames; the kernel beside it answers ARP for the address that routes lead to.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

use crate::wait::Interrupt;
use crate::{Error, Result};

const SOURCE: [u8; 4] = [10, 254, 0, 0];
const DESTINATION_NET: [u8; 2] = [10, 253];
const PORTS: [u8; 4] = [0x03, 0xe8, 0x03, 0xe9]; // 1000, 1001
/// Flows that fit the destination network, 10.253.0.0/16.
pub const FLOWS_MAX: u32 = 1 << 16;
/// Room for a burst that arrives while the machine's few cores are busy elsewhere.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;

/// What came through.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkReport {
    /// Packets of the generator.
    pub packets: u64,
    /// Different flows among them.
    pub flows: u64,
    /// Flows below the expected number that were not seen, the first few.
    pub unseen: Vec<u32>,
    /// Frames that are not the generator's.
    pub other: u64,
}

/// Counts frames by flow.
#[derive(Debug)]
pub struct FlowCount {
    seen: Vec<bool>,
    packets: u64,
    other: u64,
}

impl FlowCount {
    /// Expects flows 0 to `flows - 1`.
    pub fn new(flows: u32) -> Self {
        Self {
            seen: vec![false; flows.min(FLOWS_MAX) as usize],
            packets: 0,
            other: 0,
        }
    }

    /// Counts one Ethernet frame.
    pub fn enter(&mut self, frame: &[u8]) {
        match flow_of(frame).and_then(|flow| self.seen.get_mut(flow)) {
            Some(seen) => {
                *seen = true;
                self.packets += 1;
            }
            None => self.other += 1,
        }
    }

    /// The figures so far.
    pub fn report(&self) -> SinkReport {
        let unseen = self
            .seen
            .iter()
            .enumerate()
            .filter(|(_, seen)| !**seen)
            .map(|(flow, _)| flow as u32);
        SinkReport {
            packets: self.packets,
            flows: self.seen.iter().filter(|seen| **seen).count() as u64,
            unseen: unseen.take(16).collect(),
            other: self.other,
        }
    }
}

/// A raw socket on every interface of the calling process's namespace.
pub fn open() -> Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .map_err(Error::system("open a packet socket"))?;
    setsockopt(&fd, RcvBufForce, &RECEIVE_BUFFER_BYTES)
        .map_err(Error::system("enlarge a receive buffer"))?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(300))
        .map_err(Error::system("set a timeout"))?;
    Ok(fd)
}

/// Counts what the socket brings until `stop` and then until nothing has come for a while;
/// `progress` is called about once a second.
pub fn count(
    socket: &OwnedFd,
    flows: u32,
    stop: &Interrupt,
    mut progress: impl FnMut(SinkReport) -> Result<()>,
) -> Result<SinkReport> {
    let mut count = FlowCount::new(flows);
    let mut frame = [0; 2048];
    let mut told = Instant::now();
    loop {
        match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_TRUNC) {
            Ok(length) => count.enter(&frame[..length.min(frame.len())]),
            Err(Errno::EAGAIN) => {
                if stop.is_set() {
                    return Ok(count.report());
                }
            }
            // The interface went down for a moment, or a signal came.
            Err(Errno::ENETDOWN | Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("receive frames")(errno)),
        }
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            progress(count.report())?;
        }
    }
}

/// The flow that a frame of the generator belongs to: Ethernet (14), IPv4 without options (20),
/// UDP.
fn flow_of(frame: &[u8]) -> Option<usize> {
    let [low_high, low] = frame.get(32..34)?.try_into().ok()?;
    let ours = frame.get(12..14)? == [0x08, 0x00]
        && frame.get(14)? == &0x45
        && frame.get(23)? == &17
        && frame.get(26..30)? == SOURCE
        && frame.get(30..32)? == DESTINATION_NET
        && frame.get(34..38)? == PORTS;
    ours.then_some(usize::from(u16::from_be_bytes([low_high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flow: u16) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x45;
        frame[23] = 17;
        frame[26..30].copy_from_slice(&SOURCE);
        frame[30..32].copy_from_slice(&DESTINATION_NET);
        frame[32..34].copy_from_slice(&flow.to_be_bytes());
        frame[34..38].copy_from_slice(&PORTS);
        frame
    }

    #[test]
    fn flows_are_counted_once_and_packets_always() {
        let mut count = FlowCount::new(300);
        for flow in (0..300).filter(|flow| *flow != 257) {
            count.enter(&frame(flow));
            count.enter(&frame(flow));
        }
        let report = count.report();
        assert_eq!((report.packets, report.flows, report.other), (598, 299, 0));
        assert_eq!(report.unseen, [257]);
    }

    #[test]
    fn other_frames_are_no_flows() {
        let mut count = FlowCount::new(4);
        for at in [12, 14, 23, 26, 30, 34, 37] {
            let mut other = frame(1);
            other[at] ^= 0x40;
            count.enter(&other);
        }
        count.enter(&frame(4));
        count.enter(&frame(0)[..36]);
        count.enter(&[]);
        let report = count.report();
        assert_eq!((report.packets, report.flows, report.other), (0, 0, 10));
        assert_eq!(report.unseen, [0, 1, 2, 3]);
    }
}
