//! Packets that wait until the state they rest on is acknowledged.
//!
//! They are kept in order of arrival, and all that an acknowledgement covers leave in that order as soon as it
//! is known. The numbers that the packets of one flow wait for only rise, so none overtakes another; and a packet
//! that needs not wait finds none of its flow here. Mostly the numbers rise through the whole queue, and a look
//! at the first packet is enough. A further packet of a flow that is held already comes behind packets with greater
//! numbers: then all are looked at, once for each acknowledgement.

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
    /// The greatest number since the queue was last empty, or looked through.
    lsn_max: u64,
    /// Whether a packet may wait behind one with a greater number.
    mixed: bool,
    /// The acknowledgement for which all were last looked at.
    looked_lsn: u64,
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
            lsn_max: 0,
            mixed: false,
            looked_lsn: 0,
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
        if self.queue.is_empty() {
            (self.lsn_max, self.mixed) = (0, false);
        }
        self.mixed |= lsn < self.lsn_max;
        self.lsn_max = self.lsn_max.max(lsn);
        self.queue.push_back(Held {
            buf,
            hop,
            lsn,
            deadline_us,
        });
        Ok(())
    }

    /// Takes out, in order of arrival, every packet of which what it waits for has happened, and those whose
    /// deadline has passed. Returns how many.
    pub(crate) fn release(
        &mut self,
        acked_lsn: u64,
        now_us: u64,
        mut out: impl FnMut(Held<B>, Out),
    ) -> usize {
        if state::mutation::is(state::mutation::Mutation::HoldOutOfOrder) {
            return self.release_backwards(acked_lsn, out);
        }
        let before = self.queue.len();
        while let Some(first) = self.queue.front() {
            let why = if first.lsn <= acked_lsn {
                Out::Acknowledged
            } else if first.deadline_us <= now_us {
                Out::Deadline
            } else {
                break;
            };
            let held = self.queue.pop_front().expect("there is a first one");
            out(held, why);
        }
        if self.mixed && acked_lsn > self.looked_lsn {
            self.look_through(acked_lsn, &mut out);
        }
        before - self.queue.len()
    }

    /// Each packet leaves, or goes from the front to the back: in the end those that stay are in their order.
    fn look_through(&mut self, acked_lsn: u64, out: &mut impl FnMut(Held<B>, Out)) {
        self.looked_lsn = acked_lsn;
        (self.lsn_max, self.mixed) = (0, false);
        for _ in 0..self.queue.len() {
            let held = self.queue.pop_front().expect("as many as there were");
            if held.lsn <= acked_lsn {
                out(held, Out::Acknowledged);
                continue;
            }
            self.mixed |= held.lsn < self.lsn_max;
            self.lsn_max = self.lsn_max.max(held.lsn);
            self.queue.push_back(held);
        }
    }

    /// The deliberate bug of the same name.
    fn release_backwards(&mut self, acked_lsn: u64, mut out: impl FnMut(Held<B>, Out)) -> usize {
        let before = self.queue.len();
        let ready = |held: &Held<B>| held.lsn <= acked_lsn;
        while let Some(held) =
            (self.queue.iter().rposition(ready)).and_then(|last| self.queue.remove(last))
        {
            out(held, Out::Acknowledged);
        }
        before - self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn released(queue: &mut HoldQueue<char>, acked_lsn: u64, now_us: u64) -> Vec<(char, Out)> {
        let mut taken = vec![];
        let count = queue.release(acked_lsn, now_us, |held, out| taken.push((held.buf, out)));
        assert_eq!(count, taken.len());
        taken
    }

    #[test]
    fn packets_leave_in_order_and_at_their_deadline() {
        let mut queue = HoldQueue::with_capacity(3);
        queue.push('a', 0, 5, 100).unwrap();
        queue.push('b', 0, 6, 110).unwrap();
        queue.push('c', 0, 7, 120).unwrap();
        assert_eq!(queue.push('d', 0, 8, 130), Err('d'));
        assert_eq!(released(&mut queue, 4, 0), []);
        let both = [('a', Out::Acknowledged), ('b', Out::Acknowledged)];
        assert_eq!(released(&mut queue, 6, 0), both);
        assert_eq!(released(&mut queue, 6, 119), []);
        assert_eq!(released(&mut queue, 6, 120), [('c', Out::Deadline)]);
        assert_eq!(queue.len(), 0);
    }

    /// Of two packets of one flow the second must not find its way free while the first waits here.
    #[test]
    fn what_is_acknowledged_waits_for_nobody() {
        let mut queue = HoldQueue::with_capacity(9);
        queue.push('a', 0, 10, 100).unwrap();
        queue.push('b', 0, 9, 110).unwrap();
        queue.push('c', 0, 11, 120).unwrap();
        queue.push('d', 0, 9, 130).unwrap();
        assert_eq!(released(&mut queue, 8, 0), []);
        let both = [('b', Out::Acknowledged), ('d', Out::Acknowledged)];
        assert_eq!(released(&mut queue, 9, 0), both);
        assert_eq!(released(&mut queue, 9, 100), [('a', Out::Deadline)]);
        assert_eq!(released(&mut queue, 11, 100), [('c', Out::Acknowledged)]);
    }

    proptest! {
        /// Whatever comes and is acknowledged, everything that is acknowledged is out and the rest is in, in order.
        #[test]
        fn nothing_acknowledged_stays_and_order_is_kept(
            steps in proptest::collection::vec((0u64..40, 0u64..40, any::<bool>()), 1..60),
        ) {
            let mut queue = HoldQueue::with_capacity(1_000);
            let mut model: Vec<(usize, u64)> = vec![];
            let mut acked = 0;
            for (number, (lsn, ack, push)) in steps.into_iter().enumerate() {
                if push {
                    // One that is acknowledged is not held.
                    let lsn = acked + 1 + lsn;
                    queue.push(number, 0, lsn, u64::MAX).unwrap();
                    model.push((number, lsn));
                } else {
                    acked += ack / 4;
                }
                let mut taken = vec![];
                queue.release(acked, 0, |held, _| taken.push(held.buf));
                let due: Vec<usize> =
                    model.iter().filter(|(_, lsn)| *lsn <= acked).map(|(n, _)| *n).collect();
                model.retain(|(_, lsn)| *lsn > acked);
                prop_assert_eq!(taken, due);
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
