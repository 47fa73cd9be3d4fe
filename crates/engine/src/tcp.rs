//! Following a TCP connection by its segments.
//!
//! The window checks are those of G. van Rooij, Real Stateful TCP Packet Filtering in IP Filter
//! (2001), section 4; resets are treated after RFC 5961, section 3: one that is in the window but
//! not exactly at the expected sequence number passes and ends nothing here.

use state::{Class, Dir, FlowRecord, Progress, TcpPhase, TcpSide, unwrap_seq};
use wire::tcp::{ACK, FIN, RST, SYN};

/// How far behind the end of what was sent an acknowledgement may lie, at least.
const ACK_WINDOW: u64 = 66_000;

/// Where extended sequence numbers start, so that earlier ones are still positive.
const SEQ_BASE: u64 = 1 << 32;

/// What a segment means for its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It passes; the record is updated.
    Pass,
    /// It passes and changes nothing: the endpoint decides.
    PassUntracked,
    /// It lies outside of the windows.
    OutOfWindow,
    /// The state does not allow it.
    Invalid,
    /// It opens a new connection with the same ports.
    Reopen,
}

/// The sequence spaces after the first segment seen of a connection.
pub(crate) fn open(seg: &wire::Tcp, dir: Dir) -> ([TcpSide; 2], Progress) {
    let mut sides = [TcpSide::default(); 2];
    let syn = seg.flags & SYN != 0;
    let end = SEQ_BASE + u64::from(seg.seq) + u64::from(length(seg));
    let scale = if syn {
        seg.window_scale.map_or(0, scale_code)
    } else {
        SCALE_UNKNOWN
    };
    sides[dir.index()] = TcpSide {
        end,
        end_max: end,
        window_max: u32::from(seg.window).max(1),
        scale,
    };
    let progress = if syn {
        Progress::seen(dir).union(Progress::syn(dir))
    } else {
        Progress::seen(dir).union(Progress::picked_up())
    };
    (sides, progress)
}

/// What a worker knows besides the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// Whether segments outside of the windows are refused.
    pub(crate) strict: bool,
    /// Whether the sender's window is that of an old copy: it is followed and not enforced.
    pub(crate) sender_behind: bool,
    /// The same of the receiver.
    pub(crate) receiver_behind: bool,
}

/// Checks a segment that goes in `dir` against the connection and notes what it tells.
#[inline]
pub(crate) fn track(
    record: &mut FlowRecord,
    dir: Dir,
    seg: &wire::Tcp,
    context: Context,
) -> Outcome {
    if goes_on(record, dir, seg, context) {
        return Outcome::Pass;
    }
    track_any(record, dir, seg, context)
}

/// Nearly every segment: an acknowledgement, with or without data, in the middle of an established connection and
/// inside of the windows. Says whether it is one, and has noted it then; if not, nothing has changed.
#[inline(always)]
pub(crate) fn goes_on(
    record: &mut FlowRecord,
    dir: Dir,
    seg: &wire::Tcp,
    context: Context,
) -> bool {
    let usual = seg.flags & (SYN | ACK | FIN | RST) == ACK
        && record.progress.but_expected() == Progress::established()
        && context.strict
        && !context.sender_behind
        && !context.receiver_behind;
    if !usual {
        return false;
    }
    let [a, b] = &mut record.tcp;
    let (sender, receiver) = match dir {
        Dir::AToB => (a, b),
        Dir::BToA => (b, a),
    };
    let seq = unwrap_seq(seg.seq, sender.end);
    let end = seq + u64::from(seg.payload_len);
    let acked = unwrap_seq(seg.ack, receiver.end);
    let scaled = sender.scale != 0 && receiver.scale != 0;
    let shift = if scaled {
        u32::from(sender.scale - 1)
    } else {
        0
    };
    let window = u32::from(seg.window) << shift;
    let slack = ACK_WINDOW.max(u64::from(sender.window_max.max(window)));
    let inside = sender.end != 0
        && receiver.end != 0
        && seq <= sender.end_max
        && end + u64::from(receiver.window_max) >= sender.end
        && acked <= receiver.end
        && acked + slack >= receiver.end;
    if !inside {
        return false;
    }
    sender.end = sender.end.max(end);
    sender.window_max = sender.window_max.max(window.max(1));
    receiver.end_max = receiver.end_max.max(acked + u64::from(window.max(1)));
    true
}

