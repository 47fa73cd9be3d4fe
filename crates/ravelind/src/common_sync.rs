//! A cluster's common state in the daemon: what the control socket wants of it goes to the sync
//! core, which has the map, and comes back once every living node has it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use replication::{Replicator, Times, ToSync};
use state::{
    Block, BlockReason, COMMON_MAX, CommonEntry, CommonError, CommonKey, CommonKind, CommonKinds,
    CommonMap, CommonValue, Net, NodeId, Stamp,
};

use crate::clock::unix_ms;
use crate::common_store::{CommonStore, Publish, Reached, StoreError};
use crate::state::Board;
use crate::workers::Ends;

/// Commands that may wait for the sync core, and answers that may wait for peers.
const COMMANDS_MAX: usize = 256;
/// How long living peers may take to have a change, before whoever asked hears which of them lack it.
const PATIENCE_US: u64 = 3_000_000;
/// With so many blocks detectors add no more: forged sources must leave room for logins, leases and
/// the policy.
const BLOCKS_FOUND_MAX: usize = COMMON_MAX / 2;
/// What the sync core itself may take beyond that.
const ANSWER_PATIENCE: Duration = Duration::from_micros(PATIENCE_US + 2_000_000);

/// What is wanted of common state.
#[derive(Debug)]
pub(crate) enum CommonCommand {
    /// Write an entry, for ever or for a while.
    Put {
        key: CommonKey,
        value: CommonValue,
        life_ms: Option<u64>,
    },
    /// Delete an entry; that there is none is no error.
    Delete { key: CommonKey },
    /// Tell the live entries of a kind.
    List { kind: CommonKind },
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum CommonReply {
    /// It is done; the nodes named had not confirmed it at the deadline.
    Done { lacking: Vec<NodeId> },
    /// The entries.
    Listed(Vec<CommonEntry>),
    /// The entry is not taken.
    Refused(CommonError),
}

#[derive(Debug)]
struct Asked {
    command: CommonCommand,
    /// Without one nobody waits.
    reply: Option<SyncSender<CommonReply>>,
}

/// Commands on their way to the sync core.
#[derive(Debug)]
pub(crate) struct CommonCommands(ArrayQueue<Asked>);

impl Default for CommonCommands {
    fn default() -> Self {
        Self(ArrayQueue::new(COMMANDS_MAX))
    }
}

impl CommonCommands {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts a command in, unless there are too many; the caller wakes the sync core.
    fn ask(&self, command: CommonCommand) -> Option<Receiver<CommonReply>> {
        let (reply, answer) = sync_channel(1);
        let asked = Asked {
            command,
            reply: Some(reply),
        };
        self.0.push(asked).ok().map(|()| answer)
    }

    /// Asks for a source to be blocked that scans or floods.
    pub(crate) fn block(&self, source: [u8; 16], reason: BlockReason, life_ms: u64) {
        let (key, value) = blocked(source, reason);
        let told = self.tell(CommonCommand::Put {
            key,
            value,
            life_ms: Some(life_ms),
        });
        let address = std::net::Ipv6Addr::from(source).to_canonical();
        if told {
            tracing::warn!("{address} is blocked: {reason}");
        } else {
            // The next window tells again.
            tracing::error!("{address} is not blocked: too many requests");
        }
    }

