//! Ravelin: dpdk.
