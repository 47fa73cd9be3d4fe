//! `[[interface]]` and `[[route]]`.

use std::net::IpAddr;

use ipnet::IpNet;
use policy::{InvalidZones, ZONES_MAX, Zones};

use crate::keys::{INTERFACE, ROUTE};
use crate::reader::{Field, Section};
use crate::{Cluster, Device, Fault, Interface, Route};

/// The interfaces, and the zones that they name, in order of appearance.
pub(crate) fn interfaces(top: &Section<'_>, cluster: Option<&Cluster>) -> (Vec<Interface>, Zones) {
    let sections = top.sections("interface", INTERFACE);
    if sections.is_empty() && top.field("interface").is_none() {
        top.reader.fail(top.at, "interface", Fault::NoInterfaces);
    }
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut zones: Vec<&str> = Vec::new();
    for section in sections {
        let name = section
            .required("name", "name = \"inside\" in each [[interface]]")
            .and_then(|field| Some((field.name()?, field)));
        if let Some((name, field)) = &name
            && interfaces.iter().any(|other| other.name == *name)
        {
            let (value, other) = ((*name).to_owned(), "another interface".to_owned());
            field.fail(Fault::Duplicate { value, other });
        }
        let vlan = section
            .field("vlan")
            .and_then(|field| field.integer(1..=4094))
            .map(|vlan| vlan as u16);
        let device = device(&section, vlan, &interfaces);
        let zone = zone(&section, &mut zones);
        let addresses = addresses(&section, &interfaces, cluster);
        interfaces.push(Interface {
            name: name.map_or_else(String::new, |(name, _)| name.to_owned()),
            device,
            zone,
            mtu: mtu(&section, &addresses),
            vlan,
            ping: section.bool_or("ping", true),
            addresses,
        });
    }
    // What cannot be a zone was reported where it is named.
    let zones = Zones::new(zones.into_iter().take(ZONES_MAX)).unwrap_or_default();
    (interfaces, zones)
}

fn device(section: &Section<'_>, vlan: Option<u16>, others: &[Interface]) -> Device {
    let unknown = Device::Vdev(String::new());
    let example = "device = \"0000:01:00.0\" in each [[interface]]";
    let Some(field) = section.required("device", example) else {
        return unknown;
    };
    let Some(text) = field.string() else {
        return unknown;
    };
    let device = if is_pci(text) {
        Device::Pci(text.to_ascii_lowercase())
    } else if is_vdev(text) {
        Device::Vdev(text.to_owned())
    } else {
        field.fail(Fault::Device(text.to_owned()));
        return unknown;
    };
    // A device may carry several interfaces, told apart by their VLANs.
    let same = |other: &&Interface| other.device.name() == device.name();
    if let Some(other) = others.iter().find(|o| same(o) && o.device != device) {
        let value = text.to_owned();
        let other = format!("interface \"{}\" with other arguments", other.name);
        field.fail(Fault::Duplicate { value, other });
    } else if let Some(other) = others.iter().find(|o| same(o) && o.vlan == vlan) {
        let (value, other) = (
            device.name().to_owned(),
            format!("interface \"{}\"", other.name),
        );
        field.fail(Fault::Duplicate { value, other });
    }
    device
}

/// `dddd:bb:dd.f`: a device is below 32, a function below 8.
fn is_pci(text: &str) -> bool {
    let hex = |digits: &str, len: usize, most: u32| {
        digits.len() == len
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
            && u32::from_str_radix(digits, 16).is_ok_and(|number| number <= most)
    };
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let [domain, bus, device, function] = parts[..] else {
        return false;
    };
    text.matches(':').count() == 2
        && text.as_bytes().get(10) == Some(&b'.')
        && hex(domain, 4, 0xffff)
        && hex(bus, 2, 0xff)
        && hex(device, 2, 31)
        && hex(function, 1, 7)
}

/// `net_name`, and arguments behind commas.
fn is_vdev(text: &str) -> bool {
    let name = text.split(',').next().unwrap_or(text);
    name.strip_prefix("net_")
        .is_some_and(|rest| !rest.is_empty())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text.chars().all(|c| !c.is_whitespace() && !c.is_control())
}

fn zone<'a>(section: &Section<'a>, zones: &mut Vec<&'a str>) -> u8 {
    let example = "zone = \"inside\" in each [[interface]]";
    let Some(field) = section.required("zone", example) else {
        return 0;
    };
    let Some(name) = field.name() else { return 0 };
    if name == "any" {
        field.fail(Fault::Zones(InvalidZones::Reserved(name.to_owned())));
        return 0;
    }
    let known = zones.iter().position(|zone| *zone == name);
    let id = known.unwrap_or_else(|| {
        zones.push(name);
        zones.len() - 1
    });
    if known.is_none() && zones.len() > ZONES_MAX {
        field.fail(Fault::Zones(InvalidZones::TooMany(zones.len())));
    }
    u8::try_from(id).unwrap_or(0)
}

fn mtu(section: &Section<'_>, addresses: &[IpNet]) -> u16 {
    let Some(field) = section.field("mtu") else {
        return 1500;
    };
    let Some(mtu) = field.integer(576..=9216) else {
        return 1500;
    };
    if mtu < 1280
        && addresses
            .iter()
            .any(|address| matches!(address, IpNet::V6(_)))
    {
        field.fail(Fault::MtuBelowIpv6 { mtu });
    }
    mtu as u16
}

