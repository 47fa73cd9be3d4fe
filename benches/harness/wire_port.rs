//! Single packets into a gateway and out of it again, each with its number and the time.
//!
//! The gateway's ports are net_af_packet on veths; their other ends are in a namespace of ours. Times are the
//! clock's right before a packet is handed to the kernel, and the kernel's own stamp where it comes out,
//! which is taken on the gateway's cpu: when we get to read it does not matter.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use lab::program::{ip_batch, run};
use lab::{Error as LabError, Namespace};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout, ReceiveTimestampns};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recvmsg, sendmsg, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::{ClockId, clock_gettime};
use wire::build;

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::traffic::{GATEWAY, ROUTER_INSIDE};

/// The gateway's devices.
pub(crate) const INSIDE: &str = "in0";
pub(crate) const OUTSIDE: &str = "out0";

/// What tells our packets from a kernel's.
const MAGIC: [u8; 8] = *b"rvbench\0";
/// Where a datagram of UDP over IPv4 over Ethernet has its data.
const PAYLOAD: usize = 14 + 20 + 8;
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Our end of a node's ports.
#[derive(Debug)]
pub(crate) struct WirePort {
    inside: OwnedFd,
    outside: OwnedFd,
}

/// A packet that came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Came {
    /// Its number.
    pub(crate) number: u64,
    /// When, in nanoseconds of [`now_ns`].
    pub(crate) at_ns: u64,
}

impl WirePort {
    /// Connects the node's namespace with ours, unless an earlier run did.
    pub(crate) fn plug(bench: &Bench, node: &str) -> Result<()> {
        let (ours, theirs) = (bench.namespace("gen"), bench.namespace(node));
        if !ours.exists() {
            ours.create()?;
        }
        for (device, mac) in [(INSIDE, GATEWAY[0]), (OUTSIDE, GATEWAY[1])] {
            let end = end(node, device);
            if run(Some(&ours), "ip", &["link", "show", &end], "").is_ok() {
                continue;
            }
            ip_batch(
                &ours,
                &format!(
                    "link add {end} type veth peer name {device} address {mac} netns {}\n",
                    theirs.name()
                ),
            )?;
            raise(&ours, &end)?;
            raise(&theirs, device)?;
        }
        Ok(())
    }

    /// Opens our end of a node's ports.
    pub(crate) fn open(bench: &Bench, node: &str) -> Result<Self> {
        let ours = bench.namespace("gen");
        let ends = [end(node, INSIDE), end(node, OUTSIDE)];
        let [inside, outside] = inside_of(&ours, move || {
            Ok([
                packet_socket(&ends[0], false)?,
                packet_socket(&ends[1], true)?,
            ])
        })?;
        Ok(Self { inside, outside })
    }

    /// Sends a frame; returns the time before that.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<u64> {
        let at = now_ns();
        let data = [IoSlice::new(frame)];
        loop {
            match sendmsg::<()>(self.inside.as_raw_fd(), &data, &[], MsgFlags::empty(), None) {
                Ok(_) => return Ok(at),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(LabError::system("send a packet")(errno).into()),
            }
        }
    }

    /// The next of our packets that came out, waiting `patience` at most; zero looks only.
    pub(crate) fn receive(&self, patience: Duration) -> Result<Option<Came>> {
        let flags = if patience.is_zero() {
            MsgFlags::MSG_DONTWAIT
        } else {
            let limit = TimeVal::microseconds(patience.as_micros() as i64);
            setsockopt(&self.outside, ReceiveTimeout, &limit)
                .map_err(LabError::system("set a timeout"))?;
            MsgFlags::empty()
        };
        let mut frame = [0; 256];
        loop {
            let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
            let mut data = [IoSliceMut::new(&mut frame)];
            let fd = self.outside.as_raw_fd();
            let message = match recvmsg::<()>(fd, &mut data, Some(&mut space), flags) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                Err(errno) => return Err(LabError::system("receive a packet")(errno).into()),
            };
            let stamp = message
                .cmsgs()
                .map_err(LabError::system("read a packet's time"))?
                .find_map(|message| match message {
                    ControlMessageOwned::ScmTimestampns(at) => Some(at),
                    _ => None,
                });
            let bytes = message.bytes;
            let Some(number) = number(&frame[..bytes]) else {
                // What kernels say to each other.
                continue;
            };
            let stamp = stamp.ok_or_else(|| {
                Error::Machine("the kernel gives received packets no time (SO_TIMESTAMPNS)".into())
            })?;
            return Ok(Some(Came {
                number,
                at_ns: stamp.tv_sec() as u64 * 1_000_000_000 + stamp.tv_nsec() as u64,
            }));
        }
    }
}

