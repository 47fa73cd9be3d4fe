//! The FTP agent (RFC 959, RFC 2428): follows control connections, and has the cluster expect the data connections
//! that they announce.
//!
//! [`agent::stream`] puts the segments of one direction in order, [`mod@line`] reads what they say, [`session`] knows
//! what that means for a connection, and [`ftp`] has all of them. None of them does input or output.
#![forbid(unsafe_code)]

pub mod ftp;
pub mod line;
pub mod session;