fn addresses(section: &Section<'_>, others: &[Interface], cluster: Option<&Cluster>) -> Vec<IpNet> {
    let example = "addresses = [\"10.1.0.1/24\"] in each [[interface]]";
    let Some(field) = section.required("addresses", example) else {
        return Vec::new();
    };
    let strings = field.strings();
    let mut addresses: Vec<IpNet> = Vec::new();
    for (item, text) in strings {
        let Ok(address) = text.parse::<IpNet>() else {
            item.fail(Fault::InterfaceAddress(text.to_owned()));
            continue;
        };
        if !is_unicast(address.addr()) {
            item.fail(Fault::NotUnicast(address));
            continue;
        }
        if let Some(what) = not_a_host(address) {
            item.fail(Fault::NotAHost { address, what });
        }
        if addresses.iter().any(|known| known.addr() == address.addr()) {
            let other = "this interface".to_owned();
            item.fail(Fault::Duplicate {
                value: address.addr().to_string(),
                other,
            });
        }
        if let Some((other, interface)) = overlapping(others, address) {
            let interface = interface.to_owned();
            item.fail(Fault::Overlap {
                given: address,
                other,
                interface,
            });
        }
        for member in cluster.iter().flat_map(|cluster| &cluster.members) {
            for socket in [member.sync, member.membership] {
                if socket.ip() == address.addr() {
                    item.fail(Fault::SyncOnInterface {
                        socket,
                        member: member.name.clone(),
                    });
                }
            }
        }
        addresses.push(address);
    }
    addresses
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !broadcast
}

/// What an address is when it is not a host's.
fn not_a_host(address: IpNet) -> Option<&'static str> {
    match address {
        // A network of two has neither (RFC 3021), one of one is the host.
        IpNet::V4(net) if net.prefix_len() >= 31 => None,
        IpNet::V4(net) if net.addr() == net.network() => Some("network address"),
        IpNet::V4(net) if net.addr() == net.broadcast() => Some("broadcast address"),
        IpNet::V6(net) if net.prefix_len() >= 127 => None,
        IpNet::V6(net) if net.addr() == net.network() => {
            Some("subnet-router anycast address (RFC 4291, section 2.6.1)")
        }
        _ => None,
    }
}

fn overlapping(others: &[Interface], address: IpNet) -> Option<(IpNet, &str)> {
    let all = others.iter().flat_map(|other| {
        other
            .addresses
            .iter()
            .map(|address| (*address, other.name.as_str()))
    });
    all.into_iter()
        .find(|(other, _)| other.contains(&address.trunc()) || address.contains(&other.trunc()))
}

pub(crate) fn routes(top: &Section<'_>, interfaces: &[Interface]) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for section in top.sections("route", ROUTE) {
        let to = section.required("to", "to = \"0.0.0.0/0\" in each [[route]]");
        let via = section.required("via", "via = \"10.2.0.254\" in each [[route]]");
        let to = to.and_then(|field| Some((destination(&field, interfaces, &routes)?, field)));
        let Some(via) = via else { continue };
        let Some((address, interface)) = next_router(&via, interfaces) else {
            continue;
        };
        let Some((to, _)) = to else { continue };
        if to.addr().is_ipv4() != address.is_ipv4() {
            via.fail(Fault::ViaFamily { to, via: address });
        }
        routes.push(Route {
            to,
            via: address,
            interface,
        });
    }
    routes
}

fn destination(field: &Field<'_>, interfaces: &[Interface], routes: &[Route]) -> Option<IpNet> {
    let text = field.string()?;
    let Ok(to) = text.parse::<IpNet>() else {
        field.fail(Fault::RouteNetwork(text.to_owned()));
        return None;
    };
    if to != to.trunc() {
        let fault = policy::InvalidAddress::HostBits {
            given: text.to_owned(),
            network: to.trunc(),
            host: IpNet::from(to.addr()),
        };
        field.fail(Fault::Network(fault));
        return None;
    }
    if routes.iter().any(|route| route.to == to) {
        let other = "a route before it".to_owned();
        field.fail(Fault::Duplicate {
            value: to.to_string(),
            other,
        });
    }
    let connected = |interface: &&Interface| {
        interface
            .addresses
            .iter()
            .any(|address| address.trunc() == to)
    };
    if let Some(interface) = interfaces.iter().find(connected) {
        field.fail(Fault::RouteConnected {
            to,
            interface: interface.name.clone(),
        });
    }
    Some(to)
}

fn next_router(field: &Field<'_>, interfaces: &[Interface]) -> Option<(IpAddr, usize)> {
    let text = field.string()?;
    let Ok(via) = text.parse::<IpAddr>() else {
        field.fail(Fault::RouteVia(text.to_owned()));
        return None;
    };
    let own = |interface: &Interface| interface.addresses.iter().any(|own| own.addr() == via);
    if interfaces.iter().any(own) {
        field.fail(Fault::ViaSelf(via));
        return None;
    }
    let on = |interface: &Interface| interface.addresses.iter().any(|net| net.contains(&via));
    let interface = interfaces.iter().position(on);
    if interface.is_none() {
        let nets = interfaces.iter().flat_map(|interface| &interface.addresses);
        let connected: Vec<_> = nets.map(|net| net.trunc().to_string()).collect();
        field.fail(Fault::ViaUnreachable {
            via,
            connected: connected.join(", "),
        });
    }
    Some((via, interface?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_by_their_form() {
        for text in ["0000:01:00.0", "ABCD:ff:1f.7"] {
            assert!(is_pci(text), "{text}");
        }
        for text in [
            "01:00.0",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000.01:00:0",
            "0000:01:00:0",
            "eth0",
            "",
        ] {
            assert!(!is_pci(text), "{text}");
        }
        for text in [
            "net_af_packet0,iface=in0",
            "net_memif1",
            "net_null0,size=64,copy=1",
        ] {
            assert!(is_vdev(text), "{text}");
        }
        for text in ["net_", "eth0", "net_tap0, iface=x", "net-tap", ""] {
            assert!(!is_vdev(text), "{text}");
        }
    }
}
