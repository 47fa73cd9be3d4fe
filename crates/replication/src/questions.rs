//! Questions about single flows, with `ecmp`: a worker that got a packet of a flow which it does not
//! know asks for it; the slot's owner answers, or one of the owner's targets when the owner is silent.
//!
//! A question is named by its key. Frames carry many; what a lost connection carried is asked again, of
//! somebody else if there is anybody. The packets wait in the worker, which sets the deadline: a
//! question that nobody answers is forgotten here a little later.

use std::collections::BTreeMap;

use state::{Dir, FlowBatch, FlowKey, FlowRecord, NODES_MAX, NodeId, NodeSet, slot_of, worker_of};

use crate::ToWorker;
use crate::message::{Answer, ArchivedAnswer, ArchivedQuery, Key, QUERIES, Query, Violation};
use crate::options::{HEADER_BYTES_MAX, Options, RECORD_BYTES_MAX};
use crate::replicator::Shared;
use crate::route::Route;

/// The most questions that are open here, and the most that peers have open here.
const OPEN_MAX: usize = 1 << 16;
/// The most keys of one frame.
const KEYS_MAX: usize = 512;
/// Frames of questions that may wait for a peer before more are made.
const FRAMES_QUEUED_MAX: usize = 2;

pub(crate) struct Questions {
    workers: usize,
    retry_us: u64,
    deadline_us: u64,
    records_max: usize,
    open: BTreeMap<FlowKey, Question>,
    /// When the first of them is looked at again.
    due_us: u64,
    /// By node: keys to ask it for.
    to_ask: Vec<Vec<FlowKey>>,
    /// What workers here were asked for peers.
    lookups: BTreeMap<u64, (NodeId, FlowKey)>,
    last_lookup: u64,
    /// By node: what workers found for it.
    found: Vec<Vec<Found>>,
}

type Found = (FlowKey, Option<(FlowRecord, u16)>);

struct Question {
    worker: usize,
    token: u64,
    since_us: u64,
    /// When somebody was last asked.
    asked_us: u64,
    asked: NodeSet,
    /// Who said that there is no such flow.
    unknown: NodeSet,
}

/// Who can be asked now, and who can be answered.
pub(crate) struct Reach<'a> {
    pub(crate) route: &'a Route,
    /// By node: session and own incarnation of our connection, once it is greeted.
    pub(crate) asks: &'a dyn Fn(NodeId) -> Option<u32>,
    /// By node: session and incarnation of its connection.
    pub(crate) answers: &'a dyn Fn(NodeId) -> Option<(u32, u64)>,
}

impl Questions {
    pub(crate) fn new(options: &Options) -> Self {
        let fits = (options.batch_bytes_max - HEADER_BYTES_MAX) / RECORD_BYTES_MAX;
        Self {
            workers: options.workers,
            retry_us: options.ask_retry_us,
            deadline_us: options.ask_deadline_us,
            records_max: options.batch_records_max.min(fits),
            open: BTreeMap::new(),
            due_us: u64::MAX,
            to_ask: vec![Vec::new(); NODES_MAX],
            lookups: BTreeMap::new(),
            last_lookup: 0,
            found: vec![Vec::new(); NODES_MAX],
        }
    }

