//! Instructions about single flows that come over the control socket: a second software entity
//! beside the packet engine.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use engine::{FlowChange, Refusal};
use state::FlowKey;
use telemetry::control::{Failure, FailureKind, FlowInstructed, FlowName, FlowRequest};

use crate::agents::dispatch::Wanted;
use crate::agents::{Answer, Event};

/// What a worker may take to carry out an instruction; it looks every turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the backups may take to acknowledge.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);

/// The way to the workers, by the dispatcher.
pub(crate) struct Instructions {
    dispatcher: SyncSender<Event>,
}

impl Instructions {
    pub(crate) fn new(dispatcher: SyncSender<Event>) -> Self {
        Self { dispatcher }
    }

    /// Does what is asked; returns when the backups have it.
    pub(crate) fn carry_out(&self, request: &FlowRequest) -> Result<FlowInstructed, Failure> {
        let key = key_of(request.flow())?;
        let began = Instant::now();
        let change = match request {
            FlowRequest::Sync { .. } => None,
            FlowRequest::Mark { value, .. } => Some(FlowChange::Mark(*value)),
            FlowRequest::End { .. } => Some(FlowChange::End),
        };
        if let Some(change) = change {
            done(&self.tell(key, Wanted::Modify(change))?)?;
        }
        let acknowledged = match request {
            FlowRequest::End { .. } => false,
            FlowRequest::Sync { .. } | FlowRequest::Mark { .. } => {
                let hold = matches!(request, FlowRequest::Sync { .. });
                let answers = self.tell(key, Wanted::Synchronise { hold })?;
                match done(&answers) {
                    Ok(()) => synchronised(&answers)?,
                    // The mark is set; that nobody is told of it is how the rule wants it.
                    Err(Refused::By(Refusal::NotReplicated)) if change.is_some() => false,
                    Err(refused) => return Err(refused.into()),
                }
            }
        };
        Ok(FlowInstructed {
            acknowledged,
            waited_us: began.elapsed().as_micros() as u64,
        })
    }

    fn tell(&self, key: FlowKey, what: Wanted) -> Result<Receiver<Answer>, Refused> {
        // As many as there can be, so that nobody waits for who has given up.
        let (answer, answers) = sync_channel(2);
        let event = Event::Instruct { key, what, answer };
        let told = self.dispatcher.send(event);
        told.map(|()| answers).map_err(|_| Refused::Silent)
    }
}

/// Why there is no answer.
enum Refused {
    By(Refusal),
    Silent,
    Unacknowledged,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let (kind, message) = match refused {
            Refused::By(refusal) => (FailureKind::Unavailable, refusal.to_string()),
            Refused::Silent => (
                FailureKind::Internal,
                "the worker of this flow does not answer".into(),
            ),
            Refused::Unacknowledged => (
                FailureKind::Unavailable,
                format!(
                    "the backups have not acknowledged within {} s; it is done as soon as they are \
                     reached: see ravelin status",
                    SYNC_PATIENCE.as_secs()
                ),
            ),
        };
        Self { kind, message }
    }
}

/// Waits for the answer to an instruction.
fn done(answers: &Receiver<Answer>) -> Result<(), Refused> {
    match answers.recv_timeout(PATIENCE) {
        Ok(Answer::Done(outcome)) => outcome.map_err(Refused::By),
        Ok(Answer::Synchronised { .. }) | Err(_) => Err(Refused::Silent),
    }
}

/// Waits for a synchronisation; tells whether a backup has the state.
fn synchronised(answers: &Receiver<Answer>) -> Result<bool, Refused> {
    match answers.recv_timeout(SYNC_PATIENCE) {
        Ok(Answer::Synchronised { protected }) => Ok(protected),
        Ok(Answer::Done(_)) | Err(_) => Err(Refused::Unacknowledged),
    }
}

fn key_of(flow: &FlowName) -> Result<FlowKey, Failure> {
    let (source, destination) = ((flow.src, flow.sport), (flow.dst, flow.dport));
    key_between(source, destination, flow.proto.0).ok_or_else(|| Failure {
        kind: FailureKind::BadRequest,
        message: format!(
            "{} and {} are of different IP versions: use one",
            flow.src, flow.dst
        ),
    })
}

