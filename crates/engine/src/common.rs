//! Common state as workers read it: who is logged in where.
//!
//! A snapshot is swapped whole. What of it a change did not touch is shared with the one before, so
//! that a login does not cost more than the users there are.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use policy::Identity;
use state::{CommonKey, CommonKind, CommonKinds, CommonMap, CommonValue};

/// What all nodes have, in the form in which a worker asks it.
#[derive(Clone, Debug, Default)]
pub struct Common {
    users: Arc<HashMap<[u8; 16], Identity, RandomState>>,
}

impl Common {
    /// With these kinds taken from the map, and the others as they are here.
    #[must_use]
    pub fn rebuild(&self, map: &CommonMap, kinds: CommonKinds) -> Self {
        let mut built = self.clone();
        if kinds.contains(CommonKind::User) {
            let users = map.iter().filter_map(|(key, value)| match (key, value) {
                (CommonKey::User(address), CommonValue::User(user)) => {
                    let groups = user.groups.iter().map(String::as_str);
                    Some((*address, Identity::new(&user.name, groups)))
                }
                _ => None,
            });
            built.users = Arc::new(users.collect());
        }
        built
    }

    /// Who is logged in at an address, in the 16-byte form.
    #[inline]
    pub fn identity(&self, address: &[u8; 16]) -> Identity {
        if self.users.is_empty() {
            return Identity::NONE;
        }
        self.users.get(address).copied().unwrap_or_default()
    }
}
