//! What can be tuned, its defaults and why, and the QUIC configuration made from it.

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::fault::Error;

/// Limits and timers of an endpoint. The defaults suit a cluster on one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Round trip time assumed before one is measured: handshakes are retransmitted after about
    /// three times this. QUIC's own default of 333 ms would make one lost packet cost a second.
    pub initial_rtt: Duration,
    /// A packet is sent after this much silence, so that a live connection never times out.
    pub keep_alive: Duration,
    /// A connection on which nothing was heard for so long is lost. A safety net only:
    /// membership finds the dead sooner and closes their connections itself.
    pub idle_timeout: Duration,
    /// A dialing attempt is abandoned after this.
    pub attempt_timeout: Duration,
    /// First pause between two attempts; doubles up to `backoff_max`, with jitter.
    pub backoff_min: Duration,
    /// Longest pause between two attempts.
    pub backoff_max: Duration,
    /// Longest frame, in bytes, sent or received.
    pub frame_bytes_max: usize,
    /// Most bytes queued per peer and stream, and per reply direction, length prefixes included.
    pub queue_bytes_max: usize,
    /// Most events waiting to be taken.
    pub events_max: usize,
    /// Most bytes of frames in events waiting to be taken.
    pub events_bytes_max: usize,
    /// Most received datagrams waiting to be taken; further ones are dropped.
    pub datagrams_max: usize,
    /// Most bytes of datagrams queued for sending per connection; the oldest are dropped.
    pub datagram_queue_bytes: usize,
    /// Flow control window of one stream, in bytes.
    pub stream_window: u32,
    /// Flow control window of one connection, in bytes. Well above `stream_window`, so that one
    /// stream that is not drained does not stop the others.
    pub connection_window: u32,
    /// Most unacknowledged bytes per connection. 3 Gbit/s over 10 ms are 3.75 MB.
    pub send_window: u32,
    /// Most streams that a peer may open on a connection.
    pub streams_max: u32,
    /// Largest UDP payload that MTU discovery tries, in bytes: 1452 fits Ethernet with IPv6,
    /// 8952 jumbo frames.
    pub mtu_max: u16,
    /// Socket buffer sizes asked of the kernel, in bytes: a burst of a whole send window must fit.
    pub socket_bytes: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            initial_rtt: Duration::from_millis(10),
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            frame_bytes_max: 4 << 20,
            queue_bytes_max: 8 << 20,
            events_max: 1024,
            events_bytes_max: 64 << 20,
            datagrams_max: 256,
            datagram_queue_bytes: 256 << 10,
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            send_window: 16 << 20,
            streams_max: 1024,
            mtu_max: 1452,
            socket_bytes: 8 << 20,
        }
    }
}

/// Bytes of a frame's length prefix.
pub(crate) const PREFIX_BYTES: usize = 4;

/// What a queued event is charged beyond its frame.
pub(crate) const EVENT_OVERHEAD_BYTES: usize = 128;

