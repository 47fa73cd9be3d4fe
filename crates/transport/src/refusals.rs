//! Saying each thing once: which refusals were reported already.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::fault::Fault;

/// Reports about strangers that are remembered. Anybody can knock from many addresses; beyond
/// this number nothing is reported until [`FORGET_AFTER`] has passed.
const STRANGERS_MAX: usize = 64;

/// How long the strangers of a full list are kept.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The last reported fault of one direction to one peer.
#[derive(Debug, Default)]
pub(crate) struct LastFault(Option<Fault>);

impl LastFault {
    /// Whether `fault` is news.
    pub(crate) fn is_news(&mut self, fault: &Fault) -> bool {
        if self.0.as_ref() == Some(fault) {
            return false;
        }
        self.0 = Some(fault.clone());
        true
    }

    /// A connection came about: the next fault is news again.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

/// What was reported of addresses that belong to no peer: each kind of fault once, so that
/// someone who varies the details of a hopeless handshake fills no log.
#[derive(Debug)]
pub(crate) struct Strangers {
    reported: HashSet<(IpAddr, Discriminant<Fault>)>,
    since: Instant,
}

impl Strangers {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            reported: HashSet::new(),
            since: now,
        }
    }

    /// Whether `fault` is news.
    pub(crate) fn is_news(&mut self, addr: IpAddr, fault: &Fault, now: Instant) -> bool {
        let report = (addr, discriminant(fault));
        if self.reported.contains(&report) {
            return false;
        }
        if self.reported.len() >= STRANGERS_MAX {
            if now.duration_since(self.since) < FORGET_AFTER {
                return false;
            }
            self.reported.clear();
            self.since = now;
        }
        self.reported.insert(report)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn fault(detail: &str) -> Fault {
        Fault::Handshake {
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn only_a_change_is_news() {
        let mut last = LastFault::default();
        assert!(last.is_news(&fault("a")));
        assert!(!last.is_news(&fault("a")));
        assert!(last.is_news(&fault("b")));
        assert!(last.is_news(&fault("a")));
        last.clear();
        assert!(last.is_news(&fault("a")));
    }

    #[test]
    fn a_crowd_of_strangers_is_bounded() {
        let start = Instant::now();
        let mut strangers = Strangers::new(start);
        let addr = |i: u32| IpAddr::V4(Ipv4Addr::from(i));
        let news = (0..1000)
            .filter(|i| strangers.is_news(addr(*i), &fault("a"), start))
            .count();
        assert_eq!(news, STRANGERS_MAX);
        assert!(!strangers.is_news(addr(0), &fault("a"), start));
        assert!(!strangers.is_news(addr(0), &Fault::NoCertificate, start));
        assert!(strangers.is_news(addr(0), &Fault::NoCertificate, start + FORGET_AFTER));
        assert_eq!(strangers.reported.len(), 1);
        // The same kind with other details is no news.
        let later = start + FORGET_AFTER;
        assert!(strangers.is_news(addr(0), &fault("a"), later));
        assert!(!strangers.is_news(addr(0), &fault("b"), later));
    }
}
