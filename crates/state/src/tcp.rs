//! What is remembered of one direction of a TCP connection.

/// The sequence space that one side of a connection has used and may use.
///
/// Sequence numbers are extended to 48 bits by counting the wraps, so that "the greatest" is a
/// total order and merging is associative; serial-number arithmetic (RFC 1982) on 32 bits is not.
/// Two copies may have counted the wraps differently after a takeover; the low 32 bits are what
/// packets are compared with, so that does no harm. Terms as in G. van Rooij, Real Stateful TCP
/// Packet Filtering in IP Filter, 2001.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TcpSide {
    /// One past the last sequence number that this side has sent.
    pub end: u64,
    /// One past the last sequence number that the other side allows it to send: the other's
    /// acknowledgement plus its window.
    pub end_max: u64,
    /// The largest window in bytes that this side has advertised, scaled.
    pub window_max: u32,
    /// The window scale that its SYN announced, plus one; 0 when it announced none (RFC 7323).
    pub scale: u8,
}

/// The greatest extended sequence number that fits the archive.
pub(crate) const SEQ_MAX: u64 = (1 << 48) - 1;

impl TcpSide {
    /// Takes the greatest of every field.
    pub fn merge(&mut self, other: &Self) {
        self.end = self.end.max(other.end);
        self.end_max = self.end_max.max(other.end_max);
        self.window_max = self.window_max.max(other.window_max);
        self.scale = self.scale.max(other.scale);
    }
}

/// The extended sequence number nearest to `near` whose low 32 bits are `seq`. It stays within
/// 48 bits by wrapping, which takes 256 TiB in one direction of one connection.
#[inline]
pub const fn unwrap_seq(seq: u32, near: u64) -> u64 {
    let distance = seq.wrapping_sub(near as u32) as i32 as i64;
    near.wrapping_add_signed(distance) & SEQ_MAX
}

/// The phase of a TCP connection, derived from what both directions have shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum TcpPhase {
    /// One side has sent its SYN.
    SynSent,
    /// Both sides have sent theirs.
    SynReceived,
    /// Both SYNs are acknowledged, or the connection was picked up in its middle.
    Established,
    /// One side has sent its FIN.
    FinWait,
    /// Both sides have sent their FIN.
    Closing,
    /// Both FINs are acknowledged.
    TimeWait,
    /// A reset ended it.
    Reset,
}

impl TcpPhase {
    /// How many phases there are.
    pub const COUNT: usize = 7;

    /// The name, as configuration and output have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::Closing => "closing",
            Self::TimeWait => "time_wait",
            Self::Reset => "reset",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_extend_to_the_nearest() {
        assert_eq!(unwrap_seq(5, 0xffff_fff0 + (3 << 32)), (4 << 32) + 5);
        assert_eq!(
            unwrap_seq(0xffff_fff0, (4 << 32) + 5),
            0xffff_fff0 + (3 << 32)
        );
        assert_eq!(unwrap_seq(100, 1 << 32), (1 << 32) + 100);
        assert_eq!(unwrap_seq(0, SEQ_MAX), 0);
    }
}
