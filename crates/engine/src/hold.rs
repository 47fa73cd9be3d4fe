//! Packets that wait until the state they rest on is acknowledged.
//!
//! A queue in order of arrival: a packet leaves when its own log number is acknowledged and all
//! that were held before it have left, so packets of one flow never overtake each other.

use std::collections::VecDeque;

/// A packet that is ready to leave but for the acknowledgement.
#[derive(Debug)]
pub(crate) struct Held<B> {
    pub(crate) buf: B,
    pub(crate) hop: u32,
    lsn: u64,
    deadline_us: u64,
}

#[derive(Debug)]
pub(crate) struct HoldQueue<B> {
    queue: VecDeque<Held<B>>,
    capacity: usize,
}

/// Why a packet comes out of the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Out {
    Acknowledged,
    Deadline,
}

impl<B> HoldQueue<B> {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            queue: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= self.capacity
    }

    /// The first packet, whatever it waits for.
    pub(crate) fn pop_first(&mut self) -> Option<Held<B>> {
        self.queue.pop_front()
    }

    /// Appends a packet; gives it back when the queue is full.
    pub(crate) fn push(&mut self, buf: B, hop: u32, lsn: u64, deadline_us: u64) -> Result<(), B> {
        if self.is_full() {
            return Err(buf);
        }
        self.queue.push_back(Held {
            buf,
            hop,
            lsn,
            deadline_us,
        });
        Ok(())
    }

    /// The first packet, if what it waits for has happened or its deadline has passed.
    pub(crate) fn pop(&mut self, acked_lsn: u64, now_us: u64) -> Option<(Held<B>, Out)> {
        let first = self.queue.front()?;
        let out = if first.lsn <= acked_lsn {
            Out::Acknowledged
        } else if first.deadline_us <= now_us {
            Out::Deadline
        } else {
            return None;
        };
        if state::mutation::is(state::mutation::Mutation::HoldOutOfOrder)
            && out == Out::Acknowledged
        {
            let last = self.queue.iter().rposition(|held| held.lsn <= acked_lsn)?;
            return self.queue.remove(last).map(|held| (held, out));
        }
        self.queue.pop_front().map(|held| (held, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_in_order_and_at_their_deadline() {
        let mut queue = HoldQueue::with_capacity(3);
        queue.push('a', 0, 5, 100).unwrap();
        queue.push('b', 0, 4, 110).unwrap();
        queue.push('c', 0, 7, 120).unwrap();
        assert_eq!(queue.push('d', 0, 8, 130), Err('d'));
        assert!(
            queue.pop(4, 0).is_none(),
            "b is acknowledged and waits behind a"
        );
        let mut taken = vec![];
        while let Some((held, out)) = queue.pop(6, 0) {
            taken.push((held.buf, out));
        }
        assert_eq!(taken, [('a', Out::Acknowledged), ('b', Out::Acknowledged)]);
        assert!(queue.pop(6, 119).is_none());
        assert!(matches!(
            queue.pop(6, 120),
            Some((Held { buf: 'c', .. }, Out::Deadline))
        ));
        assert_eq!(queue.len(), 0);
    }
}
