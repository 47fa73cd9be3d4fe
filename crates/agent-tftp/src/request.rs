//! Read and write requests.

/// The longest request, in octets (RFC 2347).
pub const REQUEST_MAX: usize = 512;

/// A request that is well-formed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// RRQ: the client wants a file.
    Read,
    /// WRQ: the client has one.
    Write,
}

/// Reads a datagram that a client sent to a server's well-known port: an opcode, a file's name, a mode (RFC 1350,
/// section 5), and options by name and value (RFC 2347). Which options are known, and whether a value suits, is the
/// server's business: it answers what does not with an error, from the new port as well.
pub fn request(datagram: &[u8]) -> Option<Request> {
    if datagram.len() > REQUEST_MAX {
        return None;
    }
    let (opcode, rest) = datagram.split_first_chunk::<2>()?;
    let request = match u16::from_be_bytes(*opcode) {
        1 => Request::Read,
        2 => Request::Write,
        _ => return None,
    };
    let rest = rest.strip_suffix(&[0])?;
    let mut texts = rest.split(|octet| *octet == 0);
    let (file, mode) = (texts.next()?, texts.next()?);
    let modes: [&[u8]; 3] = [b"netascii", b"octet", b"mail"];
    let known = modes.iter().any(|known| mode.eq_ignore_ascii_case(known));
    if file.is_empty() || !known {
        return None;
    }
    loop {
        match (texts.next(), texts.next()) {
            (None, _) => return Some(request),
            (Some(name), Some(value)) if !name.is_empty() && !value.is_empty() => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_of_the_standards() {
        for (datagram, expected) in [
            (&b"\0\x01boot.img\0octet\0"[..], Some(Request::Read)),
            (b"\0\x02f\0NetASCII\0", Some(Request::Write)),
            (b"\0\x01f\0mail\0", Some(Request::Read)),
            // RFC 2348, RFC 2349, RFC 7440.
            (
                b"\0\x01foobar\0octet\0blksize\x001428\0",
                Some(Request::Read),
            ),
            (
                b"\0\x02foobar\0octet\0tsize\x00673312\0timeout\x001\0windowsize\x0016\0",
                Some(Request::Write),
            ),
            // DATA, ACK, ERROR: of a server that answers from its own port, or of nobody.
            (b"\0\x03\0\x01data", None),
            (b"\0\x04\0\x01", None),
            (b"\0\x05\0\x01no\0", None),
            (b"\x01\x01f\0octet\0", None),
            // Cut short, without a name, of no mode, with half an option.
            (b"", None),
            (b"\0", None),
            (b"\0\x01", None),
            (b"\0\x01\0", None),
            (b"\0\x01\0octet\0", None),
            (b"\0\x01f\0octet", None),
            (b"\0\x01f\0binary\0", None),
            (b"\0\x01f\0octet\0blksize\0", None),
            (b"\0\x01f\0octet\0blksize\0\0", None),
            (b"\0\x01f\0octet\0\x001428\0", None),
            (b"\0\x01f\0octet\0\0", None),
        ] {
            assert_eq!(request(datagram), expected, "{datagram:?}");
        }
        let mut long = b"\0\x01".to_vec();
        long.resize(REQUEST_MAX - 7, b'f');
        long.extend_from_slice(b"\0octet\0");
        assert_eq!(request(&long), Some(Request::Read));
        long.insert(2, b'f');
        assert_eq!(request(&long), None, "longer than any request");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_makes_it_panic(datagram in prop::collection::vec(any::<u8>(), 0..600)) {
            request(&datagram);
        }

        /// A request that lost its end or has something else in it is none, or one of the same kind.
        #[test]
        fn damaged_requests(
            cut in 0_usize..60,
            at in 2_usize..60,
            octet in any::<u8>(),
        ) {
            let mut datagram = b"\0\x01some/file\0octet\0blksize\x001428\0tsize\x000\0".to_vec();
            datagram.truncate(cut);
            if let Some(place) = datagram.get_mut(at) {
                *place = octet;
            }
            prop_assert_ne!(request(&datagram), Some(Request::Write));
        }
    }
}
