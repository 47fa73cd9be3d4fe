//! `[node]`, `[cluster]` and `[pki]`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use state::{NODES_MAX, NodeId};
use toml::de::DeValue;

use crate::keys::{CLUSTER, MEMBER, NODE, PKI};
use crate::reader::{Field, Section};
use crate::value::{mac, mac_written, written};
use crate::{Alone, AtDeadline, Cluster, Distribution, Fault, HoldAcks, Member, Pki};

/// The node's name, and its identity within the cluster.
pub(crate) fn node(top: &Section<'_>, cluster: Option<&Cluster>) -> (String, NodeId) {
    let alone = NodeId::new(0).expect("0 is an identity");
    let section = top.section("node", NODE);
    let Some(field) = section.required("name", "name = \"n1\" under [node]") else {
        return (String::new(), alone);
    };
    let Some(name) = field.name() else {
        return (String::new(), alone);
    };
    let Some(cluster) = cluster else {
        return (name.to_owned(), alone);
    };
    let me = cluster.members.iter().find(|member| member.name == name);
    if me.is_none() && !cluster.members.is_empty() {
        let names: Vec<_> = cluster
            .members
            .iter()
            .map(|member| member.name.as_str())
            .collect();
        field.fail(Fault::NotAMember {
            name: name.to_owned(),
            members: names.join(", "),
        });
    }
    (name.to_owned(), me.map_or(alone, |member| member.id))
}

pub(crate) fn cluster(top: &Section<'_>) -> Option<Cluster> {
    let section = top.field("cluster")?.section(CLUSTER)?;
    let ms = Duration::from_millis;
    let name = section
        .required("name", "name = \"lab\" under [cluster]")
        .and_then(|field| field.name())
        .unwrap_or_default();
    let members = members(&section);
    let backups = backups(&section, members.len());
    let distribution = section.choice_or(
        "distribution",
        &[
            ("filter", Distribution::Filter),
            ("ecmp", Distribution::Ecmp),
        ],
        Distribution::Filter,
    );
    let (heartbeat, dead_after) = detection(&section);
    let smallest_group = members
        .iter()
        .map(|member| {
            member
                .backups
                .as_ref()
                .map_or(usize::from(backups), Vec::len)
        })
        .min()
        .unwrap_or(0);
    Some(Cluster {
        name: name.to_owned(),
        distribution,
        mac: cluster_mac(&section, members.len(), distribution),
        backups,
        heartbeat,
        dead_after,
        join_wait: section.duration_or("join_wait", ms(0)..=ms(600_000), ms(3000)),
        hold_deadline: section.duration_or("hold_deadline", ms(1)..=ms(10_000), ms(50)),
        hold_at_deadline: section.choice_or(
            "hold_at_deadline",
            &[("drop", AtDeadline::Drop), ("release", AtDeadline::Release)],
            AtDeadline::Drop,
        ),
        hold_acks: hold_acks(&section, smallest_group),
        alone: section.choice_or(
            "alone",
            &[("forward", Alone::Forward), ("refuse", Alone::Refuse)],
            Alone::Forward,
        ),
        resync_rate: section.integer_or("resync_rate", 1000..=100_000_000, 1_000_000) as u32,
        digest_every: section.duration_or("digest_every", ms(100)..=ms(600_000), ms(10_000)),
        members,
    })
}

fn cluster_mac(
    section: &Section<'_>,
    members: usize,
    distribution: Distribution,
) -> Option<[u8; 6]> {
    if distribution == Distribution::Ecmp {
        if let Some(field) = section.field("mac") {
            field.fail(Fault::MacWithEcmp);
        }
        return None;
    }
    let example = "mac = \"03:72:76:6c:00:01\" under [cluster]";
    let field = if members > 1 {
        section.required("mac", example)?
    } else {
        section.field("mac")?
    };
    let text = field.string()?;
    let Some(address) = mac(text) else {
        field.fail(Fault::Mac(text.to_owned()));
        return None;
    };
    if address == [0xff; 6] {
        field.fail(Fault::MacBroadcast);
    } else if address[0] & 1 == 0 {
        let mut multicast = address;
        multicast[0] |= 1;
        let (given, multicast) = (mac_written(address), mac_written(multicast));
        field.fail(Fault::MacUnicast { given, multicast });
    }
    Some(address)
}