    /// A worker asks. One that asks again for a key has given up on the token before.
    pub(crate) fn ask(&mut self, worker: usize, token: u64, key: FlowKey, shared: &mut Shared) {
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&key) {
            shared.counters.questions_dropped += 1;
            return;
        }
        shared.counters.questions_asked += 1;
        let now_us = shared.now_us;
        let question = Question {
            worker,
            token,
            since_us: now_us,
            asked_us: 0,
            asked: NodeSet::EMPTY,
            unknown: NodeSet::EMPTY,
        };
        self.open.insert(key, question);
        self.due_us = 0;
    }

    /// Owners and recipients may be others now.
    pub(crate) fn view_changed(&mut self) {
        self.due_us = 0;
    }

    /// What a peer was asked on a connection that is gone it is not going to answer.
    pub(crate) fn disconnected(&mut self, peer: NodeId) {
        self.to_ask[peer.index()].clear();
        for question in self.open.values_mut() {
            if question.asked.contains(peer) && !question.unknown.contains(peer) {
                question.asked.remove(peer);
                question.asked_us = 0;
            }
        }
        self.due_us = 0;
    }

    /// A peer has answered. Nothing has changed when the answer is refused.
    pub(crate) fn answered(
        &mut self,
        peer: NodeId,
        answer: &ArchivedAnswer,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let records = answer.flows.records().map_err(Violation::Record)?;
        let unknown: Vec<FlowKey> = answer
            .unknown
            .iter()
            .map(|key| key.key())
            .collect::<Result<_, _>>()?;
        for (record, idle_s) in records {
            if let Some(question) = self.open.remove(&record.key) {
                shared.counters.questions_answered += 1;
                tell(&question, Some((peer, record, idle_s)), shared);
            }
        }
        for key in unknown {
            if let Some(question) = self.open.get_mut(&key) {
                question.unknown.insert(peer);
                question.asked_us = 0;
                self.due_us = 0;
            }
        }
        Ok(())
    }

    /// A peer asks.
    pub(crate) fn queried(
        &mut self,
        peer: NodeId,
        query: &ArchivedQuery,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let keys: Vec<FlowKey> = query
            .keys
            .iter()
            .map(|key| key.key())
            .collect::<Result<_, _>>()?;
        for key in keys {
            if self.lookups.len() >= OPEN_MAX {
                shared.counters.questions_dropped += 1;
                continue;
            }
            self.last_lookup += 1;
            let token = self.last_lookup;
            self.lookups.insert(token, (peer, key));
            let worker = worker_of(slot_of(&key), self.workers);
            let lookup = ToWorker::Lookup { token, peer, key };
            shared.outbox.tell_worker(worker, lookup);
        }
        Ok(())
    }

    /// A worker has looked.
    pub(crate) fn found(
        &mut self,
        token: u64,
        record: Option<(FlowRecord, u16)>,
        shared: &mut Shared,
    ) {
        match self.lookups.remove(&token) {
            Some((peer, key)) => self.found[peer.index()].push((key, record)),
            None => shared.counters.worker_faults += 1,
        }
    }

    /// Asks and answers whatever has become possible.
    pub(crate) fn pump(&mut self, reach: &Reach<'_>, shared: &mut Shared) {
        if shared.now_us >= self.due_us {
            self.look_again(reach, shared);
        }
        for index in 0..NODES_MAX {
            let Some(peer) = NodeId::new(index as u8) else {
                continue;
            };
            self.send_questions(peer, reach, shared);
            self.send_answers(peer, reach, shared);
        }
    }

    fn look_again(&mut self, reach: &Reach<'_>, shared: &mut Shared) {
        let (retry_us, deadline_us, now_us) = (self.retry_us, self.deadline_us, shared.now_us);
        let mut due_us = u64::MAX;
        let to_ask = &mut self.to_ask;
        self.open.retain(|key, question| {
            if now_us >= question.since_us + deadline_us {
                shared.counters.questions_unanswered += 1;
                return false;
            }
            let (owner, recipients) = reach.route.to_ask(slot_of(key));
            // The owner's word decides; without it, that of all others who would know.
            let backups = NodeSet(recipients.0 & !owner.into_iter().collect::<NodeSet>().0);
            let by_owner = owner.is_none_or(|owner| question.unknown.contains(owner));
            let by_others = !backups.is_empty() && backups.0 & !question.unknown.0 == 0;
            let waited = now_us >= question.since_us + retry_us;
            if by_owner || (by_others && waited) {
                shared.counters.questions_answered += 1;
                tell(question, None, shared);
                return false;
            }
            // To the owner at once, to others when it is silent or cannot be asked.
            let open =
                |peer: &NodeId| !question.asked.contains(*peer) && (reach.asks)(*peer).is_some();
            let silent = now_us >= question.asked_us + retry_us || question.asked_us == 0;
            if silent || owner.is_some_and(|owner| open(&owner)) {
                let next = owner.into_iter().chain(backups.iter()).find(open);
                if let Some(peer) = next {
                    question.asked.insert(peer);
                    question.asked_us = now_us.max(1);
                    to_ask[peer.index()].push(*key);
                }
            }
            let again_us = question.asked_us.max(now_us) + retry_us;
            due_us = due_us.min(again_us).min(question.since_us + deadline_us);
            true
        });
        self.due_us = due_us;
    }

    fn send_questions(&mut self, peer: NodeId, reach: &Reach<'_>, shared: &mut Shared) {
        let keys = &mut self.to_ask[peer.index()];
        if keys.is_empty() {
            return;
        }
        let Some(session) = (reach.asks)(peer) else {
            return;
        };
        while !keys.is_empty() && shared.outbox.sends_queued(peer, QUERIES) < FRAMES_QUEUED_MAX {
            let count = keys.len().min(KEYS_MAX);
            let query = Query {
                incarnation: shared.incarnation,
                session,
                keys: keys.drain(..count).map(|key| Key::of(&key)).collect(),
            };
            shared.send(peer, QUERIES, &query);
        }
    }

    fn send_answers(&mut self, peer: NodeId, reach: &Reach<'_>, shared: &mut Shared) {
        let found = &mut self.found[peer.index()];
        if found.is_empty() {
            return;
        }
        let Some((session, dialer)) = (reach.answers)(peer) else {
            // It is going to ask again, on its next connection.
            return found.clear();
        };
        while !found.is_empty() && shared.outbox.replies_queued(peer, QUERIES) < FRAMES_QUEUED_MAX {
            let count = found.len().min(self.records_max);
            let mut answer = Answer {
                incarnation: shared.incarnation,
                dialer,
                session,
                unknown: Vec::new(),
                flows: FlowBatch::default(),
            };
            for (key, record) in found.drain(..count) {
                match record {
                    Some((record, idle_s)) => answer.flows.push(&record, idle_s),
                    None => answer.unknown.push(Key::of(&key)),
                }
            }
            shared.reply(peer, QUERIES, &answer);
        }
    }
}

fn tell(question: &Question, found: Option<(NodeId, FlowRecord, u16)>, shared: &mut Shared) {
    let answer = ToWorker::Answer {
        token: question.token,
        found,
    };
    shared.outbox.tell_worker(question.worker, answer);
}

impl Key {
    pub(crate) fn of(key: &FlowKey) -> Self {
        let (a, a_port) = key.source(Dir::AToB);
        let (b, b_port) = key.destination(Dir::AToB);
        Self {
            a,
            b,
            a_port,
            b_port,
            proto: key.proto(),
        }
    }
}

impl crate::message::ArchivedKey {
    /// The key; its endpoints must be in canonical order.
    fn key(&self) -> Result<FlowKey, Violation> {
        let ports = (self.a_port.to_native(), self.b_port.to_native());
        match FlowKey::new(self.a, self.b, ports.0, ports.1, self.proto) {
            (key, Dir::AToB) => Ok(key),
            (_, Dir::BToA) => Err(Violation::Record(state::InvalidRecord::KeyOrder)),
        }
    }
}
