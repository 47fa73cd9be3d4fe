//! Ravelin: the worker loop over a [`port::Port`], the first software entity.

pub mod port;
