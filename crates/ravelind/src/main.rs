//! Ravelin: ravelind.
fn main() {}
