//! Flow records as bytes: rkyv archives, little-endian, without alignment, checked before they
//! are read. Laid out so that the common record is small: IPv4 apart from IPv6, TCP's sequence
//! spaces only where there are any, marks and translations on the side.

use rkyv::{Archive, Deserialize, Serialize};

use crate::flow::{Class, FlowRecord, Life, Mark, Nat, Progress, SyncMode, Verdict};
use crate::key::{Dir, FlowKey, PROTO_TCP, v4_mapped};
use crate::tcp::{SEQ_MAX, TcpSide};

/// Why a record that is well-formed bytes is not a flow record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidRecord {
    /// Endpoint `a` must be the lower one.
    #[error("the key's endpoints are not in canonical order")]
    KeyOrder,
    /// A code that this version does not know.
    #[error("unknown code {0:#04x} in the record's bits")]
    Bits(u8),
    /// Progress bits that this version does not know.
    #[error("unknown progress bits {0:#06x}")]
    Progress(u16),
    /// A sequence number or scale out of range.
    #[error("a TCP sequence space is out of range")]
    Sequence,
    /// TCP's sequence spaces on another protocol, or none on TCP.
    #[error("sequence spaces do not go with protocol {0}")]
    Protocol(u8),
    /// A mark or translation that belongs to no record of the batch.
    #[error("an extra belongs to record {0}, which the batch does not have")]
    Extra(u32),
}

/// Flow records on their way to another node, each with its idle time in seconds: nodes' clocks
/// differ, so ages travel and times do not.
#[derive(Archive, Serialize, Deserialize, Default, Debug)]
pub struct FlowBatch {
    plain4: Vec<Plain4>,
    tcp4: Vec<Tcp4>,
    plain6: Vec<Plain6>,
    tcp6: Vec<Tcp6>,
    extras: Vec<Extra>,
}

impl FlowBatch {
    /// Adds a record that has been idle for `idle_s` seconds.
    pub fn push(&mut self, record: &FlowRecord, idle_s: u16) {
        let core = Core::of(record, idle_s);
        let (a, _) = record.key.source(Dir::AToB);
        let (b, _) = record.key.destination(Dir::AToB);
        let tcp = record.key.proto() == PROTO_TCP;
        let sides = record.tcp.map(|side| Side::of(&side));
        let (list, index) = if record.key.is_v4() {
            let ends = Ends4 {
                a: last4(a),
                b: last4(b),
            };
            if tcp {
                self.tcp4.push(Tcp4 { ends, core, sides });
                (TCP4, self.tcp4.len())
            } else {
                self.plain4.push(Plain4 { ends, core });
                (PLAIN4, self.plain4.len())
            }
        } else {
            let ends = Ends6 { a, b };
            if tcp {
                self.tcp6.push(Tcp6 { ends, core, sides });
                (TCP6, self.tcp6.len())
            } else {
                self.plain6.push(Plain6 { ends, core });
                (PLAIN6, self.plain6.len())
            }
        };
        if record.mark != Mark::default() || record.nat.is_some() {
            let at = list << LIST_SHIFT | (index - 1) as u32;
            self.extras.push(Extra::of(at, record.mark, record.nat));
        }
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.plain4.len() + self.tcp4.len() + self.plain6.len() + self.tcp6.len()
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.plain4.clear();
        self.tcp4.clear();
        self.plain6.clear();
        self.tcp6.clear();
        self.extras.clear();
    }
}