/// [`track`] for every segment.
fn track_any(record: &mut FlowRecord, dir: Dir, seg: &wire::Tcp, context: Context) -> Outcome {
    let Class { origin, .. } = record.class;
    let phase = record.progress.tcp_phase();
    let (syn, ack) = (seg.flags & SYN != 0, seg.flags & ACK != 0);
    let (rst, fin) = (seg.flags & RST != 0, seg.flags & FIN != 0);
    if syn && !ack {
        match phase {
            TcpPhase::TimeWait | TcpPhase::Reset => return Outcome::Reopen,
            TcpPhase::SynSent if dir == origin => {
                let expected = record.tcp[dir.index()].end as u32;
                if seg.seq.wrapping_add(length(seg)) != expected {
                    return Outcome::Reopen;
                }
            }
            TcpPhase::SynSent | TcpPhase::SynReceived => {}
            _ if begins_anew(record, dir, seg, context) => return Outcome::Reopen,
            _ => return Outcome::PassUntracked,
        }
    }

    let sender = record.tcp[dir.index()];
    let receiver = record.tcp[dir.reverse().index()];
    let sender_known = sender.end != 0;
    let receiver_known = receiver.end != 0;
    if !sender_known && rst {
        // The answer to a SYN: it must acknowledge it (RFC 9293, 3.10.7.3).
        let refused = ack && receiver_known && seg.ack == receiver.end as u32;
        if !refused {
            return Outcome::Invalid;
        }
        record.progress = record
            .progress
            .union(Progress::seen(dir))
            .union(Progress::reset());
        return Outcome::Pass;
    }

    let picked_up = record.progress.contains(Progress::picked_up());
    if !receiver_known && !syn && !picked_up && !context.receiver_behind {
        // Data or an acknowledgement before the other side has answered.
        return Outcome::Invalid;
    }

    let near = if sender_known {
        sender.end
    } else {
        SEQ_BASE + u64::from(seg.seq)
    };
    let seq = unwrap_seq(seg.seq, near);
    let end = seq + u64::from(length(seg));
    let acked = if ack && receiver_known {
        unwrap_seq(seg.ack, receiver.end)
    } else if ack {
        SEQ_BASE + u64::from(seg.ack)
    } else {
        receiver.end
    };

    let mut sender = sender;
    if !sender_known {
        sender.scale = if syn {
            seg.window_scale.map_or(0, scale_code)
        } else if record.progress.contains(Progress::syn(dir.reverse())) && receiver.scale == 0 {
            0
        } else {
            SCALE_UNKNOWN
        };
    }
    // Scaling needs the option on both sides' SYN.
    let shift = if syn || sender.scale == 0 || (receiver_known && receiver.scale == 0) {
        0
    } else {
        u32::from(sender.scale - 1)
    };
    let window = u32::from(seg.window) << shift;

    if context.strict {
        let reach = u64::from(receiver.window_max);
        let sent_too_far = sender_known
            && !context.sender_behind
            && !context.receiver_behind
            && seq > sender.end_max;
        let long_gone = sender_known && !context.receiver_behind && end + reach < sender.end;
        let acks_unsent = receiver_known && !context.receiver_behind && acked > receiver.end;
        // What is in flight lies below the right edge of this very segment's window.
        let slack = ACK_WINDOW.max(u64::from(sender.window_max.max(window)));
        let acks_ancient =
            receiver_known && !context.receiver_behind && acked + slack < receiver.end;
        if sent_too_far || long_gone || acks_unsent || acks_ancient {
            return Outcome::OutOfWindow;
        }
    }

    let mut receiver = receiver;
    if rst {
        record.progress = record.progress.union(Progress::seen(dir));
        // Of an old copy nobody knows where the sender is now: then what is ahead of it may be there.
        if seq == sender.end || context.sender_behind && seq > sender.end {
            record.progress = record.progress.union(Progress::reset());
        }
        return Outcome::Pass;
    }
    if !sender_known {
        sender.end = end;
        sender.end_max = end;
    }
    sender.end = sender.end.max(end);
    sender.window_max = sender.window_max.max(window.max(1));
    if context.sender_behind {
        sender.end_max = sender.end_max.max(end);
    }
    let mut progress = record.progress.union(Progress::seen(dir));
    if syn {
        progress = progress.union(Progress::syn(dir));
    }
    if ack {
        if receiver_known {
            if context.receiver_behind {
                receiver.end = receiver.end.max(acked);
            }
            receiver.end_max = receiver.end_max.max(acked + u64::from(window.max(1)));
        }
        // Whoever acknowledges without SYN has sent its SYN before, and has got the other's.
        if !syn {
            progress = progress.union(Progress::syn(dir));
        }
        progress = progress.union(Progress::syn_acked(dir.reverse()));
        if progress.contains(Progress::fin(dir.reverse())) && acked == receiver.end {
            progress = progress.union(Progress::fin_acked(dir.reverse()));
        }
    }
    if fin {
        progress = progress.union(Progress::fin(dir));
    }
    record.progress = progress;
    record.tcp[dir.index()] = sender;
    record.tcp[dir.reverse().index()] = receiver;
    Outcome::Pass
}

