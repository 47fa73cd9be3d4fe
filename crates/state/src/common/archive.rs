//! Common state as bytes: rkyv archives, little-endian, without alignment, checked before they
//! are read.

use rkyv::{Archive, Deserialize, Serialize};

use super::key::CommonKey;
use super::map::CommonError;
use super::shift::{SHIFTS_MAX, SeqShift, SideShift};
use super::value::{
    Block, BlockReason, CommonEntry, CommonValue, Expectation, GROUPS_MAX, Lease, PolicyAt,
    PolicyText, Secret, Suite, Tunnel, User,
};
use crate::clock::Stamp;
use crate::flow::SyncMode;
use crate::key::{Dir, FlowKey};

/// Why an entry that is well-formed bytes is not an entry of common state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidCommon {
    /// Bytes that are no key.
    #[error("no key has these bytes; the first is {0:#04x}")]
    Key(u8),
    /// A stamp that no clock can have shown.
    #[error("the stamp {0:?} is out of range")]
    Stamp(Stamp),
    /// A code that this version does not know.
    #[error("unknown code {code:#04x} of a {what}")]
    Code {
        /// Of what.
        what: &'static str,
        /// The code.
        code: u8,
    },
    /// The parent connection's endpoints must be in canonical order.
    #[error("the parent connection's endpoints are not in canonical order")]
    Parent,
    /// Sums or steps out of range or order.
    #[error("the steps of sequence numbers are out of range or order")]
    Steps,
    /// A deletion that ends.
    #[error("a tombstone with an end")]
    MortalTombstone,
    /// The value may not stand under the key.
    #[error("{0}")]
    Value(#[source] CommonError),
}

/// Entries of common state on their way to another node.
#[derive(Archive, Serialize, Deserialize, Default, Debug)]
pub struct CommonBatch {
    entries: Vec<WireEntry>,
}

