//! `[detect]`.

use std::time::Duration;

use ipnet::IpNet;
use policy::AddressSet;

use crate::keys::DETECT;
use crate::reader::Section;
use crate::{Detect, Fault};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn detect(top: &Section<'_>) -> Option<Detect> {
    let section = top.field("detect")?.section(DETECT)?;
    let detect = Detect {
        scan_ports: section.integer_or("scan_ports", 0..=1_000_000, 100) as u32,
        flood_syns: section.integer_or("flood_syns", 0..=1_000_000_000, 10_000) as u32,
        window: section.duration_or("window", SECOND..=60 * 60 * SECOND, 10 * SECOND),
        block_for: section.duration_or("block_for", SECOND..=30 * DAY, 10 * 60 * SECOND),
        except: except(&section),
    };
    if detect.scan_ports == 0 && detect.flood_syns == 0 {
        let (at, path) = (section.at, section.path);
        section.reader.fail(at, path, Fault::DetectNothing);
    }
    Some(detect)
}

/// Networks, each written as in a rule's `source`.
fn except(section: &Section<'_>) -> Vec<IpNet> {
    let terms = section.field("except").map(|field| field.strings());
    let network = |(item, term): (crate::reader::Field<'_>, &str)| {
        // `!` and `any` are for sets; here they would say that somebody is never safe.
        let plain = !term.starts_with('!') && term != "any";
        match AddressSet::parse([term]) {
            Ok(set) if plain => set.include().first().copied(),
            Ok(_) => {
                item.fail(Fault::ExceptNetwork(term.to_owned()));
                None
            }
            Err(error) => {
                item.fail(Fault::Network(error));
                None
            }
        }
    };
    let terms = terms.unwrap_or_default();
    terms.into_iter().filter_map(network).collect()
}