/// Whether a SYN in the middle of what is known of a connection is the first segment of another one. An endpoint that
/// opens anew is through with the old connection, which this node need not know: the last acknowledgement passed
/// another node, or passed here before the other side's FIN was told. Where both sides have sent their FIN nothing is
/// lost by it. With one FIN known it could be forged to break a half-closed connection (RFC 5961, section 4), so
/// that counts only where windows are not enforced anyway, and the old connection's packets go on to pass.
fn begins_anew(record: &FlowRecord, dir: Dir, seg: &wire::Tcp, context: Context) -> bool {
    let fin = |dir| record.progress.contains(Progress::fin(dir));
    let over = match context.sender_behind && !context.strict {
        true => fin(dir),
        false => fin(dir) && fin(dir.reverse()),
    };
    // A late copy of the connection's own SYN lies a little below what was sent since.
    let side = record.tcp[dir.index()];
    let seq = unwrap_seq(seg.seq, side.end);
    over && (seq >= side.end || seq + LATE_SYN < side.end)
}

/// How far below the end of what a side has sent its own SYN, come late, may lie. A connection that has sent more is
/// older than any copy of a segment in the network.
const LATE_SYN: u64 = 1 << 24;

/// Whether an ICMP error that quotes sequence number `seq` of a segment sent in `dir` can be about
/// a segment that was sent: blind ones hardly can (RFC 5927, section 4.1).
pub(crate) fn quotes_sent(record: &FlowRecord, dir: Dir, seq: u32) -> bool {
    let side = record.tcp[dir.index()];
    let seq = unwrap_seq(seq, side.end);
    let window = u64::from(record.tcp[dir.reverse().index()].window_max).max(ACK_WINDOW);
    side.end != 0 && seq <= side.end && seq + window >= side.end
}

/// The scale of a side whose SYN was not seen: the greatest, so that nothing valid is refused.
const SCALE_UNKNOWN: u8 = 15;

/// RFC 7323, section 2.3: a shift above 14 counts as 14.
fn scale_code(shift: u8) -> u8 {
    shift.min(14) + 1
}

