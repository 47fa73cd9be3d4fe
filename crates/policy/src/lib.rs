//! Which flows may be opened: zones, ordered rules, a compiled classifier, and explanations.
//!
//! A [`RuleSet`] is the truth: a checked, ordered list of which the first rule that matches
//! decides, and a flow that no rule matches is denied in silence. [`Classifier::compile`] makes
//! the form that the packet path asks once per new flow; it gives the same answer as
//! [`RuleSet::decide`], which `tests/equivalence.rs` states as a property. [`RuleSet::explain`]
//! says for people why.
//!
//! Addresses are 16 bytes, IPv4 as v4-mapped IPv6, as in `state`'s keys. An IPv6 network never
//! covers a v4-mapped address, so that `::/0` means IPv6 and `0.0.0.0/0` means IPv4.
//!
//! Who asks says in the query who is logged in at the source address ([`Identity`]); a rule that
//! names users or groups matches nobody else.
//!
//! # Cost
//!
//! A lookup is three binary searches and a conjunction of bit vectors (see [`BitVectors`]); it
//! does not allocate. Best of five runs on one core of a shared virtual machine, random packets
//! against rules that each have networks and a port range of their own, by
//! `cargo run --release -p policy --example measure`:
//!
//! | rules | ns, some rule matches | ns, none matches | KiB |
//! |---|---|---|---|
//! | 10 | 45 | 41 | 1 |
//! | 100 | 72 | 68 | 11 |
//! | 1000 | 209 | 125 | 438 |
//! | 10000 | 542 | 507 | 31258 |
#![forbid(unsafe_code)]

mod address;
mod bitvector;
mod classifier;
mod explain;
mod identity;
mod query;
mod rule;
mod ruleset;
mod service;
mod sync;
mod zone;

pub use address::{AddressSet, InvalidAddress};
pub use bitvector::BitVectors;
pub use classifier::{Classifier, Matcher};
pub use explain::{Explanation, Mismatch, Step};
pub use identity::{
    GROUPS_MAX, Identity, IdentitySet, InvalidName, NAME_BYTES_MAX, NO_NAME, check_name, name_hash,
};
pub use query::{Decision, Query};
pub use rule::{Action, DEFAULT_DENY, NO_RULE, Rule, rule_id};
pub use ruleset::{Covered, InvalidRuleSet, RULES_MAX, RuleSet};
pub use service::{InvalidService, Service};
pub use sync::{ClassSync, SyncDefaults, SyncPolicy};
pub use zone::{InvalidZones, ZONES_MAX, ZoneSet, Zones};