    /// Likewise, for whom no answer is of use; returns whether there was room.
    fn tell(&self, command: CommonCommand) -> bool {
        let asked = Asked {
            command,
            reply: None,
        };
        self.0.push(asked).is_ok()
    }
}

/// How long a source is blocked that scans or floods, in milliseconds.
pub(crate) fn block_for_ms(config: &config::Config) -> u64 {
    let detect = config.detect.as_ref();
    detect.map_or(0, |detect| detect.block_for.as_millis() as u64)
}

/// The entry that blocks a source which a detector has found.
fn blocked(source: [u8; 16], reason: BlockReason) -> (CommonKey, CommonValue) {
    let block = Block {
        reason,
        note: String::new(),
    };
    (
        CommonKey::Block(Net::host(source)),
        CommonValue::Block(block),
    )
}

/// Does for a node without a cluster what the sync core does: takes what workers have to say of
/// common state to its store.
pub(crate) fn heed_workers(ends: &mut [Ends], store: &dyn CommonStore, block_for_ms: u64) {
    for end in ends {
        while let Ok(message) = end.from_worker.pop() {
            let (source, reason) = match message {
                ToSync::Detected { source, reason } => (source, reason),
                ToSync::UsedUp { key, stamp } => {
                    let entries = store.of_kind(key.kind()).unwrap_or_default();
                    let of = |entry: &CommonEntry| (entry.key, entry.stamp) == (key, stamp);
                    // One that was written anew since stays.
                    if entries.iter().any(of)
                        && let Err(error) = store.delete(key)
                    {
                        tracing::error!("{key:?} is not deleted: {error}");
                    }
                    continue;
                }
                _ => continue,
            };
            let (key, value) = blocked(source, reason);
            let address = std::net::Ipv6Addr::from(source).to_canonical();
            if store.count(CommonKind::Block) >= BLOCKS_FOUND_MAX as u64 {
                tracing::error!("{address} is not blocked: there are too many blocks");
            } else if let Err(error) = store.put(key, value, Some(block_for_ms)) {
                tracing::error!("{address} is not blocked: {error}");
            } else {
                tracing::warn!("{address} is blocked: {reason}");
            }
        }
    }
}

/// The control socket's side: the store of a node in a cluster.
pub(crate) struct ClusterStore {
    board: Arc<Board>,
}

const BUSY: StoreError =
    StoreError::Unavailable("the sync core has too many requests already; try again");
const SILENT: StoreError = StoreError::Unavailable("the sync core does not answer");

impl ClusterStore {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        Self { board }
    }

    fn ask(&self, command: CommonCommand) -> Result<CommonReply, StoreError> {
        let answer = self.board.commands.ask(command).ok_or(BUSY)?;
        self.board.wake.wake();
        match answer.recv_timeout(ANSWER_PATIENCE) {
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(SILENT),
        }
    }

    fn change(&self, command: CommonCommand) -> Result<Reached, StoreError> {
        match self.ask(command)? {
            CommonReply::Done { lacking } => Ok(Reached { lacking }),
            CommonReply::Refused(error) => Err(error.into()),
            CommonReply::Listed(_) => Err(SILENT),
        }
    }
}

impl CommonStore for ClusterStore {
    fn put(
        &self,
        key: CommonKey,
        value: CommonValue,
        life_ms: Option<u64>,
    ) -> Result<Reached, StoreError> {
        self.change(CommonCommand::Put {
            key,
            value,
            life_ms,
        })
    }

    fn delete(&self, key: CommonKey) -> Result<Reached, StoreError> {
        self.change(CommonCommand::Delete { key })
    }

    fn of_kind(&self, kind: CommonKind) -> Result<Vec<CommonEntry>, StoreError> {
        match self.ask(CommonCommand::List { kind })? {
            CommonReply::Listed(entries) => Ok(entries),
            CommonReply::Done { .. } | CommonReply::Refused(_) => Err(SILENT),
        }
    }

    fn count(&self, kind: CommonKind) -> u64 {
        let report = self.board.sync.lock();
        let status = report.status.as_ref();
        status.map_or(0, |status| status.common.entries[kind as usize] as u64)
    }

    fn put_later(&self, key: CommonKey, value: CommonValue, life_ms: Option<u64>) -> bool {
        let told = self.board.commands.tell(CommonCommand::Put {
            key,
            value,
            life_ms,
        });
        self.board.wake.wake();
        told
    }
}

/// The sync core's side.
pub(crate) struct Desk {
    publish: Publish,
    waiting: Vec<Waiting>,
}

