//! Bindings generated at build time from the system's DPDK, 22.11 or newer.
//!
//! Everything here is raw: `crates/dpdk` is the safe face. What is bound is the list in `build.rs`
//! plus the shims of the top-level `dpdk/shims.h`, which give a symbol to DPDK's inline
//! functions, a type to its 64-bit flag macros, and an offset to each mbuf field that Rust
//! reads. `rte_mbuf` itself is opaque, because its anonymous unions move between releases.
//!
//! DPDK is linked as pkg-config says, normally shared: drivers are then loaded at start from
//! DPDK's driver folder (`.../dpdk/pmds-*`), so no driver has to be named at link time.
#![no_std]

mod bindings {
    #![allow(
        missing_docs,
        non_camel_case_types,
        non_snake_case,
        non_upper_case_globals,
        clippy::all,
        clippy::undocumented_unsafe_blocks,
        unsafe_op_in_unsafe_fn,
        rust_2018_idioms,
        unreachable_pub
    )]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

// The safe layer keeps frames in 16-bit lengths and reads and writes these fields in place, so
// they must be aligned: that is checked against the release at hand.
const _: () = {
    let pointer = size_of::<*mut ()>();
    assert!((RAVELIN_MBUF_BUF_ADDR as usize).is_multiple_of(pointer));
    assert!((RAVELIN_MBUF_POOL as usize).is_multiple_of(pointer));
    assert!((RAVELIN_MBUF_OL_FLAGS as usize).is_multiple_of(8));
    assert!((RAVELIN_MBUF_PKT_LEN as usize).is_multiple_of(4));
    assert!((RAVELIN_MBUF_HASH_RSS as usize).is_multiple_of(4));
    assert!((RAVELIN_MBUF_DATA_OFF as usize).is_multiple_of(2));
    assert!((RAVELIN_MBUF_DATA_LEN as usize).is_multiple_of(2));
    assert!((RAVELIN_MBUF_BUF_LEN as usize).is_multiple_of(2));
    assert!((RAVELIN_MBUF_NB_SEGS as usize).is_multiple_of(2));
    assert!(RAVELIN_MBUF_SIZE as usize <= size_of::<rte_mbuf>());
};
