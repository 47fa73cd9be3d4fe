//! Tier 0: usual packets of flows that go on as before.
//!
//! Nearly every packet is one of a flow that is known, of which nothing is about to change: it is counted, gets
//! one hop older and a link header, and leaves. What that takes is here in one piece, with what is the same for a whole
//! burst looked up once ([`Gate`], [`Run`]). A packet that is unusual in anything takes the long way, in its
//! place among the others; whatever is done here does what that does.

use flowtable::FlowId;
use membership::Distribution;
use state::{Dir, FlowKey, Life, Progress, Slot, worker_of};
use wire::quick::{self, Ends, Quick};
use wire::{Mac, ip};

use crate::counters::Counter;
use crate::forward::NO_HOP;
use crate::port::{PacketBuf, Port};
use crate::tcp;
use crate::worker::Worker;

/// What decides which packets of a burst are usual.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    mac: [u8; 6],
    /// The cluster's, or the same again.
    cluster_mac: [u8; 6],
    pub(crate) interface: u8,
    zone: u8,
    verify: bool,
    /// How many workers there are; 1 when it does not matter whose a packet is.
    workers: usize,
    worker: usize,
}

/// What a frame is, as far as this tier looks.
pub(crate) enum Seen {
    /// A packet to be forwarded here, in this direction of its flow.
    Usual(FlowKey, Dir, Quick),
    /// One of a slot that another node owns.
    Foreign,
    /// To be looked at in full.
    Unusual,
}

/// What the usual packets of a burst have in common.
pub(crate) struct Run {
    zone: u8,
    generation: u32,
    common_epoch: u16,
    hops_epoch: u16,
    since_last_s: u32,
    now_s: u32,
    /// Up to where changes are acknowledged; everything when nobody is to acknowledge.
    acked_lsn: u64,
    context: tcp::Context,
    /// The way of the packet before: its hop, where that is, and its link header.
    hop: u32,
    port: usize,
    mtu: u16,
    macs: [u8; 12],
    /// Not counted yet.
    pub(crate) forwarded: u64,
}

impl<P: Port> Worker<P> {
    /// What is usual on a port now; `None` when nothing is.
    pub(crate) fn gate(&self, port: usize, crossed: bool) -> Option<Gate> {
        let usual = self.config.distribution == Distribution::Filter && self.view_is_valid();
        if !usual || self.long_way {
            return None;
        }
        let interface = self.interface(port, None)?;
        let mac = self.ports[port].mac;
        let Mac(cluster_mac) = self.config.cluster_mac.unwrap_or(mac);
        Some(Gate {
            mac: mac.0,
            cluster_mac,
            interface,
            zone: self.config.interfaces[usize::from(interface)].zone,
            verify: self.config.verify_checksums,
            workers: if crossed { 1 } else { self.config.workers },
            worker: self.config.worker,
        })
    }

    #[inline(always)]
    pub(crate) fn look(&self, gate: &Gate, buf: &P::Buf) -> Seen {
        let frame = buf.data();
        let Some((ends, quick)) = quick::quick(frame) else {
            return Seen::Unusual;
        };
        let to = frame.first_chunk::<6>();
        if to != Some(&gate.mac) && to != Some(&gate.cluster_mac) {
            return Seen::Unusual;
        }
        let (sport, dport) = (quick.sport, quick.dport);
        let given = buf.rss_hash().map(Slot::of_hash);
        let (key, dir, slot, last) = match &ends {
            Ends::V4(src, dst) => {
                let (key, dir) = FlowKey::of_v4(*src, *dst, sport, dport, quick.proto);
                let slot = given.unwrap_or_else(|| state::slot_of_v4(*src, *dst, sport, dport));
                (key, dir, slot, *dst as u8)
            }
            Ends::V6(src, dst) => {
                let (key, dir) = FlowKey::new(*src, *dst, sport, dport, quick.proto);
                let slot = given.unwrap_or_else(|| state::slot_of(&key));
                (key, dir, slot, dst[15])
            }
        };
        if !self.ownership.owned.contains(slot) {
            return Seen::Foreign;
        }
        let mine = gate.workers == 1 || worker_of(slot, gate.workers) == gate.worker;
        if !mine || self.own_addresses.may_contain(last) {
            return Seen::Unusual;
        }
        if gate.verify && !quick::is_intact(frame, &ends, &quick) {
            return Seen::Unusual;
        }
        Seen::Usual(key, dir, quick)
    }

