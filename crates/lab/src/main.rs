//! Ravelin: lab.
fn main() {}
