//! TCP (RFC 9293), with the options that a tracker and a test want.

use crate::Malformed;
use crate::checksum::Sum;
use crate::octets::{BufferTooShort, Writer, room};

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement field counts.
pub const ACK: u8 = 0x10;
/// The urgent pointer counts.
pub const URG: u8 = 0x20;
/// ECN echo (RFC 3168).
pub const ECE: u8 = 0x40;
/// Congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

/// The largest window scale (RFC 7323, 2.3).
pub const WINDOW_SCALE_MAX: u8 = 14;

/// Refuses combinations of flags that no stack sends.
#[inline(always)]
pub(crate) fn check_flags(flags: u8) -> Result<(), Malformed> {
    // One bit per combination of FIN, SYN, RST and, as the fourth, ACK.
    const SENSIBLE: u16 =
        1 << SYN | 1 << RST | 1 << (8 | FIN) | 1 << (8 | SYN) | 1 << (8 | RST) | 1 << 8;
    let combination = flags & (FIN | SYN | RST) | (flags & ACK) >> 1;
    if SENSIBLE >> combination & 1 != 0 {
        return Ok(());
    }
    Err(senseless(flags))
}

#[cold]
fn senseless(flags: u8) -> Malformed {
    let has = |mask| flags & mask == mask;
    if has(SYN | FIN) {
        Malformed::TcpFlagsSynFin
    } else if has(SYN | RST) {
        Malformed::TcpFlagsSynRst
    } else if has(FIN | RST) {
        Malformed::TcpFlagsFinRst
    } else if has(FIN) {
        Malformed::TcpFlagsFinOnly
    } else {
        Malformed::TcpFlagsNull
    }
}

/// The options that are read; others are skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale, at most [`WINDOW_SCALE_MAX`].
    pub window_scale: Option<u8>,
    /// Selective acknowledgements are understood (RFC 2018).
    pub sack_permitted: bool,
    /// Timestamp and echoed timestamp (RFC 7323).
    pub timestamps: Option<(u32, u32)>,
}

impl Options {
    /// Reads the octets between header and data, at most 40.
    ///
    /// # Errors
    /// [`Malformed::TcpOptions`] if an option has a length that is not its own or leads beyond
    /// the header.
    pub fn parse(mut rest: &[u8]) -> Result<Options, Malformed> {
        let mut options = Options::default();
        // Every turn takes at least one octet.
        while let [kind, after @ ..] = rest {
            if *kind == 0 {
                break;
            }
            if *kind == 1 {
                rest = after;
                continue;
            }
            let len = usize::from(*after.first().ok_or(Malformed::TcpOptions)?);
            let (option, next) = rest.split_at_checked(len).ok_or(Malformed::TcpOptions)?;
            match option {
                [2, 4, a, b] => options.mss = Some(u16::from_be_bytes([*a, *b])),
                [3, 3, shift] => options.window_scale = Some((*shift).min(WINDOW_SCALE_MAX)),
                [4, 2] => options.sack_permitted = true,
                [8, 10, a, b, c, d, e, f, g, h] => {
                    options.timestamps = Some((
                        u32::from_be_bytes([*a, *b, *c, *d]),
                        u32::from_be_bytes([*e, *f, *g, *h]),
                    ));
                }
                [2 | 3 | 4 | 8, ..] | [] | [_] => return Err(Malformed::TcpOptions),
                _ => {}
            }
            rest = next;
        }
        Ok(options)
    }

    /// Octets that the options take, padded to a multiple of 4.
    pub const fn len(&self) -> usize {
        let mut len = 0;
        if self.mss.is_some() {
            len += 4;
        }
        if self.window_scale.is_some() {
            len += 3;
        }
        if self.sack_permitted {
            len += 2;
        }
        if self.timestamps.is_some() {
            len += 10;
        }
        (len + 3) & !3
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn emit(&self, w: &mut Writer<'_>) {
        if let Some(mss) = self.mss {
            w.put(&[2, 4]).u16(mss);
        }
        if let Some(shift) = self.window_scale {
            w.put(&[3, 3, shift]);
        }
        if self.sack_permitted {
            w.put(&[4, 2]);
        }
        if let Some((value, echo)) = self.timestamps {
            w.put(&[8, 10]).u32(value).u32(echo);
        }
    }
}

/// A segment whose header is there.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Looks at a segment. Flags, options and the checksum are not verified.
    ///
    /// # Errors
    /// [`Malformed::TcpTruncated`], [`Malformed::TcpDataOffset`].
    pub fn new(segment: &'a [u8]) -> Result<Self, Malformed> {
        let header = segment
            .first_chunk::<HEADER_LEN>()
            .ok_or(Malformed::TcpTruncated)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < HEADER_LEN {
            return Err(Malformed::TcpDataOffset);
        }
        let (whole, payload) = segment
            .split_at_checked(header_len)
            .ok_or(Malformed::TcpTruncated)?;
        Ok(Segment {
            header,
            options: whole.get(HEADER_LEN..).unwrap_or_default(),
            payload,
        })
    }

