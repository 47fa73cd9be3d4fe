//! Agents' connections: who they are, what they say, what is said to them, and what of common state they want
//! changed. Each has threads of its own, so that one that is slow, or a change that is, delays no other.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use agent::frame::{self, FrameError, HELLO_LEN_MAX, LEN_MAX};
use agent::{Done, PROTOCOL_VERSION, ToAgent, ToDaemon};
use ipnet::IpNet;
use policy::ClassSync;
use state::{
    Block, BlockReason, CommonKey, CommonValue, Expectation, ExpectationKey, FlowKey, SeqShift,
};

use super::dispatch::{Event, Link};
use crate::common_requests::{Common, check_block, check_life, state_net};

/// Connections at a time, those that have not said who they are included.
const CONNECTIONS_MAX: usize = 64;
/// How long one may take to say that.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// Changes of common state that may wait behind the one that is made.
const CHANGES_MAX: usize = 64;
/// Messages to an agent beyond its packets: two for each of its requests.
const ANSWERS_MAX: usize = 128;
/// The shortest and the longest life of what is expected, in milliseconds.
const EXPECTED_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;

/// A change of common state that an agent wants.
pub(crate) enum CommonJob {
    Expect {
        token: u64,
        key: ExpectationKey,
        expectation: Expectation,
        for_ms: u64,
    },
    Block {
        token: u64,
        source: IpAddr,
        for_ms: u64,
        note: String,
    },
    /// An agent has changed a packet's length.
    Shift { key: FlowKey, shift: SeqShift },
}

/// What connections need.
#[derive(Clone)]
pub(crate) struct Reception {
    pub(crate) names: Vec<String>,
    /// How many packets each may have.
    pub(crate) queues: Vec<u32>,
    pub(crate) events: SyncSender<Event>,
    pub(crate) common: Arc<Common>,
}

/// Takes connections as long as the process lives: it waits in the kernel and has nothing that must be given back.
pub(crate) fn accept(listener: &UnixListener, reception: &Reception) {
    let open = Arc::new(AtomicUsize::new(0));
    for (number, stream) in (1..).zip(listener.incoming()) {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: others go first.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            let _ = reception.events.send(Event::Refused);
            continue;
        }
        let (reception, guard) = (reception.clone(), open.clone());
        let started = std::thread::Builder::new()
            .name("agent".into())
            .spawn(move || {
                serve(number, stream, &reception);
                guard.fetch_sub(1, Ordering::Relaxed);
            });
        if let Err(error) = started {
            open.fetch_sub(1, Ordering::Relaxed);
            tracing::error!("an agent's connection has no thread: {error}");
        }
    }
}

fn serve(connection: u64, mut stream: UnixStream, reception: &Reception) {
    let agent = match greeted(&mut stream, reception) {
        Ok(agent) => agent,
        Err(reason) => return refuse(&mut stream, reception, &reason),
    };
    let Ok((to, common)) = start(connection, &stream, agent, reception) else {
        return refuse(&mut stream, reception, "the daemon has no thread for it");
    };
    let Ok(clone) = stream.try_clone() else {
        return;
    };
    let (taken, answer) = sync_channel(1);
    let link = Link {
        to,
        common,
        stream: clone,
    };
    let connect = Event::Connect {
        connection,
        agent,
        link,
        taken,
    };
    if reception.events.send(connect).is_err() {
        return;
    }
    match answer.recv() {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => {
            let reason = reason.to_owned();
            let _ = frame::write(&mut stream, &ToAgent::Refused { reason });
            return;
        }
        Err(_) => return,
    }
    let malformed = listen(connection, &mut stream, &reception.events);
    let _ = reception.events.send(Event::Ended {
        connection,
        malformed,
    });
}

/// Which agent it is.
fn greeted(stream: &mut UnixStream, reception: &Reception) -> Result<u8, String> {
    let _ = stream.set_read_timeout(Some(HELLO_PATIENCE));
    let hello = frame::read::<ToDaemon>(stream, HELLO_LEN_MAX).map_err(|e| e.to_string())?;
    let _ = stream.set_read_timeout(None);
    let ToDaemon::Hello { version, name } = hello else {
        return Err("it must say who it is first".into());
    };
    if version != PROTOCOL_VERSION {
        return Err(format!(
            "it speaks version {version}; the daemon speaks version {PROTOCOL_VERSION}"
        ));
    }
    let number = reception.names.iter().position(|known| *known == name);
    number.map(|number| number as u8).ok_or_else(|| {
        let known = reception.names.join(", ");
        format!("there is no [[agent]] of this name; the agents are {known}")
    })
}

