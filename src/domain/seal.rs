//! Which partitions are closed, which of them are sealed, and which are to be sealed now.

use std::collections::BTreeMap;

use super::instant::Instant;
use super::partition::{Bound, Kind, Partition, Range};

/// What the server has counted of a table. A crash makes it begin anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many rows were inserted, updated and deleted, also by transactions that were rolled back.
    pub changes: i64,
    /// How many of those since the last ANALYZE were not rolled back.
    pub since_analyze: i64,
    /// How often it was analyzed.
    pub analyses: i64,
}

/// What tells cheaply that a table's rows may be others than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The file that its rows are in (`pg_class.relfilenode`): another one after TRUNCATE or a rewrite.
    pub file: u32,
    /// What was counted.
    pub counts: Counts,
}

impl Mark {
    /// Whether the rows are still the same, going by what is so now: either nothing at all was counted, or what was counted
    /// was rolled back, as the events with which the health check tries out whether it can write.
    fn holds(&self, now: Self) -> bool {
        let (noted, counted) = (self.counts, now.counts);
        let is_unwritten = noted.changes == counted.changes;
        let is_rolled_back =
            (noted.since_analyze, noted.analyses) == (counted.since_analyze, counted.analyses);
        self.file == now.file && (is_unwritten || is_rolled_back)
    }
}

/// What was noted when a partition was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Its range: it is known by that, because OIDs don't outlive a dump.
    pub range: Range,
    /// Its OID at that time.
    pub relation: u32,
    /// Its mark, taken before its rows were counted.
    pub mark: Mark,
}

/// How a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Events of its range are still to come, or it can't be sealed: it is the DEFAULT partition, has no end, is being
    /// detached, or its rows are elsewhere.
    Open,
    /// It is closed and was never sealed.
    Unsealed,
    /// It is sealed, and its rows may be others by now.
    Changed,
    /// It is sealed.
    Sealed,
}

/// A partition that is to be sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its OID.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Its range, as the seal notes it.
    pub range: Range,
}

/// The seals by the ranges that they are known by.
pub struct Seals(BTreeMap<Range, Seal>);

