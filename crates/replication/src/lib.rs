//! Ravelin: replication.