/// The sequence numbers that a segment takes.
fn length(seg: &wire::Tcp) -> u32 {
    seg.payload_len + u32::from(seg.flags & SYN != 0) + u32::from(seg.flags & FIN != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use state::{FlowKey, Life, Mark, SyncMode, Verdict};

    /// Of a flow whose opener is endpoint `a`.
    fn record(tcp: [TcpSide; 2], progress: Progress) -> FlowRecord {
        let (key, origin) = FlowKey::new([1; 16], [2; 16], 1, 2, state::PROTO_TCP);
        FlowRecord {
            key,
            incarnation: 1,
            class: Class {
                origin,
                sync: SyncMode::Ack,
                zone_from: 0,
                zone_to: 1,
            },
            life: Life::Alive,
            progress,
            verdict: Verdict::default(),
            mark: Mark::default(),
            tcp,
            nat: None,
        }
    }

    fn side() -> impl Strategy<Value = TcpSide> {
        let end = prop_oneof![4 => SEQ_BASE..SEQ_BASE + 200_000, 1 => Just(0)];
        (end, 0u64..100_000, 1u32..100_000, 0u8..16).prop_map(|(end, open, window_max, scale)| {
            TcpSide {
                end,
                end_max: end + open,
                window_max,
                scale,
            }
        })
    }

    proptest! {
        /// The shortcut takes no segment that the long way refuses, and notes what that notes.
        #[test]
        fn the_shortcut_does_what_the_long_way_does(
            sides in [side(), side()],
            progress in prop_oneof![3 => Just(Progress::established()), 1 => (0u16..1 << 12).prop_map(Progress)],
            back: bool,
            (seq, ack) in (0u32..200_000, 0u32..200_000),
            flags in prop_oneof![3 => Just(ACK), 1 => any::<u8>()],
            window: u16,
            payload_len in 0u32..1460,
            behind: (bool, bool),
        ) {
            let origin = Dir::AToB;
            let record = record(sides, progress);
            let dir = if back { origin.reverse() } else { origin };
            let seg = wire::Tcp { seq, ack, window, flags, payload_len, window_scale: None, mss: None };
            let context = Context { strict: true, sender_behind: behind.0, receiver_behind: behind.1 };
            let (mut short, mut long) = (record, record);
            if goes_on(&mut short, dir, &seg, context) {
                prop_assert_eq!(track_any(&mut long, dir, &seg, context), Outcome::Pass);
                prop_assert_eq!(short, long);
            } else {
                prop_assert_eq!(short, record, "nothing has changed");
            }
        }
    }

    #[test]
    fn segments_of_an_established_connection_take_the_shortcut() {
        let side = TcpSide {
            end: SEQ_BASE + 100,
            end_max: SEQ_BASE + 5_000,
            window_max: 4_900,
            scale: 0,
        };
        let origin = Dir::AToB;
        let mut record = record([side; 2], Progress::established());
        let seg = wire::Tcp {
            seq: 100,
            ack: 100,
            window: 500,
            flags: ACK,
            payload_len: 9,
            window_scale: None,
            mss: None,
        };
        let context = Context {
            strict: true,
            sender_behind: false,
            receiver_behind: false,
        };
        assert!(goes_on(&mut record, origin, &seg, context));
        assert_eq!(record.tcp[origin.index()].end, SEQ_BASE + 109);
    }

    /// What a SYN of `a`'s, numbered `seq`, is to a connection in which `a` has sent up to number 50,000,000.
    fn opens_anew(fins: [bool; 2], seq: u32, shared: bool) -> Outcome {
        let side = TcpSide {
            end: SEQ_BASE + 50_000_000,
            end_max: SEQ_BASE + 50_010_000,
            window_max: 4_900,
            scale: 0,
        };
        let mut progress = Progress::established();
        for (dir, fin) in [Dir::AToB, Dir::BToA].into_iter().zip(fins) {
            if fin {
                progress = progress.union(Progress::fin(dir));
            }
        }
        let mut record = record([side; 2], progress);
        let seg = wire::Tcp {
            seq,
            ack: 0,
            window: 500,
            flags: SYN,
            payload_len: 0,
            window_scale: None,
            mss: None,
        };
        let context = Context {
            strict: !shared,
            sender_behind: shared,
            receiver_behind: shared,
        };
        track(&mut record, Dir::AToB, &seg, context)
    }

    #[test]
    fn a_syn_opens_anew_once_what_is_left_of_the_old_connection_can_be_done_without() {
        use Outcome::{PassUntracked, Reopen};
        let (ahead, late, behind) = (1_500_000_000, 49_999_000, 50);
        for shared in [false, true] {
            for seq in [ahead, behind] {
                assert_eq!(opens_anew([true, true], seq, shared), Reopen);
                assert_eq!(opens_anew([false, false], seq, shared), PassUntracked);
                assert_eq!(opens_anew([false, true], seq, shared), PassUntracked);
            }
            // It has sent less than it could have since.
            assert_eq!(opens_anew([true, true], late, shared), PassUntracked);
        }
        // The other side's FIN may have passed another node; where windows are enforced it has not.
        assert_eq!(opens_anew([true, false], ahead, true), Reopen);
        assert_eq!(opens_anew([true, false], ahead, false), PassUntracked);
    }
}