fn backups(section: &Section<'_>, members: usize) -> u8 {
    let most = members.saturating_sub(1);
    let Some(field) = section.field("backups") else {
        return most.min(1) as u8;
    };
    let Some(backups) = field.integer(1..=NODES_MAX as u64 - 1) else {
        return most.min(1) as u8;
    };
    match most {
        0 if members == 0 => {}
        0 => field.fail(Fault::BackupsAlone { backups }),
        _ if backups > most as u64 => field.fail(Fault::TooManyBackups { backups, members }),
        _ => {}
    }
    backups as u8
}

fn detection(section: &Section<'_>) -> (Duration, Duration) {
    let ms = Duration::from_millis;
    let heartbeat = section.duration_or("heartbeat", ms(1)..=ms(10_000), ms(10));
    let range = ms(3)..=ms(60_000);
    let (default, field) = (ms(50), section.field("dead_after"));
    let dead_after = match &field {
        Some(field) => field.duration(range).unwrap_or(heartbeat * 5),
        None => default,
    };
    if dead_after < heartbeat * 3 {
        let fault = Fault::DeadAfter {
            dead_after: written(dead_after),
            heartbeat: written(heartbeat),
            least: written(heartbeat * 3),
        };
        match field {
            Some(field) => field.fail(fault),
            None => section
                .reader
                .fail(section.at, section.key("dead_after"), fault),
        }
    }
    (heartbeat, dead_after)
}

fn hold_acks(section: &Section<'_>, smallest_group: usize) -> HoldAcks {
    let Some(field) = section.field("hold_acks") else {
        return HoldAcks::All;
    };
    match field.value {
        DeValue::String(text) => {
            if text != "all" {
                let (value, choices) = (text.to_string(), "\"all\" or a number".to_owned());
                field.fail(Fault::Choice { value, choices });
            }
            HoldAcks::All
        }
        DeValue::Integer(_) => {
            let Some(given) = field.integer(1..=NODES_MAX as u64 - 1) else {
                return HoldAcks::All;
            };
            if given > smallest_group as u64 {
                field.fail(Fault::HoldAcks {
                    given,
                    backups: smallest_group,
                });
            }
            HoldAcks::Count(given as u8)
        }
        _ => field
            .wrong_type("\"all\" or a number")
            .unwrap_or(HoldAcks::All),
    }
}

fn members(cluster: &Section<'_>) -> Vec<Member> {
    let sections = cluster.sections("member", MEMBER);
    if sections.is_empty() {
        cluster
            .reader
            .fail(cluster.at, cluster.key("member"), Fault::NoMembers);
    }
    if sections.len() > NODES_MAX {
        cluster.reader.fail(
            cluster.at,
            cluster.key("member"),
            Fault::TooManyMembers(sections.len()),
        );
    }
    let mut unique = Unique::default();
    let mut members = Vec::new();
    let mut groups = Vec::new();
    for section in &sections {
        let name = section
            .required("name", "name = \"n1\" in each [[cluster.member]]")
            .and_then(|field| Some((field.name()?, field)));
        if let Some((name, field)) = &name {
            unique.check("name", name, name, field);
        }
        let name = name.map_or_else(String::new, |(name, _)| name.to_owned());
        let id = section
            .required("id", "id = 1 in each [[cluster.member]]")
            .and_then(|field| {
                let id = field.integer(0..=NODES_MAX as u64 - 1)? as u8;
                unique.check("id", &id.to_string(), &name, &field);
                NodeId::new(id)
            });
        let sync = socket(
            section,
            "sync",
            "sync = \"10.99.0.1:7400\"",
            &name,
            &mut unique,
        );
        let membership = socket(
            section,
            "membership",
            "membership = \"10.99.0.1:7401\"",
            &name,
            &mut unique,
        );
        let weight = section.integer_or("weight", 1..=1000, 1) as u16;
        groups.push(
            section
                .field("backups")
                .map(|field| (field.clone(), field.strings())),
        );
        members.push(Member {
            name,
            id: id.unwrap_or(NodeId::new(0).expect("0 is an identity")),
            // A placeholder is never seen: its absence was reported.
            sync: sync.unwrap_or(SocketAddr::from(([0; 4], 0))),
            membership: membership.unwrap_or(SocketAddr::from(([0; 4], 0))),
            weight,
            backups: None,
        });
    }
    for (index, group) in groups.into_iter().enumerate() {
        members[index].backups = group
            .map(|(field, names)| backup_group(&field, &names, &members, &members[index].name));
    }
    members
}