/// Somebody who waits for the living nodes to have a change.
struct Waiting {
    stamp: Stamp,
    deadline_us: u64,
    reply: SyncSender<CommonReply>,
}

impl Desk {
    /// `publish` is called with the map after each change.
    pub(crate) fn new(publish: Publish) -> Self {
        Self {
            publish,
            waiting: Vec::new(),
        }
    }

    /// Takes the commands that have come, and answers those whose patience is over; returns how
    /// much there was to do.
    pub(crate) fn turn(
        &mut self,
        commands: &CommonCommands,
        replicator: &mut Replicator,
        now_us: u64,
    ) -> usize {
        let mut work = 0;
        while self.waiting.len() < COMMANDS_MAX
            && let Some(asked) = commands.0.pop()
        {
            work += 1;
            self.carry_out(asked, replicator, now_us);
        }
        self.waiting.retain(|waiting| {
            if now_us < waiting.deadline_us {
                return true;
            }
            let lacking = replicator.common_lacking(waiting.stamp);
            let _ = waiting.reply.try_send(CommonReply::Done { lacking });
            work += 1;
            false
        });
        work
    }

    /// The map has changed.
    pub(crate) fn changed(&self, map: &CommonMap, kinds: CommonKinds) {
        (self.publish)(map, kinds);
    }

    /// Every living node has all up to `stamp`.
    pub(crate) fn synced(&mut self, stamp: Stamp) {
        self.waiting.retain(|waiting| {
            let all_have_it = waiting.stamp <= stamp;
            if all_have_it {
                let done = CommonReply::Done { lacking: vec![] };
                // Whoever asked may have lost patience.
                let _ = waiting.reply.try_send(done);
            }
            !all_have_it
        });
    }

    fn carry_out(&mut self, asked: Asked, replicator: &mut Replicator, now_us: u64) {
        let times = Times {
            now_us,
            unix_ms: unix_ms(),
        };
        let written = match asked.command {
            CommonCommand::Put { key, value, .. }
                if is_detected(&value) && crowded(replicator.common()) =>
            {
                tracing::error!("{key:?} is not blocked: half of the common state are blocks");
                return;
            }
            CommonCommand::Put {
                key,
                value,
                life_ms,
            } => replicator
                .put_common(key, value, life_ms, times)
                .map(Some)
                .map_err(|error| (key, error)),
            CommonCommand::Delete { key } => Ok(replicator.delete_common(&key, times)),
            CommonCommand::List { kind } => {
                if let Some(reply) = asked.reply {
                    let entries = replicator.common().of_kind(kind, now_us / 1_000);
                    let _ = reply.try_send(CommonReply::Listed(entries.collect()));
                }
                return;
            }
        };
        match (written, asked.reply) {
            (Ok(Some(stamp)), Some(reply)) => self.waiting.push(Waiting {
                stamp,
                deadline_us: now_us + PATIENCE_US,
                reply,
            }),
            (Ok(None), Some(reply)) => {
                let _ = reply.try_send(CommonReply::Done { lacking: vec![] });
            }
            (Err((_, error)), Some(reply)) => {
                let _ = reply.try_send(CommonReply::Refused(error));
            }
            (Err((key, error)), None) => tracing::error!("common state: {key:?}: {error}"),
            (Ok(_), None) => {}
        }
    }
}

/// Whether a detector said so.
fn is_detected(value: &CommonValue) -> bool {
    matches!(
        value,
        CommonValue::Block(Block {
            reason: BlockReason::SynScan | BlockReason::SynFlood,
            ..
        })
    )
}