/// The key of the flow between two ends; `None` when they are of different IP versions.
pub(crate) fn key_between(
    (src, sport): (IpAddr, u16),
    (dst, dport): (IpAddr, u16),
    proto: u8,
) -> Option<FlowKey> {
    let (src, dst) = (src.to_canonical(), dst.to_canonical());
    let ends = (wire::addr_from_ip(src), wire::addr_from_ip(dst));
    let key = || FlowKey::new(ends.0, ends.1, sport, dport, proto).0;
    (src.is_ipv4() == dst.is_ipv4()).then(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::tests::Rig;
    use engine::memory::MemoryBuf;
    use engine::{AgentLink, Instruct, Instruction, Notice};
    use telemetry::control::Proto;

    fn pair() -> (Instructions, AgentLink<MemoryBuf>) {
        let Rig { events, link, .. } = Rig::start(vec![]);
        (Instructions::new(events), link)
    }

    fn flow() -> FlowName {
        FlowName {
            proto: Proto(6),
            src: "10.2.0.10".parse().unwrap(),
            sport: 80,
            dst: "10.1.0.10".parse().unwrap(),
            dport: 4000,
        }
    }

    /// A worker that answers as it is told, on a thread of its own; returns what it was asked.
    fn answering(
        mut link: AgentLink<MemoryBuf>,
        count: usize,
        outcome: Result<(), Refusal>,
    ) -> std::thread::JoinHandle<Vec<Instruction<MemoryBuf>>> {
        std::thread::spawn(move || {
            let mut asked = vec![];
            while asked.len() < count {
                let Ok(Instruct { token, instruction }) = link.instructions.pop() else {
                    std::thread::yield_now();
                    continue;
                };
                // Of an earlier client that gave up: not the answer that is waited for.
                let _ = link.notices.push(Notice::Done {
                    token: token + 1000,
                    outcome: Err(Refusal::Busy),
                });
                let _ = link.notices.push(Notice::Done { token, outcome });
                let protected = true;
                if matches!(instruction, Instruction::Synchronise { .. }) && outcome.is_ok() {
                    let _ = link.notices.push(Notice::Synchronised { token, protected });
                }
                asked.push(instruction);
            }
            asked
        })
    }

    #[test]
    fn a_mark_is_set_and_then_synchronised() {
        let (instructions, link) = pair();
        let worker = answering(link, 2, Ok(()));
        let request = FlowRequest::Mark {
            flow: flow(),
            value: 9,
        };
        let answer = instructions
            .carry_out(&request)
            .expect("the worker answers");
        assert!(answer.acknowledged);
        let key = key_of(&flow()).unwrap();
        match &worker.join().unwrap()[..] {
            [
                Instruction::Modify {
                    key: first,
                    change: FlowChange::Mark(9),
                },
                Instruction::Synchronise {
                    key: second,
                    hold: false,
                },
            ] => assert_eq!((*first, *second), (key, key)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_engines_words() {
        let (instructions, link) = pair();
        let worker = answering(link, 1, Err(Refusal::NoFlow));
        let refused = instructions
            .carry_out(&FlowRequest::End { flow: flow() })
            .unwrap_err();
        assert_eq!(refused.message, Refusal::NoFlow.to_string());
        worker.join().unwrap();
    }

    #[test]
    fn both_ways_round_are_one_flow_and_two_families_are_none() {
        let one = flow();
        let other = FlowName {
            src: one.dst,
            sport: one.dport,
            dst: one.src,
            dport: one.sport,
            ..one
        };
        assert_eq!(key_of(&one).unwrap(), key_of(&other).unwrap());
        let mixed = FlowName {
            dst: "fd00::1".parse().unwrap(),
            ..one
        };
        let failure = key_of(&mixed).unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadRequest);
        assert!(failure.message.contains("different IP versions"));
    }
}
