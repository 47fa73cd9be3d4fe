//! Ravelin: telemetry.