fn refuse(stream: &mut UnixStream, reception: &Reception, reason: &str) {
    tracing::warn!("an agent is refused: {reason}");
    let reason = reason.to_owned();
    let _ = frame::write(stream, &ToAgent::Refused { reason });
    let _ = reception.events.send(Event::Refused);
}

/// Starts what writes to the agent, and what changes common state for it.
fn start(
    connection: u64,
    stream: &UnixStream,
    agent: u8,
    reception: &Reception,
) -> std::io::Result<(SyncSender<Vec<u8>>, SyncSender<CommonJob>)> {
    let queue = reception.queues[usize::from(agent)] as usize;
    let (to, messages) = sync_channel::<Vec<u8>>(queue + ANSWERS_MAX);
    let (common, jobs) = sync_channel(CHANGES_MAX);
    let mut writer = stream.try_clone()?;
    std::thread::Builder::new()
        .name("agent-write".into())
        .spawn(move || {
            while let Ok(bytes) = messages.recv() {
                if writer.write_all(&bytes).is_err() {
                    // Its reader notices.
                    let _ = writer.shutdown(std::net::Shutdown::Both);
                    return;
                }
            }
        })?;
    let (events, store) = (reception.events.clone(), reception.common.clone());
    std::thread::Builder::new()
        .name("agent-common".into())
        .spawn(move || change(connection, &jobs, &store, &events))?;
    Ok((to, common))
}

/// Hands on what the agent says until the connection ends; returns what was wrong, if that was why.
fn listen(connection: u64, stream: &mut UnixStream, events: &SyncSender<Event>) -> Option<String> {
    loop {
        let message = match frame::read::<ToDaemon>(stream, LEN_MAX) {
            Ok(message) => message,
            Err(FrameError::Closed | FrameError::Io(_)) => return None,
            Err(error) => return Some(error.to_string()),
        };
        let said = Event::Said {
            connection,
            message,
        };
        if events.send(said).is_err() {
            return None;
        }
    }
}

/// Makes changes of common state, each as soon as the cluster has the one before.
fn change(
    connection: u64,
    jobs: &Receiver<CommonJob>,
    common: &Common,
    events: &SyncSender<Event>,
) {
    while let Ok(job) = jobs.recv() {
        let put = |key, value, life_ms| {
            let reached = common.store.put(key, value, life_ms);
            let reached = reached.map_err(|error| error.to_string())?;
            let names = reached.lacking.iter().map(|node| common.name(*node));
            Ok::<Vec<String>, String>(names.collect())
        };
        let (token, entry) = match job {
            CommonJob::Shift { key, shift } => {
                let value = CommonValue::SeqShift(shift);
                // For as long as the connection lives: whoever ends it deletes this.
                let outcome = put(CommonKey::SeqShift(key), value, None);
                if events.send(Event::Shifted { key, outcome }).is_err() {
                    return;
                }
                continue;
            }
            CommonJob::Expect {
                token,
                key,
                expectation,
                for_ms,
            } => {
                let key = CommonKey::Expectation(key);
                let value = CommonValue::Expectation(expectation);
                let entry = if EXPECTED_MS.contains(&for_ms) {
                    Ok((key, value, for_ms))
                } else {
                    Err("a life out of range: 1 s to an hour".to_owned())
                };
                (token, entry)
            }
            CommonJob::Block {
                token,
                source,
                for_ms,
                note,
            } => (token, block(common, source, for_ms, note)),
        };
        let outcome = entry.and_then(|(key, value, for_ms)| {
            let waits = common.board.node.policy.load().expectations == ClassSync::Ack;
            if matches!(value, CommonValue::Expectation(_)) && !waits {
                let told = common.store.put_later(key, value, Some(for_ms));
                return match told {
                    true => Ok(Done::Complete),
                    false => Err("too many changes wait already: try again".to_owned()),
                };
            }
            let lacking = put(key, value, Some(for_ms))?;
            Ok(match lacking.is_empty() {
                true => Done::Complete,
                false => Done::Lacking(lacking),
            })
        });
        let changed = Event::Changed {
            connection,
            token,
            outcome,
        };
        if events.send(changed).is_err() {
            return;
        }
    }
}

/// The entry that blocks a source, if it may be.
fn block(
    common: &Common,
    source: IpAddr,
    for_ms: u64,
    note: String,
) -> Result<(CommonKey, CommonValue, u64), String> {
    let net = IpNet::from(source.to_canonical());
    check_life(Some(for_ms)).map_err(|failure| failure.message)?;
    check_block(&common.config, net).map_err(|failure| failure.message)?;
    let reason = BlockReason::Agent;
    let block = Block { reason, note };
    Ok((
        CommonKey::Block(state_net(net)),
        CommonValue::Block(block),
        for_ms,
    ))
}
