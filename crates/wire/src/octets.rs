//! Reading and writing at offsets without a way to panic.

/// A buffer is too small for what is to be written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the buffer holds {given} octets, and {needed} are to be written")]
pub struct BufferTooShort {
    /// Octets needed.
    pub needed: usize,
    /// Octets that the buffer has.
    pub given: usize,
}

#[inline(always)]
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(|octets| u16::from_be_bytes(*octets))
}

/// The `N` octets at `at`.
#[inline(always)]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// The `N` octets at `at`, to be written.
#[inline(always)]
pub(crate) fn array_mut<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..)?.first_chunk_mut()
}

/// The first `needed` octets of a buffer to emit into.
#[inline]
pub(crate) fn room(buf: &mut [u8], needed: usize) -> Result<&mut [u8], BufferTooShort> {
    let given = buf.len();
    buf.get_mut(..needed)
        .ok_or(BufferTooShort { needed, given })
}

/// The first `N` octets of a buffer to emit into, and the rest.
#[inline]
pub(crate) fn head<const N: usize>(
    buf: &mut [u8],
) -> Result<(&mut [u8; N], &mut [u8]), BufferTooShort> {
    let given = buf.len();
    buf.split_first_chunk_mut()
        .ok_or(BufferTooShort { needed: N, given })
}

/// Writes header fields one after another: `put(&mut at, &[..])`. Emitting a header this way
/// keeps each field next to its name instead of its offset.
pub(crate) struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    pub(crate) fn new(buf: &'a mut [u8]) -> Self {
        Writer { rest: buf }
    }

    /// Writes as much of `octets` as there is room for; callers have made the room.
    pub(crate) fn put(&mut self, octets: &[u8]) -> &mut Self {
        let len = octets.len().min(self.rest.len());
        let (here, rest) = std::mem::take(&mut self.rest).split_at_mut(len);
        here.copy_from_slice(&octets[..len]);
        self.rest = rest;
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }
}
