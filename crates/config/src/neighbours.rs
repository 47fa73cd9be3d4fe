//! `[[neighbour]]`.

use std::net::IpAddr;

use crate::keys::NEIGHBOUR;
use crate::reader::{Field, Section};
use crate::value::{mac, mac_written};
use crate::{Fault, Interface, Neighbour};

/// As many leave the larger part of a worker's next hops to those that are learned.
const NEIGHBOURS_MAX: usize = 1024;

pub(crate) fn neighbours(top: &Section<'_>, interfaces: &[Interface]) -> Vec<Neighbour> {
    let sections = top.sections("neighbour", NEIGHBOUR);
    if let Some(section) = sections.get(NEIGHBOURS_MAX) {
        let (given, most) = (sections.len(), NEIGHBOURS_MAX);
        let fault = Fault::TooManyNeighbours { given, most };
        section.reader.fail(section.at, "neighbour", fault);
    }
    let mut neighbours: Vec<Neighbour> = Vec::new();
    for section in sections {
        let interface = section
            .required("interface", "interface = \"outside\" in each [[neighbour]]")
            .and_then(|field| named(&field, interfaces));
        let address = section
            .required("address", "address = \"10.2.0.254\" in each [[neighbour]]")
            .and_then(|field| Some((address(&field, interface, interfaces, &neighbours)?, field)));
        let station = section
            .required("mac", "mac = \"02:00:00:00:00:fe\" in each [[neighbour]]")
            .and_then(|field| station(&field));
        if let (Some(interface), Some((address, _)), Some(mac)) = (interface, address, station) {
            neighbours.push(Neighbour {
                interface,
                address,
                mac,
            });
        }
    }
    neighbours
}

fn named(field: &Field<'_>, interfaces: &[Interface]) -> Option<usize> {
    let given = field.string()?;
    let found = interfaces.iter().position(|other| other.name == given);
    if found.is_none() {
        let names: Vec<_> = interfaces.iter().map(|other| other.name.as_str()).collect();
        field.fail(Fault::NeighbourInterface {
            given: given.to_owned(),
            interfaces: names.join(", "),
        });
    }
    found
}

fn address(
    field: &Field<'_>,
    interface: Option<usize>,
    interfaces: &[Interface],
    known: &[Neighbour],
) -> Option<IpAddr> {
    let text = field.string()?;
    let Ok(address) = text.parse::<IpAddr>() else {
        field.fail(Fault::NeighbourAddress(text.to_owned()));
        return None;
    };
    let interface = &interfaces[interface?];
    if interface.addresses.iter().any(|own| own.addr() == address) {
        field.fail(Fault::NeighbourSelf(address));
    } else if !interface.addresses.iter().any(|net| net.contains(&address)) {
        let networks = interface
            .addresses
            .iter()
            .map(|net| net.trunc().to_string());
        field.fail(Fault::NeighbourElsewhere {
            address,
            interface: interface.name.clone(),
            connected: networks.collect::<Vec<_>>().join(", "),
        });
    } else if known.iter().any(|other| other.address == address) {
        field.fail(Fault::Duplicate {
            value: address.to_string(),
            other: "a neighbour before it".to_owned(),
        });
    }
    Some(address)
}

fn station(field: &Field<'_>) -> Option<[u8; 6]> {
    let text = field.string()?;
    let Some(address) = mac(text) else {
        field.fail(Fault::Mac(text.to_owned()));
        return None;
    };
    if address[0] & 1 == 1 || address == [0; 6] {
        field.fail(Fault::NeighbourMac(mac_written(address)));
    }
    Some(address)
}
