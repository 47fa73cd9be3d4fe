//! Ravelin: state.
