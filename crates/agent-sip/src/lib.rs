//! The SIP agent (RFC 3261 over UDP, with session descriptions by RFC 8866): has the cluster expect the media that
//! the two ends of a call agree upon.
//!
//! [`message`] reads SIP messages, [`sdp`] the descriptions in them, [`sip`] knows what they announce. None of
//! them does input or output.
#![forbid(unsafe_code)]

pub mod message;
pub mod sdp;
pub mod sip;
