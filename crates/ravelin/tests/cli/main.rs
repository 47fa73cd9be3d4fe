//! The built `ravelin`, as users and scripts run it: what it prints, where, and how it ends.

mod common;
mod daemon;
mod files;
mod support;
