//! Ravelin: flowtable.
