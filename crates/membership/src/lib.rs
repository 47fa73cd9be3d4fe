//! Ravelin: membership.
