//! What a UDP packet carries.

use crate::Packet;

/// The payload of a whole UDP datagram; none for anything else.
pub fn datagram(packet: &Packet) -> Option<&[u8]> {
    let p = wire::parse(&packet.frame).ok()?;
    if p.proto != wire::ip::UDP || p.fragment != wire::Fragment::None {
        return None;
    }
    let datagram = packet.frame.get(usize::from(p.l4)..usize::from(p.end))?;
    Some(wire::udp::Datagram::new(datagram).ok()?.payload())
}
