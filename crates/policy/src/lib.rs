//! Ravelin: policy.
