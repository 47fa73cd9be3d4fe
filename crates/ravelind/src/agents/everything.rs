//! Synchronisations of everything: each worker does its part, and the agent hears when the last one has.

use engine::port::PacketBuf;
use engine::{Instruction, Refusal};

use agent::{Done, ToAgent};

use super::dispatch::{Dispatcher, Waiter};

/// How far one is.
pub(super) struct Everything {
    connection: u64,
    token: u64,
    /// Workers that have not begun, and that are not done.
    to_begin: usize,
    to_end: usize,
    refused: Option<Refusal>,
    protected: bool,
}

impl<B: PacketBuf> Dispatcher<B> {
    /// Has every worker synchronise all that it has.
    pub(super) fn synchronise_all(&mut self, connection: u64, token: u64) {
        let workers = self.worker_count();
        let group = self.number();
        let everything = Everything {
            connection,
            token,
            to_begin: workers,
            to_end: workers,
            refused: None,
            protected: true,
        };
        self.everything.insert(group, everything);
        for worker in 0..workers {
            let number = self.number();
            self.waiting.insert(number, Waiter::Everything(group));
            self.instruct(worker, number, Instruction::SynchroniseAll);
        }
    }

    /// A worker has begun, or has not.
    pub(super) fn part_begun(&mut self, number: u64, group: u64, outcome: Result<(), Refusal>) {
        let Some(everything) = self.everything.get_mut(&group) else {
            return;
        };
        everything.to_begin -= 1;
        match outcome {
            Ok(()) => {
                self.waiting.insert(number, Waiter::Everything(group));
            }
            Err(refusal) => {
                everything.to_end -= 1;
                everything.refused = Some(refusal);
            }
        }
        if everything.to_begin == 0 {
            let (connection, token) = (everything.connection, everything.token);
            let outcome = match everything.refused {
                None => Ok(Done::Complete),
                Some(refusal) => Err(refusal.to_string()),
            };
            self.answer(connection, token, outcome);
        }
        self.end_everything(group);
    }

    /// A worker is done.
    pub(super) fn part_done(&mut self, group: u64, protected: bool) {
        if let Some(everything) = self.everything.get_mut(&group) {
            everything.to_end -= 1;
            everything.protected &= protected;
        }
        self.end_everything(group);
    }

    fn end_everything(&mut self, group: u64) {
        let over = |of: &Everything| of.to_begin == 0 && of.to_end == 0;
        if !self.everything.get(&group).is_some_and(over) {
            return;
        }
        let Some(done) = self.everything.remove(&group) else {
            return;
        };
        // One that was refused was told so.
        if done.refused.is_none()
            && let Some(agent) = self.agent_of(done.connection)
        {
            let (token, protected) = (done.token, done.protected);
            self.tell(agent, &ToAgent::Synchronised { token, protected });
        }
    }
}
