//! Ravelin: wire.