impl Seals {
    /// Takes in what was noted.
    #[must_use]
    pub fn new(seals: impl IntoIterator<Item = Seal>) -> Self {
        Self(seals.into_iter().map(|seal| (known_by(seal.range), seal)).collect())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How `partition` is. Closed is what ends at `closed_before` or earlier; without that, nothing is closed but what is
    /// sealed. `counts` is asked for what was counted only where it matters.
    pub fn standing(
        &self,
        partition: &Partition,
        closed_before: Option<Instant>,
        counts: impl FnOnce(u32) -> Counts,
    ) -> Standing {
        let Some(range) = sealable(partition) else { return Standing::Open };
        match self.0.get(&range) {
            None if closed_before.is_some_and(|at| range.upper <= Bound::At(at)) => {
                Standing::Unsealed
            }
            None => Standing::Open,
            Some(seal) => {
                let now = || Mark { file: partition.file, counts: counts(partition.oid) };
                let is_same = seal.relation == partition.oid && seal.mark.holds(now());
                if is_same { Standing::Sealed } else { Standing::Changed }
            }
        }
    }

    /// What is to be sealed: first what never was, then what may have changed; the oldest first.
    pub fn due(
        &self,
        partitions: &[Partition],
        closed_before: Instant,
        counts: impl Fn(u32) -> Counts,
    ) -> Vec<Candidate> {
        let mut due: Vec<(bool, Candidate)> = Vec::new();
        for partition in partitions {
            let is_changed = match self.standing(partition, Some(closed_before), &counts) {
                Standing::Open | Standing::Sealed => continue,
                Standing::Unsealed => false,
                Standing::Changed => true,
            };
            if let Some(range) = sealable(partition) {
                let name = partition.name.clone();
                due.push((is_changed, Candidate { oid: partition.oid, name, range }));
            }
        }
        due.sort_by(|(a, one), (b, other)| (a, one.range).cmp(&(b, other.range)));
        due.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// The seals whose counts are others by now although nothing was written: they are noted anew, so that what is rolled
    /// back later can still be told from what is not.
    pub fn outdated(
        &self,
        partitions: &[Partition],
        counts: impl Fn(u32) -> Counts,
    ) -> Vec<(Range, Counts)> {
        let outdated = |partition: &Partition| {
            let seal = self.0.get(&sealable(partition)?)?;
            let now = counts(partition.oid);
            let is_unwritten = seal.relation == partition.oid
                && seal.mark.file == partition.file
                && seal.mark.counts.changes == now.changes;
            (is_unwritten && seal.mark.counts != now).then_some((seal.range, now))
        };
        partitions.iter().filter_map(outdated).collect()
    }
}

/// The range of a partition that may be sealed one day, as a seal notes it.
#[must_use]
pub fn sealable(partition: &Partition) -> Option<Range> {
    let range = partition.range()?;
    let has_end = matches!(range.upper, Bound::At(end) if end.is_finite());
    let is_here = partition.kind == Kind::Table && !partition.detach_pending;
    (has_end && is_here).then(|| known_by(range))
}

/// The same range, whichever way its beginning says that it has none.
fn known_by(range: Range) -> Range {
    match range.lower {
        Bound::At(Instant::NEG_INFINITY) => Range { lower: Bound::MinValue, ..range },
        _ => range,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::partition::{Extent, RowSecurity};

    const DAY: i64 = 86_400_000_000;

    fn days(from: i64, to: i64) -> Range {
        Range::between(Instant(from * DAY), Instant(to * DAY))
    }

    fn partition(oid: u32, extent: Extent) -> Partition {
        Partition {
            oid,
            schema: "public".into(),
            name: format!("p{oid}"),
            extent,
            kind: Kind::Table,
            detach_pending: false,
            row_security: RowSecurity::default(),
            file: 1_000 + oid,
        }
    }

    fn plain(oid: u32, range: Range) -> Partition {
        partition(oid, Extent::Range(range))
    }

    /// The seal that is made of a partition with so many changes.
    fn seal(of: &Partition, changes: i64) -> Seal {
        let range = sealable(of).unwrap();
        let counts = Counts { changes, since_analyze: changes - 2, analyses: 1 };
        Seal { range, relation: of.oid, mark: Mark { file: of.file, counts } }
    }

    fn due(partitions: &[Partition], seals: &[Seal], closed_before: i64) -> Vec<u32> {
        let seals = Seals::new(seals.iter().copied());
        let counts = Counts { changes: 5, since_analyze: 3, analyses: 1 };
        let due = seals.due(partitions, Instant(closed_before * DAY), |_| counts);
        due.into_iter().map(|candidate| candidate.oid).collect()
    }

    #[test]
    fn what_has_ended_is_sealed_once_oldest_first() {
        let months = [plain(3, days(20, 30)), plain(1, days(0, 10)), plain(2, days(10, 20))];
        assert_eq!(due(&months, &[], 9), [0; 0]);
        assert_eq!(due(&months, &[], 10), [1]);
        assert_eq!(due(&months, &[], 29), [1, 2]);
        assert_eq!(due(&months, &[], 30), [1, 2, 3]);
        let seals = months.each_ref().map(|month| seal(month, 5));
        assert_eq!(due(&months, &seals, 30), [0; 0]);
    }

    #[test]
    fn what_may_have_changed_comes_after_what_was_never_sealed() {
        let months = [plain(1, days(0, 10)), plain(2, days(10, 20)), plain(3, days(20, 30))];
        assert_eq!(due(&months, &[seal(&months[0], 4)], 30), [2, 3, 1], "late events");
        assert_eq!(due(&months, &[seal(&months[0], 9)], 30), [2, 3, 1], "counters begun anew");
        assert_eq!(due(&months, &[seal(&months[0], 5)], 30), [2, 3]);
        let mut truncated = months.clone();
        truncated[1].file = 7;
        assert_eq!(due(&truncated, &months.each_ref().map(|m| seal(m, 5)), 30), [2]);
        // Restored: the ranges are the same, the tables are others.
        let restored = [plain(11, days(0, 10)), plain(2, days(10, 20)), plain(13, days(20, 30))];
        assert_eq!(due(&restored, &months.each_ref().map(|m| seal(m, 5)), 30), [11, 13]);
        // An OID alone says nothing.
        assert_eq!(due(&[plain(1, days(0, 9))], &[seal(&months[0], 5)], 30), [1]);
    }

    #[test]
    fn what_was_rolled_back_and_what_was_only_analyzed_are_no_changes() {
        let noted = Mark { file: 7, counts: Counts { changes: 9, since_analyze: 0, analyses: 1 } };
        let now = |changes, since_analyze, analyses| {
            noted.holds(Mark { file: 7, counts: Counts { changes, since_analyze, analyses } })
        };
        assert!(now(9, 0, 1));
        assert!(now(10, 0, 1), "rolled back");
        assert!(now(9, 0, 2), "analyzed");
        assert!(!now(10, 1, 1), "changed");
        assert!(!now(10, 0, 2), "changed, or rolled back, and analyzed");
        assert!(!now(0, 0, 0), "a crash");
        assert!(!noted.holds(Mark { file: 8, ..noted }), "rewritten");
    }

    #[test]
    fn counts_are_noted_anew_where_nothing_was_written() {
        let months = [plain(1, days(0, 10)), plain(2, days(10, 20)), plain(3, days(20, 30))];
        let seals = Seals::new([seal(&months[0], 5), seal(&months[1], 4)]);
        let now = Counts { changes: 5, since_analyze: 0, analyses: 2 };
        assert_eq!(seals.outdated(&months, |_| now), [(days(0, 10), now)]);
        let same = Counts { changes: 5, since_analyze: 3, analyses: 1 };
        assert_eq!(seals.outdated(&months, |_| same), []);
    }

    #[test]
    fn a_seal_outlives_a_longer_interval() {
        let month = plain(1, days(0, 10));
        assert_eq!(due(std::slice::from_ref(&month), &[seal(&month, 4)], 0), [1]);
    }

    #[test]
    fn what_cannot_be_sealed_is_left_alone() {
        let range = days(0, 10);
        let foreign = Partition { kind: Kind::Foreign, ..plain(1, range) };
        let partitioned = Partition { kind: Kind::Partitioned, ..plain(2, range) };
        let detached = Partition { detach_pending: true, ..plain(3, range) };
        let others = [
            partition(4, Extent::Default),
            partition(5, Extent::Unreadable("why".into())),
            plain(6, Range { upper: Bound::MaxValue, ..range }),
            plain(7, Range { upper: Bound::At(Instant::INFINITY), ..range }),
        ];
        for one in [foreign, partitioned, detached].into_iter().chain(others) {
            assert_eq!(due(std::slice::from_ref(&one), &[], 100), [0; 0], "{one:?}");
        }
    }

    #[test]
    fn a_beginning_without_a_date_is_known_again() {
        for lower in [Bound::MinValue, Bound::At(Instant::NEG_INFINITY)] {
            let first = plain(1, Range { lower, ..days(0, 10) });
            assert_eq!(due(std::slice::from_ref(&first), &[], 100), [1]);
            // It comes back from the table as MINVALUE.
            let range = Range { lower: Bound::MinValue, ..days(0, 10) };
            let noted = Seal { range, ..seal(&first, 5) };
            assert_eq!(due(&[first], &[noted], 100), [0; 0]);
        }
    }
}
