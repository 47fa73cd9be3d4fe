//! Who is behind an address: the user who is logged in there, and the user's groups.
//!
//! The packet path compares hashes of names, not names: [`name_hash`]. Two names of one rule set
//! that have one hash are an error of the set ([`crate::InvalidRuleSet::SameIdentity`]).

use std::fmt;

/// The most groups that a user has; more are refused at the login.
pub const GROUPS_MAX: usize = 16;

/// The longest name of a user or group, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// The hash that stands for "no user"; no name may have it.
pub const NO_NAME: u64 = 0;

/// The stable hash of a user's or group's name: FNV-1a of 64 bits over its UTF-8 (RFC 9923), so
/// that all nodes and versions agree on it.
pub const fn name_hash(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// A text that is no name of a user or group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no name of a user or group; use 1 to {NAME_BYTES_MAX} letters, digits, '.', '_', '@', '\\' and '-'"
)]
pub struct InvalidName(pub String);

/// Checks the name of a user or group: what directories and operating systems call people, and
/// nothing that a list of names or a terminal could misread.
///
/// # Errors
/// When it is empty, too long, or has another character.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let plain = |c: char| c.is_alphanumeric() || "._@\\-".contains(c);
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    if fits && name.chars().all(plain) && name_hash(name) != NO_NAME {
        return Ok(());
    }
    Err(InvalidName(name.to_owned()))
}

/// The user at a packet's source address, by hashes: see [`name_hash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    user: u64,
    /// Those behind the last one are [`NO_NAME`].
    groups: [u64; GROUPS_MAX],
}

impl Identity {
    /// Nobody is logged in.
    pub const NONE: Self = Self {
        user: NO_NAME,
        groups: [NO_NAME; GROUPS_MAX],
    };

    /// The user of a name, in groups. Groups beyond [`GROUPS_MAX`] do not count; a login with so
    /// many is refused.
    pub fn new<'a>(user: &str, groups: impl IntoIterator<Item = &'a str>) -> Self {
        let mut identity = Self {
            user: name_hash(user),
            ..Self::NONE
        };
        for (place, group) in identity.groups.iter_mut().zip(groups) {
            *place = name_hash(group);
        }
        identity
    }

    /// The hash of the user's name; [`NO_NAME`] when nobody is logged in.
    pub const fn user(&self) -> u64 {
        self.user
    }

    /// The hashes of the groups.
    pub fn groups(&self) -> impl Iterator<Item = u64> {
        self.groups
            .into_iter()
            .take_while(|group| *group != NO_NAME)
    }

    /// Whether nobody is logged in.
    pub const fn is_none(&self) -> bool {
        self.user == NO_NAME
    }
}

/// The users that a rule is for: everybody, or those who are named or in a group that is named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentitySet {
    /// Names of users.
    pub users: Vec<String>,
    /// Names of groups.
    pub groups: Vec<String>,
}

impl IdentitySet {
    /// Everybody, also where nobody is logged in.
    pub const ANY: Self = Self {
        users: Vec::new(),
        groups: Vec::new(),
    };

    /// Whether it makes no difference who it is.
    pub fn is_any(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// Whether the user is in the set: a set that is not for everybody has nobody who is not
    /// logged in.
    pub fn contains(&self, identity: &Identity) -> bool {
        let user = |name: &String| name_hash(name) == identity.user;
        let group = |name: &String| identity.groups().any(|group| group == name_hash(name));
        self.is_any()
            || !identity.is_none() && (self.users.iter().any(user) || self.groups.iter().any(group))
    }

    /// Whether it is certain that everybody in `other` is in this set.
    pub fn covers(&self, other: &Self) -> bool {
        let within = |theirs: &[String], mine: &[String]| theirs.iter().all(|t| mine.contains(t));
        self.is_any()
            || !other.is_any()
                && within(&other.users, &self.users)
                && within(&other.groups, &self.groups)
    }
}

impl fmt::Display for IdentitySet {
    /// `alice, group staff`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("any");
        }
        let users = self.users.iter().map(|user| ("", user));
        let groups = self.groups.iter().map(|group| ("group ", group));
        for (n, (what, name)) in users.chain(groups).enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{what}{name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_fnv_1a() {
        // The test vectors of the algorithm's authors.
        assert_eq!(name_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(name_hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(name_hash("foobar"), 0x8594_4171_f739_67e8);
        // One of their texts that hash to 0.
        assert_eq!(name_hash("77kepQFQ8Kl"), NO_NAME);
    }

    #[test]
    fn names_are_what_people_are_called() {
        for name in ["alice", "j.doe@example.org", "CORP\\bob", "müller", "a-b_c"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "a b", "a,b", "a\n", "\u{202e}a", &long, "77kepQFQ8Kl"] {
            assert_eq!(check_name(name), Err(InvalidName(name.into())), "{name}");
        }
    }

    #[test]
    fn a_set_has_its_users_and_the_members_of_its_groups() {
        let set = IdentitySet {
            users: vec!["alice".into()],
            groups: vec!["staff".into(), "ops".into()],
        };
        assert!(set.contains(&Identity::new("alice", [])));
        assert!(set.contains(&Identity::new("bob", ["guests", "ops"])));
        assert!(!set.contains(&Identity::new("bob", ["guests"])));
        // A user of a group's name is not in the group, nor is a group a user.
        assert!(!set.contains(&Identity::new("staff", ["alice"])));
        assert!(!set.contains(&Identity::NONE));
        assert!(IdentitySet::ANY.contains(&Identity::NONE));
        assert_eq!(set.to_string(), "alice, group staff, group ops");
    }

    #[test]
    fn sets_cover_what_they_contain() {
        let set = |users: &[&str], groups: &[&str]| IdentitySet {
            users: users.iter().map(ToString::to_string).collect(),
            groups: groups.iter().map(ToString::to_string).collect(),
        };
        let both = set(&["alice", "bob"], &["staff"]);
        assert!(both.covers(&set(&["bob"], &[])) && both.covers(&both));
        assert!(IdentitySet::ANY.covers(&both) && !both.covers(&IdentitySet::ANY));
        assert!(!both.covers(&set(&["bob"], &["ops"])));
        assert!(!both.covers(&set(&[], &["alice"])));
    }
}