impl Tuning {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let positive = "a time above zero";
        check(
            !self.initial_rtt.is_zero(),
            "initial_rtt",
            &self.initial_rtt,
            positive,
        )?;
        check(
            !self.attempt_timeout.is_zero(),
            "attempt_timeout",
            &self.attempt_timeout,
            positive,
        )?;
        check(
            !self.keep_alive.is_zero(),
            "keep_alive",
            &self.keep_alive,
            positive,
        )?;
        check(
            self.idle_timeout > self.keep_alive && IdleTimeout::try_from(self.idle_timeout).is_ok(),
            "idle_timeout",
            &self.idle_timeout,
            "it must exceed keep_alive, or live connections time out",
        )?;
        check(
            !self.backoff_min.is_zero(),
            "backoff_min",
            &self.backoff_min,
            positive,
        )?;
        check(
            self.backoff_max >= self.backoff_min,
            "backoff_max",
            &self.backoff_max,
            "it must not be below backoff_min",
        )?;
        check(
            (1..=1 << 30).contains(&self.frame_bytes_max),
            "frame_bytes_max",
            &self.frame_bytes_max,
            "1 byte to 1 GiB",
        )?;
        check(
            self.queue_bytes_max >= self.frame_bytes_max + PREFIX_BYTES,
            "queue_bytes_max",
            &self.queue_bytes_max,
            "one frame of frame_bytes_max and its length prefix must fit",
        )?;
        check(
            self.events_max > 0,
            "events_max",
            &self.events_max,
            "at least 1",
        )?;
        check(
            self.events_bytes_max >= self.frame_bytes_max + EVENT_OVERHEAD_BYTES
                && self.events_bytes_max < 1 << 31,
            "events_bytes_max",
            &self.events_bytes_max,
            "one frame of frame_bytes_max and 128 bytes must fit, and it must be below 2 GiB",
        )?;
        check(
            self.datagrams_max > 0,
            "datagrams_max",
            &self.datagrams_max,
            "at least 1",
        )?;
        check(
            self.streams_max > 0,
            "streams_max",
            &self.streams_max,
            "at least 1",
        )?;
        check(
            self.stream_window > 0 && self.stream_window <= self.connection_window,
            "stream_window",
            &self.stream_window,
            "above 0, at most connection_window",
        )?;
        check(
            self.connection_window <= 1 << 30,
            "connection_window",
            &self.connection_window,
            "at most 1 GiB",
        )?;
        check(
            self.send_window > 0,
            "send_window",
            &self.send_window,
            "above 0",
        )?;
        // RFC 9000, section 14: every path carries 1200 bytes. 65527 is the largest UDP payload.
        check(
            (1200..=65527).contains(&self.mtu_max),
            "mtu_max",
            &self.mtu_max,
            "1200 to 65527",
        )
    }

    /// Expects checked values.
    pub(crate) fn quic(&self) -> Arc<TransportConfig> {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.mtu_max);
        let mut config = TransportConfig::default();
        config
            .initial_rtt(self.initial_rtt)
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            .send_window(u64::from(self.send_window))
            .max_concurrent_bidi_streams(VarInt::from_u32(self.streams_max))
            // The acceptor's greeting is the only one.
            .max_concurrent_uni_streams(VarInt::from_u32(1))
            .datagram_send_buffer_size(self.datagram_queue_bytes)
            .datagram_receive_buffer_size(Some(self.datagram_queue_bytes.max(64 << 10)))
            .mtu_discovery_config(Some(mtu));
        Arc::new(config)
    }
}

fn check(
    holds: bool,
    field: &'static str,
    value: &dyn std::fmt::Debug,
    right: &'static str,
) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::Tuning {
        field,
        value: format!("{value:?}"),
        right,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_each_nonsense_is_named() {
        Tuning::default().check().unwrap();
        let ms = Duration::from_millis;
        let cases: Vec<(&str, Tuning)> = vec![
            (
                "initial_rtt",
                Tuning {
                    initial_rtt: ms(0),
                    ..Tuning::default()
                },
            ),
            (
                "idle_timeout",
                Tuning {
                    idle_timeout: ms(900),
                    ..Tuning::default()
                },
            ),
            (
                "backoff_max",
                Tuning {
                    backoff_max: ms(10),
                    ..Tuning::default()
                },
            ),
            (
                "frame_bytes_max",
                Tuning {
                    frame_bytes_max: 0,
                    ..Tuning::default()
                },
            ),
            (
                "queue_bytes_max",
                Tuning {
                    queue_bytes_max: 4 << 20,
                    ..Tuning::default()
                },
            ),
            (
                "events_bytes_max",
                Tuning {
                    events_bytes_max: 4 << 20,
                    ..Tuning::default()
                },
            ),
            (
                "stream_window",
                Tuning {
                    stream_window: 32 << 20,
                    ..Tuning::default()
                },
            ),
            (
                "mtu_max",
                Tuning {
                    mtu_max: 1000,
                    ..Tuning::default()
                },
            ),
        ];
        for (expected, tuning) in cases {
            match tuning.check() {
                Err(Error::Tuning { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