impl ArchivedFlowBatch {
    /// How many records it has.
    pub fn len(&self) -> usize {
        self.plain4.len() + self.tcp4.len() + self.plain6.len() + self.tcp6.len()
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All records with their idle times, or what is wrong with the first that is not one.
    /// A batch counts whole or not at all.
    pub fn records(&self) -> Result<Vec<(FlowRecord, u16)>, InvalidRecord> {
        const NO_SIDES: Option<&[ArchivedSide; 2]> = None;
        let mut out = Vec::with_capacity(self.len());
        for item in self.plain4.iter() {
            out.push(
                item.core
                    .record(v4_mapped(item.ends.a), v4_mapped(item.ends.b), NO_SIDES)?,
            );
        }
        let tcp4_at = out.len();
        for item in self.tcp4.iter() {
            let (a, b) = (v4_mapped(item.ends.a), v4_mapped(item.ends.b));
            out.push(item.core.record(a, b, Some(&item.sides))?);
        }
        let plain6_at = out.len();
        for item in self.plain6.iter() {
            out.push(item.core.record(item.ends.a, item.ends.b, NO_SIDES)?);
        }
        let tcp6_at = out.len();
        for item in self.tcp6.iter() {
            out.push(
                item.core
                    .record(item.ends.a, item.ends.b, Some(&item.sides))?,
            );
        }
        let bounds = [
            (0, tcp4_at),
            (tcp4_at, plain6_at),
            (plain6_at, tcp6_at),
            (tcp6_at, out.len()),
        ];
        for extra in self.extras.iter() {
            let at = extra.at.to_native();
            let (from, to) = bounds[(at >> LIST_SHIFT) as usize];
            let index = from + (at & LIST_MASK) as usize;
            if index >= to {
                return Err(InvalidRecord::Extra(at));
            }
            let (record, _) = &mut out[index];
            record.mark = Mark {
                version: extra.mark_version.to_native(),
                timeout_s: extra.timeout_s.to_native(),
                value: extra.mark.to_native(),
            };
            record.nat = extra.nat.as_ref().map(|nat| Nat {
                source: (nat.source, nat.source_port.to_native()),
                destination: (nat.destination, nat.destination_port.to_native()),
            });
        }
        Ok(out)
    }
}

const PLAIN4: u32 = 0;
const TCP4: u32 = 1;
const PLAIN6: u32 = 2;
const TCP6: u32 = 3;
/// An extra names its record by list (two bits) and index.
const LIST_SHIFT: u32 = 30;
const LIST_MASK: u32 = (1 << LIST_SHIFT) - 1;

#[derive(Archive, Serialize, Deserialize, Debug)]
struct Ends4 {
    a: [u8; 4],
    b: [u8; 4],
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct Ends6 {
    a: [u8; 16],
    b: [u8; 16],
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct Plain4 {
    ends: Ends4,
    core: Core,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct Tcp4 {
    ends: Ends4,
    core: Core,
    sides: [Side; 2],
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct Plain6 {
    ends: Ends6,
    core: Core,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct Tcp6 {
    ends: Ends6,
    core: Core,
    sides: [Side; 2],
}

const ORIGIN_BIT: u8 = 1 << 0;
const DEAD_BIT: u8 = 1 << 1;
const SYNC_SHIFT: u8 = 2;
const SYNC_BITS: u8 = 0b11 << SYNC_SHIFT;

/// What every record has, in 28 bytes.
#[derive(Archive, Serialize, Deserialize, Debug)]
struct Core {
    incarnation: u64,
    rule: u32,
    generation: u32,
    a_port: u16,
    b_port: u16,
    progress: u16,
    idle_s: u16,
    proto: u8,
    bits: u8,
    zone_from: u8,
    zone_to: u8,
}

const _: () = assert!(
    size_of::<ArchivedPlain4>() == 36,
    "the wire-bytes target rests on it"
);
const _: () = assert!(
    size_of::<ArchivedTcp4>() == 66,
    "the wire-bytes target rests on it"
);

impl Core {
    fn of(record: &FlowRecord, idle_s: u16) -> Self {
        let class = record.class;
        Self {
            incarnation: record.incarnation,
            rule: record.verdict.rule,
            generation: record.verdict.generation,
            a_port: record.key.source(Dir::AToB).1,
            b_port: record.key.source(Dir::BToA).1,
            progress: record.progress.0,
            idle_s,
            proto: record.key.proto(),
            bits: (class.origin as u8 * ORIGIN_BIT)
                | (record.life as u8 * DEAD_BIT)
                | (class.sync as u8) << SYNC_SHIFT,
            zone_from: class.zone_from,
            zone_to: class.zone_to,
        }
    }
}

impl ArchivedCore {
    fn record(
        &self,
        a: [u8; 16],
        b: [u8; 16],
        sides: Option<&[ArchivedSide; 2]>,
    ) -> Result<(FlowRecord, u16), InvalidRecord> {
        let proto = self.proto;
        let (key, dir) = FlowKey::new(
            a,
            b,
            self.a_port.to_native(),
            self.b_port.to_native(),
            proto,
        );
        if dir != Dir::AToB {
            return Err(InvalidRecord::KeyOrder);
        }
        if self.bits & !(ORIGIN_BIT | DEAD_BIT | SYNC_BITS) != 0 {
            return Err(InvalidRecord::Bits(self.bits));
        }
        let progress = self.progress.to_native();
        if progress & !Progress::ALL != 0 {
            return Err(InvalidRecord::Progress(progress));
        }
        let tcp = match (sides, proto == PROTO_TCP) {
            (Some([x, y]), true) => [x.side()?, y.side()?],
            (None, false) => Default::default(),
            _ => return Err(InvalidRecord::Protocol(proto)),
        };
        let record = FlowRecord {
            key,
            incarnation: self.incarnation.to_native(),
            class: Class {
                origin: if self.bits & ORIGIN_BIT == 0 {
                    Dir::AToB
                } else {
                    Dir::BToA
                },
                sync: match (self.bits & SYNC_BITS) >> SYNC_SHIFT {
                    0 => SyncMode::None,
                    1 => SyncMode::Delayed,
                    2 => SyncMode::Async,
                    _ => SyncMode::Ack,
                },
                zone_from: self.zone_from,
                zone_to: self.zone_to,
            },
            life: if self.bits & DEAD_BIT == 0 {
                Life::Alive
            } else {
                Life::Dead
            },
            progress: Progress(progress),
            verdict: Verdict {
                generation: self.generation.to_native(),
                rule: self.rule.to_native(),
            },
            mark: Mark::default(),
            tcp,
            nat: None,
        };
        Ok((record, self.idle_s.to_native()))
    }
}

/// One direction's sequence space in 15 bytes.
#[derive(Archive, Serialize, Deserialize, Debug)]
struct Side {
    end_low: u32,
    /// `end_max - end`: at most a scaled window away, in either direction.
    allowance: i32,
    window_max: u32,
    end_high: u16,
    scale: u8,
}

impl Side {
    fn of(side: &TcpSide) -> Self {
        let allowance = side.end_max.wrapping_sub(side.end) as i64;
        Self {
            end_low: side.end as u32,
            end_high: (side.end >> 32) as u16,
            allowance: allowance.clamp(i32::MIN.into(), i32::MAX.into()) as i32,
            window_max: side.window_max,
            scale: side.scale,
        }
    }
}

impl ArchivedSide {
    fn side(&self) -> Result<TcpSide, InvalidRecord> {
        let end = u64::from(self.end_high.to_native()) << 32 | u64::from(self.end_low.to_native());
        let end_max = end.wrapping_add_signed(self.allowance.to_native().into()) & SEQ_MAX;
        // RFC 7323: a scale is at most 14.
        if self.scale > 15 {
            return Err(InvalidRecord::Sequence);
        }
        Ok(TcpSide {
            end,
            end_max,
            window_max: self.window_max.to_native(),
            scale: self.scale,
        })
    }
}

/// What few records have.
#[derive(Archive, Serialize, Deserialize, Debug)]
struct Extra {
    at: u32,
    mark: u32,
    mark_version: u16,
    timeout_s: u16,
    nat: Option<WireNat>,
}

impl Extra {
    fn of(at: u32, mark: Mark, nat: Option<Nat>) -> Self {
        let nat = nat.map(|nat| WireNat {
            source: nat.source.0,
            source_port: nat.source.1,
            destination: nat.destination.0,
            destination_port: nat.destination.1,
        });
        Self {
            at,
            mark: mark.value,
            mark_version: mark.version,
            timeout_s: mark.timeout_s,
            nat,
        }
    }
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct WireNat {
    source: [u8; 16],
    source_port: u16,
    destination: [u8; 16],
    destination_port: u16,
}

fn last4(address: [u8; 16]) -> [u8; 4] {
    let [.., a, b, c, d] = address;
    [a, b, c, d]
}
