//! Which database is served next, and with which of its tasks.
//!
//! Times are durations since some fixed moment, from a clock that never goes back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::retry::{Limits, Outcome, Record};

/// The tasks of a worker. Each has its own state, so that nothing about one delays the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Making partitions.
    Create,
    /// Retiring old ones.
    Retire,
    /// Sealing those that are closed.
    Seal,
    /// Going on with a migration between a plain table and partitions.
    Migrate,
}

impl Task {
    /// All tasks, in the order in which a worker does them: creation comes first.
    pub const ALL: [Self; 4] = [Self::Create, Self::Retire, Self::Seal, Self::Migrate];

    /// The word that the ledger uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Retire => "retire",
            Self::Seal => "seal",
            Self::Migrate => "migrate",
        }
    }
}

/// What a worker is to do about one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Whether the task is due.
    pub due: bool,
    /// Whether a lock is to be asked for though somebody is in the way.
    pub insist: bool,
}

/// What is known of one task of one database.
#[derive(Clone, Debug, Default)]
struct Track {
    due: Option<Duration>,
    ordered: bool,
    record: Record,
}

/// What is known of one database.
#[derive(Clone, Debug, Default)]
struct Entry {
    tracks: [Track; Task::ALL.len()],
    running: bool,
    last_words: u64,
}

impl Entry {
    fn due_now(now: Duration) -> Self {
        let mut entry = Self::default();
        entry.tracks.iter_mut().for_each(|track| track.due = Some(now));
        entry
    }

    fn due(&self) -> Option<Duration> {
        self.tracks.iter().filter_map(|track| track.due).min()
    }
}

/// The databases and when each is due, served in turn.
#[derive(Debug, Default)]
pub struct Queue {
    databases: BTreeMap<u32, Entry>,
    served: u32,
}

impl Queue {
    /// Takes in which databases there are now. One never seen before is due at once; one that has
    /// gone is forgotten, unless its worker still runs.
    pub fn observe(&mut self, databases: &[u32], now: Duration) {
        self.databases.retain(|oid, entry| entry.running || databases.contains(oid));
        for oid in databases {
            self.databases.entry(*oid).or_insert_with(|| Entry::due_now(now));
        }
    }

    /// Everything is due, as far as the limits allow: a scheduled time has come.
    pub fn all_due(&mut self, now: Duration, limits: Limits) {
        for track in self.databases.values_mut().flat_map(|entry| &mut entry.tracks) {
            let allowed = track.record.allowed_at(limits).map_or(now, |at| at.max(now));
            track.due = Some(track.due.map_or(allowed, |due| due.min(allowed)));
        }
    }

    /// One database is due: somebody asked for it, who may have mended what failed, so what is known of
    /// its failures is forgotten. One that is not known is looked at when it is observed.
    pub fn wake(&mut self, oid: u32, now: Duration) {
        for track in self.databases.get_mut(&oid).into_iter().flat_map(|entry| &mut entry.tracks) {
            track.due = Some(now);
            track.record = Record::default();
        }
    }

    /// As [`Queue::wake`] for every database.
    pub fn wake_all(&mut self, now: Duration) {
        let oids: Vec<u32> = self.databases.keys().copied().collect();
        oids.into_iter().for_each(|oid| self.wake(oid, now));
    }

    /// The next database to serve: due, without a running worker, after the last one served, so that
    /// none starves while worker slots are short.
    #[must_use]
    pub fn next(&self, now: Duration) -> Option<u32> {
        let ready = |entry: &Entry| !entry.running && entry.due().is_some_and(|due| due <= now);
        let after = self.databases.range(self.served.saturating_add(1)..);
        after.chain(&self.databases).find(|(_, entry)| ready(entry)).map(|(oid, _)| *oid)
    }