/// The clock of all times here, which is the one that the kernel stamps packets with.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("every Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// A datagram with this number, from a client behind the inside's router.
pub(crate) fn frame(
    client: std::net::SocketAddr,
    server: std::net::SocketAddr,
    number: u64,
) -> Vec<u8> {
    let mut payload = MAGIC.to_vec();
    payload.extend(number.to_be_bytes());
    let datagram = build::udp(client, server, &payload);
    build::padded(build::with_macs(datagram, GATEWAY[0], ROUTER_INSIDE))
}

/// The number of one of our packets.
fn number(frame: &[u8]) -> Option<u64> {
    let data = frame.get(PAYLOAD..PAYLOAD + 16)?;
    let (magic, number) = data.split_at(8);
    (magic == MAGIC).then(|| u64::from_be_bytes(number.try_into().expect("eight bytes")))
}

fn end(node: &str, device: &str) -> String {
    format!("{node}-{device}")
}

/// Sets a veth's end up for frames as they are: the kernel neither finishes nor merges any, and says nothing
/// of its own.
pub(crate) fn raise(space: &Namespace, device: &str) -> Result<()> {
    let mut args = vec!["-K", device];
    for offload in ["tx", "rx", "tso", "gso", "gro"] {
        args.extend([offload, "off"]);
    }
    run(Some(space), "ethtool", &args, "")?;
    ip_batch(
        space,
        &format!("link set {device} addrgenmode none\nlink set {device} up\n"),
    )?;
    Ok(())
}

/// Does something on a thread of its own in a namespace.
pub(crate) fn inside_of<T: Send>(
    space: &Namespace,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let netns = space.open()?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET)
                .map_err(LabError::system(format!("enter {}", space.name())))?;
            work()
        });
        thread.join().expect("it does not panic")
    })
}

fn packet_socket(device: &str, receives: bool) -> Result<OwnedFd> {
    let address = link_address(device)?;
    // Without a protocol it hears nothing.
    let protocol = receives.then_some(SockProtocol::EthAll);
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )
    .map_err(LabError::system("open a packet socket"))?;
    if receives {
        setsockopt(&fd, RcvBufForce, &RECEIVE_BUFFER_BYTES)
            .map_err(LabError::system("enlarge a receive buffer"))?;
        setsockopt(&fd, ReceiveTimestampns, &true)
            .map_err(LabError::system("ask for packets' times"))?;
    }
    bind(fd.as_raw_fd(), &address).map_err(LabError::system(format!(
        "bind a packet socket to {device}"
    )))?;
    Ok(fd)
}

fn link_address(device: &str) -> Result<LinkAddr> {
    let addresses = getifaddrs().map_err(LabError::system("list interfaces"))?;
    let mut links = addresses
        .filter(|interface| interface.interface_name == device)
        .filter_map(|interface| interface.address?.as_link_addr().copied());
    links
        .next()
        .ok_or_else(|| Error::Machine(format!("the interface {device} has vanished")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_their_number() {
        let (client, server) = crate::traffic::Flows::udp(1).ends(0);
        let frame = frame(client, server, 0x0102_0304_0506_0708);
        assert_eq!(frame.len(), 60);
        let parsed = wire::parse(&frame).expect("a good frame");
        assert!(wire::verify_l4(&frame, &parsed));
        assert_eq!(number(&frame), Some(0x0102_0304_0506_0708));
        let mut other = frame.clone();
        other[PAYLOAD] ^= 1;
        assert_eq!(number(&other), None);
        assert_eq!(number(&frame[..PAYLOAD + 15]), None);
    }
}
