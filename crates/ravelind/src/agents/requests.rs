//! What agents ask for: instructions to workers, and changes of common state.

use std::net::IpAddr;

use agent::{REQUESTS_MAX, Request};
use engine::port::PacketBuf;
use engine::{FlowChange, Instruction};
use state::FlowRecord;

use super::dispatch::{Dispatcher, Then, WATCHED_MAX, Waiter};
use super::link::CommonJob;
use crate::flow_requests::key_between;

impl<B: PacketBuf> Dispatcher<B> {
    /// Begins what a connected agent asks for.
    pub(super) fn ask(&mut self, agent: usize, token: u64, request: Request) {
        let Some(connected) = &mut self.seats[agent].connected else {
            return;
        };
        let connection = connected.number;
        connected.requests += 1;
        if connected.requests > REQUESTS_MAX {
            let why = format!("{REQUESTS_MAX} requests are under way: wait for their answers");
            return self.answer(connection, token, Err(why));
        }
        let (flow, then) = match request {
            Request::Block {
                source,
                for_ms,
                note,
            } => {
                let job = CommonJob::Block {
                    token,
                    source,
                    for_ms,
                    note,
                };
                return self.change(agent, token, job);
            }
            Request::SynchroniseAll => return self.synchronise_all(connection, token),
            Request::Watch { flow, on } => (flow, Ok(on)),
            Request::Expect(expectation) => (expectation.parent, Err(Request::Expect(expectation))),
            Request::Mark { flow, .. }
            | Request::Timeout { flow, .. }
            | Request::End { flow }
            | Request::Synchronise { flow, .. }
            | Request::Ask { flow } => (flow, Err(request)),
        };
        let (source, destination) = ((flow.src, flow.sport), (flow.dst, flow.dport));
        let Some(key) = key_between(source, destination, flow.proto) else {
            let why = "its two addresses are of different IP versions".to_owned();
            return self.answer(connection, token, Err(why));
        };
        let (instruction, then) = match then {
            Ok(on) => {
                if on && self.watched.len() >= WATCHED_MAX {
                    let why = format!("{WATCHED_MAX} flows are watched already");
                    return self.answer(connection, token, Err(why));
                }
                (Instruction::Divert { key, on }, Then::Watch { key, on })
            }
            Err(Request::Mark { value, .. }) => {
                let change = FlowChange::Mark(value);
                (Instruction::Modify { key, change }, Then::Tell)
            }
            Err(Request::Timeout { seconds, .. }) => {
                let change = FlowChange::Timeout(seconds);
                (Instruction::Modify { key, change }, Then::Tell)
            }
            Err(Request::End { .. }) => {
                let change = FlowChange::End;
                (Instruction::Modify { key, change }, Then::Tell)
            }
            Err(Request::Synchronise { hold, .. }) => {
                (Instruction::Synchronise { key, hold }, Then::TellTwice)
            }
            Err(Request::Expect(expectation)) => {
                (Instruction::Ask { key }, Then::Expect(expectation))
            }
            Err(_) => (Instruction::Ask { key }, Then::Tell),
        };
        let number = self.number();
        let waiter = Waiter::Agent {
            connection,
            token,
            then,
        };
        self.waiting.insert(number, waiter);
        self.instruct(self.worker_of(&key), number, instruction);
    }

    /// The parent lives: the expectation passes where it does and under its rule.
    pub(super) fn expect(
        &mut self,
        connection: u64,
        token: u64,
        parent: &FlowRecord,
        wanted: &agent::Expectation,
    ) {
        let Some(agent) = self.agent_of(connection) else {
            return;
        };
        let class = parent.class;
        let (zone_from, zone_to) = if wanted.from_opener {
            (class.zone_from, class.zone_to)
        } else {
            (class.zone_to, class.zone_from)
        };
        let address = |ip: IpAddr| wire::addr_from_ip(ip.to_canonical());
        let job = CommonJob::Expect {
            token,
            key: state::ExpectationKey {
                proto: wanted.proto,
                src: wanted.src.map(address),
                dst: address(wanted.dst),
                dport: wanted.dport,
            },
            expectation: state::Expectation {
                parent: parent.key,
                zone_from,
                zone_to,
                rule: parent.verdict.rule,
                sync: class.sync,
                mark: wanted.mark,
                once: wanted.once,
            },
            for_ms: wanted.for_ms,
        };
        self.change(agent, token, job);
    }

    fn change(&mut self, agent: usize, token: u64, job: CommonJob) {
        let Some(connected) = &self.seats[agent].connected else {
            return;
        };
        let number = connected.number;
        if connected.link.common.try_send(job).is_err() {
            let why = "too many changes wait already: try again".to_owned();
            self.answer(number, token, Err(why));
        }
    }
}
