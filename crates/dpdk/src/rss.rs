//! The symmetric receive-side-scaling hash.

/// The key that makes the Toeplitz hash equal in both directions of a flow: `0x6d5a` repeated
/// (Woo and Park, "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling", 2012).
pub const RSS_KEY: [u8; 40] = key::<40>();

/// The key for a device that wants `N` bytes; `N` is even.
const fn key<const N: usize>() -> [u8; N] {
    let mut key = [0; N];
    let mut i = 0;
    while i < N {
        key[i] = if i % 2 == 0 { 0x6d } else { 0x5a };
        i += 1;
    }
    key
}

/// The key in as many bytes as a device wants.
pub(crate) fn key_of(len: usize) -> Vec<u8> {
    RSS_KEY.iter().copied().cycle().take(len).collect()
}

/// rte_softrss reads the key as 32-bit words.
#[repr(align(4))]
struct Aligned([u8; 40]);
static KEY: Aligned = Aligned(RSS_KEY);

/// DPDK's own software Toeplitz hash with [`RSS_KEY`], for comparison: the value that a device
/// reports for a packet. The tuple is in network order: source address, destination address,
/// source port, destination port; 12 bytes for IPv4 and 36 for IPv6.
///
/// # Panics
/// If the tuple's length is not a multiple of 4 or exceeds 36 bytes.
pub fn soft_rss(tuple: &[u8]) -> u32 {
    let (words, rest) = tuple.as_chunks::<4>();
    assert!(
        rest.is_empty() && words.len() <= 9,
        "an RSS tuple has 4 * n <= 36 bytes"
    );
    let mut dwords = [0u32; 9];
    for (dword, word) in dwords.iter_mut().zip(words) {
        *dword = u32::from_be_bytes(*word);
    }
    let count = words.len() as u32;
    // SAFETY: reads `count` <= 9 dwords, and `count` + 1 <= 10 of the key's 10 words, both aligned.
    unsafe { dpdk_sys::ravelin_softrss(dwords.as_ptr(), count, KEY.0.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Toeplitz by its definition: for every set bit of the input, the 32 key bits from there on.
    fn by_definition(tuple: &[u8]) -> u32 {
        let key_bit = |i: usize| u32::from(RSS_KEY[i / 8] >> (7 - i % 8) & 1);
        let mut hash = 0;
        for bit in 0..tuple.len() * 8 {
            if tuple[bit / 8] >> (7 - bit % 8) & 1 == 1 {
                hash ^= (0..32).fold(0, |window, i| window << 1 | key_bit(bit + i));
            }
        }
        hash
    }

    #[test]
    fn it_is_toeplitz() {
        let v4 = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(soft_rss(&v4), by_definition(&v4));
        assert_ne!(soft_rss(&v4), 0);
        let v6: [u8; 36] = std::array::from_fn(|i| (i * 37 + 11) as u8);
        assert_eq!(soft_rss(&v6), by_definition(&v6));
    }

    #[test]
    fn both_directions_hash_alike() {
        let forth = [10, 0, 0, 1, 192, 168, 7, 9, 0x12, 0x34, 0x00, 0x50];
        let back = [192, 168, 7, 9, 10, 0, 0, 1, 0x00, 0x50, 0x12, 0x34];
        assert_eq!(soft_rss(&forth), soft_rss(&back));
    }

    #[test]
    #[should_panic(expected = "4 * n <= 36")]
    fn a_ragged_tuple_is_refused() {
        soft_rss(&[1, 2, 3]);
    }
}
