//! Ravelin: dpdk-sys.