fn crowded(map: &CommonMap) -> bool {
    map.len_of(CommonKind::Block) >= BLOCKS_FOUND_MAX
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use membership::{Member, MemberState, View};
    use replication::{Options, Output};
    use state::{NODES_MAX, NodeSet, v4_mapped};

    use super::*;

    type Published = Arc<Mutex<Vec<(usize, CommonKinds)>>>;

    fn node(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// Nobody owns anything: common state needs no slots.
    fn view(members: Vec<Member>) -> Arc<View> {
        Arc::new(View {
            epoch: 1,
            join: 1,
            reunions: 0,
            digest: 0,
            members,
            owner: Box::new([None; state::SLOTS]),
            groups: vec![vec![]; NODES_MAX],
            targets: vec![NodeSet::EMPTY; NODES_MAX],
        })
    }

    /// A node that knows of another one, which lives and is never connected.
    fn with_a_silent_peer() -> (Replicator, Desk, Published) {
        let mut replicator = Replicator::new(Options::new(node(0), 1, 7, 1)).unwrap();
        let member = |id| Member {
            id: node(id),
            state: MemberState::Active,
            incarnation: 1,
        };
        replicator.on_view(view(vec![member(0), member(1)]), 0);
        let published = Published::default();
        let seen = published.clone();
        let publish = move |map: &CommonMap, kinds| seen.lock().unwrap().push((map.len(), kinds));
        (replicator, Desk::new(Box::new(publish)), published)
    }

    fn put() -> CommonCommand {
        CommonCommand::Put {
            key: CommonKey::Block(Net::host(v4_mapped([192, 0, 2, 1]))),
            value: CommonValue::Block(Block {
                reason: BlockReason::Operator,
                note: String::new(),
            }),
            life_ms: None,
        }
    }

    fn drain(replicator: &mut Replicator, desk: &mut Desk) {
        while let Some(output) = replicator.poll() {
            match output {
                Output::CommonChanged { kinds } => desk.changed(replicator.common(), kinds),
                Output::CommonSynced { stamp } => desk.synced(stamp),
                _ => {}
            }
        }
    }

    #[test]
    fn whoever_asks_hears_at_the_deadline_which_living_node_lacks_it() {
        let (mut replicator, mut desk, published) = with_a_silent_peer();
        let commands = CommonCommands::default();
        let answer = commands.ask(put()).unwrap();
        assert_eq!(desk.turn(&commands, &mut replicator, 1_000), 1);
        drain(&mut replicator, &mut desk);
        assert_eq!(published.lock().unwrap().len(), 1, "workers see it at once");
        assert!(answer.try_recv().is_err(), "the peer does not have it");
        assert_eq!(
            desk.turn(&commands, &mut replicator, 1_000 + PATIENCE_US),
            1
        );
        let CommonReply::Done { lacking } = answer.try_recv().unwrap() else {
            panic!("it was written")
        };
        assert_eq!(lacking, [node(1)]);
    }

    #[test]
    fn whoever_asks_hears_when_all_living_nodes_have_it() {
        let (mut replicator, mut desk, _) = with_a_silent_peer();
        let commands = CommonCommands::default();
        let answer = commands.ask(put()).unwrap();
        desk.turn(&commands, &mut replicator, 1_000);
        drain(&mut replicator, &mut desk);
        assert!(answer.try_recv().is_err());
        // The other one is dead: nobody is waited for.
        let alone = Member {
            id: node(0),
            state: MemberState::Active,
            incarnation: 1,
        };
        replicator.on_view(view(vec![alone]), 2_000);
        drain(&mut replicator, &mut desk);
        assert!(matches!(
            answer.try_recv(),
            Ok(CommonReply::Done { lacking }) if lacking.is_empty()
        ));
        let listed = commands.ask(CommonCommand::List {
            kind: CommonKind::Block,
        });
        desk.turn(&commands, &mut replicator, 3_000);
        assert!(matches!(
            listed.unwrap().try_recv(),
            Ok(CommonReply::Listed(entries)) if entries.len() == 1
        ));
    }

    #[test]
    fn too_many_commands_are_refused() {
        let commands = CommonCommands::default();
        let kept: Vec<_> = (0..COMMANDS_MAX).map(|_| commands.ask(put())).collect();
        assert!(kept.iter().all(Option::is_some));
        assert!(commands.ask(put()).is_none());
        assert!(!commands.tell(put()));
    }
}
