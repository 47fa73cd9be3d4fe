//! Ravelin: config.
