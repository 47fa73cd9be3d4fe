//! What the tests of this crate share. EAL starts once per process, so each file has one test
//! that walks through its scenario; all run without hugepages and without set-up.

// Not every file uses everything.
#![allow(dead_code)]

use dpdk::{Burst, Eal, EalOptions, Mbuf, PacketBuf};

/// A running EAL with these virtual devices.
pub(crate) fn eal(vdevs: &[&str]) -> Eal {
    let vdevs = vdevs.iter().map(|vdev| (*vdev).to_owned()).collect();
    let options = EalOptions {
        vdevs,
        ..EalOptions::without_hugepages(64)
    };
    Eal::init(&options).unwrap_or_else(|error| panic!("{error}"))
}

/// Fills a buffer with a frame of `len` bytes that its number determines.
pub(crate) fn write_frame(buf: &mut Mbuf, number: u32, len: usize) {
    buf.set_len(len).expect("room for the frame");
    buf.data_mut().copy_from_slice(&frame(number, len));
}

/// Broadcast from a local address, an experimental ethertype, the number, and a pattern.
pub(crate) fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len).map(|i| (i as u32 ^ number) as u8));
    frame.truncate(len);
    frame
}

/// The frames in a burst.
pub(crate) fn frames(burst: &Burst<Mbuf>) -> Vec<Vec<u8>> {
    burst.iter().map(|buf| buf.data().to_vec()).collect()
}
