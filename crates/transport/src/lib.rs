//! Ravelin: transport.
