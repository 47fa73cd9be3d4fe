//! The TFTP agent (RFC 1350; options RFC 2347, 2348, 2349, 7440): has the cluster expect the server's answer to a
//! request, which comes from a port that nobody knows before.
//!
//! [`request`] reads requests, [`tftp`] says what they announce. None of them does input or output, or remembers anything.
#![forbid(unsafe_code)]

pub mod request;
pub mod tftp;