    /// What a worker for this database is to do, task by task, and what the one before it said last.
    #[must_use]
    pub fn orders(
        &self,
        oid: u32,
        now: Duration,
        limits: Limits,
    ) -> ([Order; Task::ALL.len()], u64) {
        let Some(entry) = self.databases.get(&oid) else {
            return ([Order::default(); Task::ALL.len()], 0);
        };
        let order = |track: &Track| Order {
            due: track.due.is_some_and(|due| due <= now),
            insist: track.record.insists(now, limits),
        };
        (entry.tracks.each_ref().map(order), entry.last_words)
    }

    /// A worker was started for this database with what is due now.
    pub fn started(&mut self, oid: u32, now: Duration) {
        self.served = oid;
        if let Some(entry) = self.databases.get_mut(&oid) {
            entry.running = true;
            for track in &mut entry.tracks {
                track.ordered = track.due.is_some_and(|due| due <= now);
                if track.ordered {
                    track.due = None;
                }
            }
        }
    }

    /// Its worker has ended with these outcomes, task by task, and these last words. Returns the most
    /// failures in a row of a task.
    pub fn ended(
        &mut self,
        oid: u32,
        (outcomes, last_words): ([Outcome; Task::ALL.len()], u64),
        now: Duration,
        limits: Limits,
        jitter: u8,
    ) -> u32 {
        let Some(entry) = self.databases.get_mut(&oid) else {
            return 0;
        };
        entry.running = false;
        entry.last_words = last_words;
        for (track, outcome) in entry.tracks.iter_mut().zip(outcomes) {
            if std::mem::take(&mut track.ordered) {
                let retry = track.record.note(outcome, now, limits, jitter);
                track.due = [track.due, retry].into_iter().flatten().min();
            }
        }
        entry.tracks.iter().map(|track| track.record.failures()).max().unwrap_or(0)
    }

