//! Ravelin: failure detection and views. Pure: events and the time come in as arguments, messages
//! and the next deadline come out as values.
#![forbid(unsafe_code)]

mod view;

pub use view::{Member, MemberState, View};
