//! Ravelin: ravelin.
fn main() {}