    /// What the packets of a burst that came by this gate have in common, as things are now.
    pub(crate) fn run(&self, gate: &Gate) -> Run {
        Run {
            zone: gate.zone,
            generation: self.policy.value().generation,
            common_epoch: self.common_epoch,
            hops_epoch: self.hops.epoch(),
            since_last_s: self.ownership.since_last_s,
            now_s: self.now.s(),
            acked_lsn: match self.ownership.targets.is_empty() {
                true => u64::MAX,
                false => self.acked_lsn,
            },
            context: tcp::Context {
                strict: self.config.tcp_strict,
                sender_behind: false,
                receiver_behind: false,
            },
            hop: NO_HOP,
            port: 0,
            mtu: 0,
            macs: [0; 12],
            forwarded: 0,
        }
    }

    /// Sends a usual packet on, if its flow goes on as well; gives it back, with nothing changed, if not.
    #[inline(always)]
    pub(crate) fn go_on(
        &mut self,
        id: FlowId,
        (dir, quick): (Dir, &Quick),
        mut buf: P::Buf,
        run: &mut Run,
    ) -> Result<(), P::Buf> {
        let entry = self.table.entry_mut(id);
        let (record, local) = (&mut entry.record, &mut entry.local);
        let class = record.class;
        let zone = match dir == class.origin {
            true => class.zone_from,
            false => class.zone_to,
        };
        let is_tcp = quick.proto == ip::TCP;
        let hop = local.hops[dir.index()];
        // Each is one comparison of what lies in two cache lines, and none is worth a branch.
        let usual = (record.life == Life::Alive)
            & (zone == run.zone)
            & (record.verdict.generation == run.generation)
            & (local.common_epoch == run.common_epoch)
            & (local.hops_epoch == run.hops_epoch)
            & (local.seen_s > run.since_last_s)
            & (local.hold_lsn <= run.acked_lsn)
            & local.flags.go_on(is_tcp)
            & record.progress.contains(Progress::seen(dir))
            & (hop != NO_HOP);
        if !usual {
            return Err(buf);
        }
        let octets = quick.end - L3;
        if hop != run.hop
            && !turn_to(
                hop,
                run,
                &mut self.hops,
                &self.config,
                &self.ports,
                self.now.us,
            )
        {
            return Err(buf);
        }
        if octets > run.mtu {
            return Err(buf);
        }
        if is_tcp {
            let segment = wire::Tcp {
                seq: quick.seq,
                ack: quick.ack,
                window: quick.window,
                flags: quick.flags,
                payload_len: quick.payload_len.into(),
                window_scale: None,
                mss: None,
            };
            if !tcp::goes_on(record, dir, &segment, run.context) {
                return Err(buf);
            }
        }
        local.flags.handled();
        local.seen_s = run.now_s;
        local.packets[dir.index()] += 1;
        local.bytes[dir.index()] += u64::from(octets);
        let end = usize::from(quick.end);
        if buf.data().len() != end {
            // The padding behind the packet: there is always room to be shorter.
            let _ = buf.set_len(end);
        }
        let frame = buf.data_mut();
        quick::decrement_ttl(frame, quick.is_v6);
        if let Some(header) = frame.first_chunk_mut::<12>() {
            *header = run.macs;
        }
        run.forwarded += 1;
        self.transmit(buf, run.port);
        Ok(())
    }

    /// Counts what a run has forwarded.
    pub(crate) fn close(&mut self, run: &mut Run) {
        let forwarded = std::mem::take(&mut run.forwarded);
        self.counters.add(Counter::Forwarded, forwarded);
    }
}

/// Where the network header begins.
const L3: u16 = wire::ethernet::HEADER_LEN as u16;

/// Takes up another next hop; whether one can send there without more ado.
#[inline(never)]
fn turn_to<P: Port>(
    hop: u32,
    run: &mut Run,
    hops: &mut crate::hops::Hops<P::Buf>,
    config: &crate::Config,
    ports: &[crate::worker::PortSide<P>],
    now_us: u64,
) -> bool {
    let next = hops.hop_mut(hop);
    let interface = &config.interfaces[usize::from(next.interface)];
    let Some(Mac(to)) = next.mac.filter(|_| interface.vlan.is_none()) else {
        return false;
    };
    next.used(now_us);
    run.hop = hop;
    run.port = interface.port;
    run.mtu = interface.mtu;
    let Mac(from) = ports[interface.port].mac;
    run.macs[..6].copy_from_slice(&to);
    run.macs[6..].copy_from_slice(&from);
    true
}