impl CommonBatch {
    /// Adds an entry.
    pub fn push(&mut self, entry: &CommonEntry) {
        self.entries.push(WireEntry {
            key: entry.key.to_bytes(),
            stamp: entry.stamp.0,
            left_ms: entry.left_ms,
            value: entry.value.as_ref().map(WireValue::of),
        });
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl ArchivedCommonBatch {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, or what is wrong with the first that is not one. A batch counts whole or not at
    /// all.
    ///
    /// # Errors
    /// When an entry cannot be.
    pub fn entries(&self) -> Result<Vec<CommonEntry>, InvalidCommon> {
        self.entries.iter().map(ArchivedWireEntry::entry).collect()
    }
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct WireEntry {
    key: [u8; CommonKey::BYTES],
    stamp: u64,
    left_ms: Option<u64>,
    value: Option<WireValue>,
}

/// An address and a port.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
struct WireEnd {
    address: [u8; 16],
    port: u16,
}

#[derive(Archive, Serialize, Deserialize)]
enum WireValue {
    Block {
        reason: u8,
        note: String,
    },
    User {
        name: String,
        groups: Vec<String>,
    },
    Expectation {
        parent_a: WireEnd,
        parent_b: WireEnd,
        parent_proto: u8,
        zone_from: u8,
        zone_to: u8,
        rule: u32,
        sync: u8,
        mark: u32,
        once: bool,
    },
    Tunnel {
        local: WireEnd,
        remote: WireEnd,
        spi_in: u32,
        spi_out: u32,
        suite: u8,
        key_in: Vec<u8>,
        key_out: Vec<u8>,
        rekeyed: u32,
    },
    Lease {
        from: u64,
        to: u64,
    },
    Policy {
        generation: u32,
        text: String,
        note: String,
    },
    PolicyAt {
        generation: u32,
        tried: u32,
        error: Option<String>,
    },
    SeqShift {
        incarnation: u64,
        a: WireSide,
        b: WireSide,
    },
}

/// The numbers of what one end sends.
#[derive(Archive, Serialize, Deserialize, Debug)]
struct WireSide {
    base: i32,
    steps: Vec<WireStep>,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct WireStep {
    at: u32,
    by: i32,
}

/// Shows no content: it may be key material.
impl std::fmt::Debug for WireValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WireValue")
    }
}

impl WireValue {
    fn of(value: &CommonValue) -> Self {
        let end = |(address, port)| WireEnd { address, port };
        match value {
            CommonValue::Block(block) => Self::Block {
                reason: block.reason as u8,
                note: block.note.clone(),
            },
            CommonValue::User(user) => Self::User {
                name: user.name.clone(),
                groups: user.groups.clone(),
            },
            CommonValue::Expectation(expectation) => Self::Expectation {
                parent_a: end(expectation.parent.source(Dir::AToB)),
                parent_b: end(expectation.parent.source(Dir::BToA)),
                parent_proto: expectation.parent.proto(),
                zone_from: expectation.zone_from,
                zone_to: expectation.zone_to,
                rule: expectation.rule,
                sync: expectation.sync as u8,
                mark: expectation.mark,
                once: expectation.once,
            },
            CommonValue::Tunnel(tunnel) => Self::Tunnel {
                local: end(tunnel.local),
                remote: end(tunnel.remote),
                spi_in: tunnel.spi_in,
                spi_out: tunnel.spi_out,
                suite: tunnel.suite as u8,
                key_in: tunnel.key_in.expose().to_vec(),
                key_out: tunnel.key_out.expose().to_vec(),
                rekeyed: tunnel.rekeyed,
            },
            CommonValue::Lease(lease) => Self::Lease {
                from: lease.from,
                to: lease.to,
            },
            CommonValue::Policy(policy) => Self::Policy {
                generation: policy.generation,
                text: policy.text.clone(),
                note: policy.note.clone(),
            },
            CommonValue::PolicyAt(at) => Self::PolicyAt {
                generation: at.generation,
                tried: at.tried,
                error: at.error.clone(),
            },
            CommonValue::SeqShift(shift) => {
                let side = |dir| {
                    let (base, steps) = shift.side(dir).parts();
                    let steps = steps.iter().map(|&(at, by)| WireStep { at, by });
                    WireSide {
                        base,
                        steps: steps.collect(),
                    }
                };
                Self::SeqShift {
                    incarnation: shift.incarnation,
                    a: side(Dir::AToB),
                    b: side(Dir::BToA),
                }
            }
        }
    }
}

impl ArchivedWireEntry {
    fn entry(&self) -> Result<CommonEntry, InvalidCommon> {
        let key = CommonKey::from_bytes(&self.key).ok_or(InvalidCommon::Key(self.key[0]))?;
        let stamp = Stamp(self.stamp.to_native());
        if !stamp.plausible() {
            return Err(InvalidCommon::Stamp(stamp));
        }
        let value = match self.value.as_ref() {
            Some(value) => Some(value.value()?),
            None => None,
        };
        let left_ms = self.left_ms.as_ref().map(|left_ms| left_ms.to_native());
        match &value {
            Some(value) => value.check(&key).map_err(InvalidCommon::Value)?,
            None if left_ms.is_some() => return Err(InvalidCommon::MortalTombstone),
            None => {}
        }
        Ok(CommonEntry {
            key,
            stamp,
            value,
            left_ms,
        })
    }
}

impl ArchivedWireEnd {
    fn end(&self) -> ([u8; 16], u16) {
        (self.address, self.port.to_native())
    }
}

impl ArchivedWireSide {
    fn side(&self) -> Result<SideShift, InvalidCommon> {
        if self.steps.len() > SHIFTS_MAX {
            return Err(InvalidCommon::Steps);
        }
        let step = |step: &ArchivedWireStep| (step.at.to_native(), step.by.to_native());
        let steps: Vec<(u32, i32)> = self.steps.iter().map(step).collect();
        SideShift::of_parts(self.base.to_native(), &steps).ok_or(InvalidCommon::Steps)
    }
}

impl ArchivedWireValue {
    fn value(&self) -> Result<CommonValue, InvalidCommon> {
        Ok(match self {
            Self::Block { reason, note } => CommonValue::Block(Block {
                reason: match reason {
                    0 => BlockReason::Operator,
                    1 => BlockReason::SynScan,
                    2 => BlockReason::SynFlood,
                    3 => BlockReason::Agent,
                    _ => return Err(unknown("block's reason", *reason)),
                },
                note: note.as_str().to_owned(),
            }),
            Self::User { name, groups } => {
                if groups.len() > GROUPS_MAX {
                    return Err(InvalidCommon::Value(CommonError::Length {
                        what: "list of groups",
                        len: groups.len(),
                        max: GROUPS_MAX,
                    }));
                }
                CommonValue::User(User {
                    name: name.as_str().to_owned(),
                    groups: groups
                        .iter()
                        .map(|group| group.as_str().to_owned())
                        .collect(),
                })
            }
            Self::Expectation {
                parent_a,
                parent_b,
                parent_proto,
                zone_from,
                zone_to,
                rule,
                sync,
                mark,
                once,
            } => {
                let ((a, a_port), (b, b_port)) = (parent_a.end(), parent_b.end());
                let (parent, dir) = FlowKey::new(a, b, a_port, b_port, *parent_proto);
                if dir != Dir::AToB {
                    return Err(InvalidCommon::Parent);
                }
                CommonValue::Expectation(Expectation {
                    parent,
                    zone_from: *zone_from,
                    zone_to: *zone_to,
                    rule: rule.to_native(),
                    sync: match sync {
                        0 => SyncMode::None,
                        1 => SyncMode::Delayed,
                        2 => SyncMode::Async,
                        3 => SyncMode::Ack,
                        _ => return Err(unknown("synchronisation", *sync)),
                    },
                    mark: mark.to_native(),
                    once: *once,
                })
            }
            Self::Tunnel {
                local,
                remote,
                spi_in,
                spi_out,
                suite,
                key_in,
                key_out,
                rekeyed,
            } => CommonValue::Tunnel(Tunnel {
                local: local.end(),
                remote: remote.end(),
                spi_in: spi_in.to_native(),
                spi_out: spi_out.to_native(),
                suite: match suite {
                    0 => Suite::Aes128Gcm,
                    1 => Suite::Aes256Gcm,
                    2 => Suite::ChaCha20Poly1305,
                    _ => return Err(unknown("cipher suite", *suite)),
                },
                key_in: Secret::new(key_in.to_vec()),
                key_out: Secret::new(key_out.to_vec()),
                rekeyed: rekeyed.to_native(),
            }),
            Self::Lease { from, to } => CommonValue::Lease(Lease {
                from: from.to_native(),
                to: to.to_native(),
            }),
            Self::Policy {
                generation,
                text,
                note,
            } => CommonValue::Policy(PolicyText {
                generation: generation.to_native(),
                text: text.as_str().to_owned(),
                note: note.as_str().to_owned(),
            }),
            Self::PolicyAt {
                generation,
                tried,
                error,
            } => CommonValue::PolicyAt(PolicyAt {
                generation: generation.to_native(),
                tried: tried.to_native(),
                error: error.as_ref().map(|error| error.as_str().to_owned()),
            }),
            Self::SeqShift { incarnation, a, b } => CommonValue::SeqShift(SeqShift {
                incarnation: incarnation.to_native(),
                sides: [a.side()?, b.side()?],
            }),
        })
    }
}

fn unknown(what: &'static str, code: u8) -> InvalidCommon {
    InvalidCommon::Code { what, code }
}
