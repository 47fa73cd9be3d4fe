//! What a node tells about itself: counters that each core keeps for itself, histograms of
//! delays, and the control socket through which `ravelin` asks `ravelind`.
//!
//! * [`mod@counters`]: one writer per block, any number of readers, no lock and no atomic
//!   read-modify-write on the packet path.
//! * [`histogram`]: delays in nanoseconds, about 3 % exact.
//! * [`control`]: the protocol on the control socket, its client and its server.
#![forbid(unsafe_code)]

pub mod control;
pub mod counters;
pub mod histogram;
