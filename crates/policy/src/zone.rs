//! Zones: the named sides of the gateway that interfaces belong to and rules speak of.

/// The most zones that one rule set has; identities are below it. 254 and 255 stay free for a
/// caller that wants to say "no zone".
pub const ZONES_MAX: usize = 254;

/// Names that cannot become zones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidZones {
    /// More than [`ZONES_MAX`].
    #[error("{0} zones; there may be {ZONES_MAX}")]
    TooMany(usize),
    /// One name twice.
    #[error("zone \"{0}\" twice; give each zone its own name")]
    Duplicate(String),
    /// A name that rules could not tell from "every zone".
    #[error("a zone cannot be named \"{0}\"; choose another name")]
    Reserved(String),
}

/// The zones of a rule set: a name per identity, 0 to 253.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zones {
    names: Vec<String>,
}

impl Zones {
    /// Zones whose identities are the positions of their names.
    ///
    /// # Errors
    /// When there are too many, one is there twice, or one is empty or named `any`.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Result<Self, InvalidZones> {
        let mut zones = Self::default();
        for name in names {
            let name = name.into();
            if name.is_empty() || name == "any" {
                return Err(InvalidZones::Reserved(name));
            }
            if zones.id(&name).is_some() {
                return Err(InvalidZones::Duplicate(name));
            }
            zones.names.push(name);
        }
        if zones.names.len() > ZONES_MAX {
            return Err(InvalidZones::TooMany(zones.names.len()));
        }
        Ok(zones)
    }

    /// The identity of the zone of this name.
    pub fn id(&self, name: &str) -> Option<u8> {
        let position = self.names.iter().position(|known| known == name)?;
        u8::try_from(position).ok()
    }

    /// The name of the zone of this identity.
    pub fn name(&self, id: u8) -> Option<&str> {
        self.names.get(usize::from(id)).map(String::as_str)
    }

    /// The names, by identity.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// A set of zones, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ZoneSet([u64; 4]);

impl ZoneSet {
    /// Every zone, also one that the table does not name.
    pub const ANY: Self = Self([u64::MAX; 4]);
    /// No zone.
    pub const EMPTY: Self = Self([0; 4]);

    /// Adds a zone.
    pub const fn insert(&mut self, zone: u8) {
        self.0[zone as usize / 64] |= 1 << (zone % 64);
    }

    /// Whether the zone is in the set.
    pub const fn contains(&self, zone: u8) -> bool {
        self.0[zone as usize / 64] & (1 << (zone % 64)) != 0
    }

    /// Whether every zone of `other` is in the set.
    pub fn covers(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .all(|(mine, theirs)| theirs & !mine == 0)
    }

    /// Whether no zone is in the set.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// The zones in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(|&zone| self.contains(zone))
    }
}

impl FromIterator<u8> for ZoneSet {
    fn from_iter<I: IntoIterator<Item = u8>>(zones: I) -> Self {
        let mut set = Self::EMPTY;
        for zone in zones {
            set.insert(zone);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_identities_belong_together() {
        let zones = Zones::new(["inside", "outside"]).unwrap();
        assert_eq!(zones.id("outside"), Some(1));
        assert_eq!(zones.name(1), Some("outside"));
        assert_eq!(zones.id("dmz"), None);
        assert_eq!(zones.name(2), None);
    }

    #[test]
    fn names_that_mislead_are_refused() {
        let twice = Zones::new(["a", "a"]).unwrap_err();
        assert_eq!(twice, InvalidZones::Duplicate("a".into()));
        let any = Zones::new(["any"]).unwrap_err();
        assert_eq!(any, InvalidZones::Reserved("any".into()));
        let many = Zones::new((0..=ZONES_MAX).map(|n| n.to_string())).unwrap_err();
        assert_eq!(many, InvalidZones::TooMany(ZONES_MAX + 1));
        assert_eq!(
            Zones::new((0..ZONES_MAX).map(|n| n.to_string()))
                .unwrap()
                .len(),
            ZONES_MAX
        );
    }

    #[test]
    fn sets_cover_what_they_contain() {
        let two: ZoneSet = [0, 200].into_iter().collect();
        let one: ZoneSet = [200].into_iter().collect();
        assert!(two.covers(&one) && !one.covers(&two) && ZoneSet::ANY.covers(&two));
        assert!(!two.covers(&ZoneSet::ANY));
        assert_eq!(two.iter().collect::<Vec<_>>(), [0, 200]);
    }
}