fn backup_group(
    list: &Field<'_>,
    names: &[(Field<'_>, &str)],
    members: &[Member],
    own: &str,
) -> Vec<NodeId> {
    if names.is_empty() {
        list.fail(Fault::NoBackups);
    }
    let mut group = Vec::new();
    for &(ref field, name) in names {
        let Some(member) = members.iter().find(|member| member.name == name) else {
            let known: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
            field.fail(Fault::NotAMember {
                name: name.to_owned(),
                members: known.join(", "),
            });
            continue;
        };
        if name == own {
            field.fail(Fault::OwnBackup(name.to_owned()));
        } else if group.contains(&member.id) {
            let other = "a backup before it".to_owned();
            field.fail(Fault::Duplicate {
                value: name.to_owned(),
                other,
            });
        } else {
            group.push(member.id);
        }
    }
    group
}

fn socket(
    section: &Section<'_>,
    key: &str,
    example: &'static str,
    member: &str,
    unique: &mut Unique,
) -> Option<SocketAddr> {
    let field = section.required(key, example)?;
    let text = field.string()?;
    let Ok(socket) = text.parse::<SocketAddr>() else {
        field.fail(Fault::Socket(text.to_owned()));
        return None;
    };
    if socket.port() == 0 || socket.ip().is_unspecified() || socket.ip().is_multicast() {
        field.fail(Fault::SocketUnusable(socket));
    }
    unique.check("socket", &socket.to_string(), member, &field);
    Some(socket)
}

/// What members must not have in common: kind and value, and the key that had it first.
#[derive(Default)]
struct Unique(HashMap<(&'static str, String), String>);

impl Unique {
    fn check(&mut self, kind: &'static str, value: &str, member: &str, field: &Field<'_>) {
        let key = field.path.rsplit('.').next().unwrap_or(kind);
        let owner = if kind == "name" {
            "another member".to_owned()
        } else {
            format!("the {key} of \"{member}\"")
        };
        if let Some(other) = self.0.get(&(kind, value.to_owned())) {
            field.fail(Fault::Duplicate {
                value: value.to_owned(),
                other: other.clone(),
            });
        } else {
            self.0.insert((kind, value.to_owned()), owner);
        }
    }
}

pub(crate) fn pki(top: &Section<'_>, base: &Path) -> Option<Pki> {
    let Some(field) = top.field("pki") else {
        if let Some(cluster) = top.field("cluster") {
            cluster
                .reader
                .fail(cluster.span.start, "pki", Fault::PkiMissing);
        }
        return None;
    };
    let section = field.section(PKI)?;
    let file = |name: &str, example| {
        let field = section.required(name, example)?;
        let text = field.string()?;
        if text.is_empty() {
            field.fail(Fault::EmptyPath);
        }
        Some(base.join(text))
    };
    let ca: Option<PathBuf> = file("ca", "ca = \"pki/ca.pem\" under [pki]");
    let cert = file("cert", "cert = \"pki/n1.pem\" under [pki]");
    let key = file("key", "key = \"pki/n1.key\" under [pki]");
    Some(Pki {
        ca: ca?,
        cert: cert?,
        key: key?,
    })
}