    /// How long until some database without a worker is due; `None` where none is.
    #[must_use]
    pub fn until_next(&self, now: Duration) -> Option<Duration> {
        let waiting = self.databases.values().filter(|entry| !entry.running);
        waiting.filter_map(Entry::due).min().map(|due| due.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { attempts_per_hour: 12, breaker_failures: 24 };
    const DONE: ([Outcome; 4], u64) = ([Outcome::Done; 4], 0);
    const FAILED: ([Outcome; 4], u64) = ([Outcome::Failed; 4], 0);
    const ALL: [Order; 4] = [Order { due: true, insist: false }; 4];

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn every_database_is_due_at_the_start_and_served_in_turn() {
        let mut queue = Queue::default();
        queue.observe(&[5, 7, 9], s(0));
        assert_eq!(queue.next(s(0)), Some(5));
        assert_eq!(queue.orders(5, s(0), LIMITS), (ALL, 0));
        queue.started(5, s(0));
        assert_eq!(queue.next(s(0)), Some(7), "5 runs");
        assert_eq!(queue.ended(5, DONE, s(1), LIMITS, 0), 0);
        queue.wake(5, s(1));
        assert_eq!(queue.next(s(1)), Some(7), "the others come first");
        queue.started(7, s(1));
        queue.started(9, s(1));
        assert_eq!(queue.next(s(1)), Some(5));
        queue.started(5, s(1));
        assert_eq!(queue.next(s(1)), None);
        assert_eq!(queue.until_next(s(1)), None);
    }

    #[test]
    fn a_failure_is_tried_again_later_and_success_forgets_it() {
        let mut queue = Queue::default();
        queue.observe(&[1], s(0));
        let mut now = s(0);
        for (n, wait) in [(1, 10), (2, 20), (3, 40)] {
            queue.started(1, now);
            assert_eq!(queue.ended(1, FAILED, now, LIMITS, 0), n);
            assert_eq!(queue.until_next(now), Some(s(wait)));
            assert_eq!(queue.next(now + s(wait - 1)), None);
            now += s(wait);
            assert_eq!(queue.next(now), Some(1));
        }
        queue.started(1, now);
        assert_eq!(queue.ended(1, DONE, now, LIMITS, 0), 0);
        assert_eq!(queue.until_next(now), None);
    }

    #[test]
    fn a_task_that_fails_does_not_delay_the_other() {
        let mut queue = Queue::default();
        queue.observe(&[1], s(0));
        queue.started(1, s(0));
        let blocked = ([Outcome::Blocked, Outcome::Failed, Outcome::Done, Outcome::Done], 3);
        queue.ended(1, blocked, s(0), LIMITS, 0);
        assert_eq!(queue.until_next(s(0)), Some(s(1)));
        let create = Order { due: true, insist: false };
        assert_eq!(
            queue.orders(1, s(1), LIMITS),
            ([create, Order::default(), Order::default(), Order::default()], 3)
        );
        queue.started(1, s(1));
        // What it says of a task that wasn't ordered doesn't count.
        assert_eq!(
            queue.ended(
                1,
                ([Outcome::Done, Outcome::Failed, Outcome::Failed, Outcome::Failed], 3),
                s(2),
                LIMITS,
                0
            ),
            1
        );
        assert_eq!(queue.until_next(s(2)), Some(s(8)), "retirement keeps its time");
    }

    #[test]
    fn what_is_unfinished_goes_on_after_the_other_databases_had_their_turn() {
        let mut queue = Queue::default();
        queue.observe(&[1, 2], s(0));
        queue.started(1, s(0));
        let unfinished = ([Outcome::Done, Outcome::Done, Outcome::Unfinished, Outcome::Done], 0);
        assert_eq!(queue.ended(1, unfinished, s(0), LIMITS, 0), 0, "it is no failure");
        assert_eq!(queue.next(s(1)), Some(2));
        queue.started(2, s(1));
        assert_eq!(queue.next(s(1)), Some(1));
        let seal = Order { due: true, insist: false };
        let orders = [Order::default(), Order::default(), seal, Order::default()];
        assert_eq!(queue.orders(1, s(1), LIMITS), (orders, 0));
    }

    #[test]
    fn a_wake_up_during_a_run_is_not_lost() {
        let mut queue = Queue::default();
        queue.observe(&[1], s(0));
        queue.started(1, s(0));
        queue.wake(1, s(5));
        queue.ended(1, DONE, s(6), LIMITS, 0);
        assert_eq!(queue.next(s(6)), Some(1));
        queue.started(1, s(6));
        queue.wake(1, s(7));
        queue.ended(1, FAILED, s(8), LIMITS, 0);
        assert_eq!(queue.next(s(8)), Some(1), "not put off by the back-off");
    }

    #[test]
    fn a_scheduled_time_keeps_to_the_limits_and_a_wake_up_does_not() {
        let mut queue = Queue::default();
        queue.observe(&[1], s(0));
        for n in 0..12 {
            queue.started(1, s(n));
            queue.ended(1, FAILED, s(n), LIMITS, 0);
            queue.wake_all(s(n));
        }
        assert_eq!(queue.next(s(12)), Some(1), "somebody asked for it");
        let mut now = s(12);
        for _ in 0..12 {
            queue.started(1, now);
            queue.ended(1, FAILED, now, LIMITS, 0);
            now += s(1);
            queue.all_due(now, LIMITS);
        }
        assert_eq!(queue.next(now), None);
        assert_eq!(queue.next(s(3_612)), Some(1));
    }

    #[test]
    fn databases_come_and_go() {
        let mut queue = Queue::default();
        queue.observe(&[1, 2], s(0));
        queue.started(1, s(0));
        queue.observe(&[2, 3], s(1));
        queue.ended(1, FAILED, s(2), LIMITS, 0);
        queue.observe(&[2, 3], s(3));
        queue.all_due(s(3), LIMITS);
        assert_eq!(queue.next(s(3)), Some(2));
        queue.started(2, s(3));
        queue.started(3, s(3));
        assert_eq!(queue.next(s(10_000)), None, "1 is forgotten");
    }
}
