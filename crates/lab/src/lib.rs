//! Ravelin: a whole cluster on one machine.