    /// Source port.
    pub fn sport(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    pub fn dport(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Sequence number.
    pub fn seq(&self) -> u32 {
        let [_, _, _, _, a, b, c, d, ..] = *self.header;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Acknowledgement number.
    pub fn ack(&self) -> u32 {
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = *self.header;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The eight flags.
    pub fn flags(&self) -> u8 {
        self.header[13]
    }

    /// Window, not scaled.
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.header[14], self.header[15]])
    }

    /// Urgent pointer.
    pub fn urgent(&self) -> u16 {
        u16::from_be_bytes([self.header[18], self.header[19]])
    }

    /// The options' octets, 0 to 40.
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The data.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Repr {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The eight flags.
    pub flags: u8,
    /// Window, not scaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options.
    pub options: Options,
}

impl Repr {
    /// Reads a header.
    ///
    /// # Errors
    /// As [`Segment::new`] and [`Options::parse`], and the reasons that begin with `TcpFlags`.
    pub fn parse(segment: &[u8]) -> Result<Repr, Malformed> {
        let segment = Segment::new(segment)?;
        check_flags(segment.flags())?;
        Ok(Repr {
            sport: segment.sport(),
            dport: segment.dport(),
            seq: segment.seq(),
            ack: segment.ack(),
            flags: segment.flags(),
            window: segment.window(),
            urgent: segment.urgent(),
            options: Options::parse(segment.options())?,
        })
    }

    /// Octets that [`Repr::emit`] writes, at most 40.
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Writes the header before data that is already in place, [`Repr::header_len`] octets from
    /// the start: `segment` is both, and `pseudo` the sum of its pseudo header.
    ///
    /// # Errors
    /// If `segment` is shorter than the header.
    pub fn emit(&self, segment: &mut [u8], pseudo: Sum) -> Result<usize, BufferTooShort> {
        let header_len = self.header_len();
        let header = room(segment, header_len)?;
        header.fill(0); // the checksum, and the options' padding: "end of options"
        let mut w = Writer::new(header);
        w.u16(self.sport)
            .u16(self.dport)
            .u32(self.seq)
            .u32(self.ack)
            .u8((header_len as u8) << 2)
            .u8(self.flags)
            .u16(self.window)
            .u16(0)
            .u16(self.urgent);
        self.options.emit(&mut w);
        let checksum = pseudo.add(segment).checksum();
        if let Some(field) = crate::octets::array_mut::<2>(segment, 16) {
            *field = checksum.to_be_bytes();
        }
        Ok(header_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_make_sense_are_exactly_these() {
        let ok: Vec<u8> = (0..=0x3f).filter(|&f| check_flags(f).is_ok()).collect();
        let want: Vec<u8> = (0..=0x3f)
            .filter(|f| {
                matches!(
                    f & !(PSH | URG),
                    f if f == SYN || f == RST || f == ACK
                        || f == SYN | ACK || f == RST | ACK || f == FIN | ACK
                )
            })
            .collect();
        assert_eq!(ok, want);
        for (flags, reason) in [
            (0, Malformed::TcpFlagsNull),
            (PSH | URG, Malformed::TcpFlagsNull),
            (FIN | PSH | URG, Malformed::TcpFlagsFinOnly),
            (SYN | FIN | ACK, Malformed::TcpFlagsSynFin),
            (SYN | RST, Malformed::TcpFlagsSynRst),
            (FIN | RST | ACK, Malformed::TcpFlagsFinRst),
            (0xff, Malformed::TcpFlagsSynFin),
        ] {
            assert_eq!(check_flags(flags), Err(reason), "{flags:#x}");
        }
    }

    #[test]
    fn options_by_hand() {
        let linux = [
            2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        assert_eq!(
            Options::parse(&linux),
            Ok(Options {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some((7, 0)),
            })
        );
        assert_eq!(
            Options::parse(&[3, 3, 200, 0]).unwrap().window_scale,
            Some(14)
        );
        assert_eq!(Options::parse(&[0, 2, 1]), Ok(Options::default()));
        assert_eq!(Options::parse(&[254, 4, 1, 1]), Ok(Options::default()));
        for bad in [
            &[2u8][..],
            &[2, 0],
            &[2, 1],
            &[2, 3, 5],
            &[2, 4, 5],
            &[3, 4, 1, 1],
            &[77, 9],
        ] {
            assert_eq!(Options::parse(bad), Err(Malformed::TcpOptions), "{bad:?}");
        }
    }
}
