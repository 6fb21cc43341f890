//! Partitions and their bounds as values, and the questions that bounds alone answer.

use std::fmt;

use super::instant::Instant;

/// One end of a range partition, ordered as PostgreSQL orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// `MINVALUE`: below every value, `-infinity` included.
    MinValue,
    /// A value of the partition key.
    At(Instant),
    /// `MAXVALUE`: above every value, `infinity` included.
    MaxValue,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinValue => f.write_str("MINVALUE"),
            Self::At(instant) => write!(f, "'{instant}'"),
            Self::MaxValue => f.write_str("MAXVALUE"),
        }
    }
}

/// The values from `lower`, included, to `upper`, excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first value.
    pub lower: Bound,
    /// The first value that no longer belongs to it.
    pub upper: Bound,
}

impl Range {
    /// The range between two instants.
    #[must_use]
    pub const fn between(lower: Instant, upper: Instant) -> Self {
        Self { lower: Bound::At(lower), upper: Bound::At(upper) }
    }

    /// Whether every value of `other` belongs to `self`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.lower <= other.lower && other.upper <= self.upper
    }

    /// Whether some value belongs to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.lower < other.upper && other.lower < self.upper
    }

    /// Whether `instant` belongs to it.
    #[must_use]
    pub fn holds(&self, instant: Instant) -> bool {
        self.lower <= Bound::At(instant) && Bound::At(instant) < self.upper
    }
}

/// As PostgreSQL writes it after `FOR VALUES`.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FROM ({}) TO ({})", self.lower, self.upper)
    }
}

/// What the catalog says a partition may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A range.
    Range(Range),
    /// What no other partition holds.
    Default,
    /// A bound that could not be understood; the partition is left alone.
    Unreadable(String),
}

/// What kind of relation a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary table.
    Table,
    /// A table that is partitioned itself.
    Partitioned,
    /// A foreign table: its rows are somebody else's.
    Foreign,
}

/// An attached partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its OID: what decisions and actions are bound to.
    pub oid: u32,
    /// The schema it lies in.
    pub schema: String,
    /// Its name, for people.
    pub name: String,
    /// What it may hold.
    pub extent: Extent,
    /// What it is.
    pub kind: Kind,
    /// A `DETACH … CONCURRENTLY` was begun and not ended (`pg_inherits.inhdetachpending`): its rows are
    /// gone from queries, its range is still taken.
    pub detach_pending: bool,
    /// Its row level security.
    pub row_security: RowSecurity,
    /// The file that its rows are in (`pg_class.relfilenode`): another one after TRUNCATE or a rewrite.
    pub file: u32,
}

/// Whether a table has row level security: its policies belong to the server alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSecurity {
    /// It is on (`pg_class.relrowsecurity`).
    pub enabled: bool,
    /// It holds for the table's owner too (`pg_class.relforcerowsecurity`).
    pub forced: bool,
}

impl RowSecurity {
    /// Whether a table that has this lacks something that a table with `other` has.
    #[must_use]
    pub const fn is_less_than(self, other: Self) -> bool {
        (other.enabled && !self.enabled) || (other.forced && !self.forced)
    }
}

impl Partition {
    /// Its range, where it has one.
    #[must_use]
    pub const fn range(&self) -> Option<Range> {
        match self.extent {
            Extent::Range(range) => Some(range),
            Extent::Default | Extent::Unreadable(_) => None,
        }
    }
}

/// The parts of `window` that none of `ranges` holds, in order.
pub fn holes(window: Range, ranges: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut ranges: Vec<Range> = ranges.into_iter().filter(|r| r.overlaps(&window)).collect();
    ranges.sort_unstable();
    let mut holes = Vec::new();
    let mut reached = window.lower;
    for range in ranges {
        if reached < range.lower {
            holes.push(Range { lower: reached, upper: range.lower });
        }
        reached = reached.max(range.upper);
    }
    if reached < window.upper {
        holes.push(Range { lower: reached, upper: window.upper });
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(lower: i64, upper: i64) -> Range {
        Range::between(Instant(lower), Instant(upper))
    }

    #[test]
    fn minvalue_and_maxvalue_lie_outside_the_infinities() {
        assert!(Bound::MinValue < Bound::At(Instant::NEG_INFINITY));
        assert!(Bound::At(Instant::INFINITY) < Bound::MaxValue);
    }

    #[test]
    fn holes_are_what_no_range_holds() {
        let window = range(0, 100);
        assert_eq!(holes(window, []), [window]);
        assert_eq!(holes(window, [range(-10, 200)]), []);
        assert_eq!(holes(window, [range(20, 30), range(10, 20)]), [range(0, 10), range(30, 100)]);
        let all = Range { lower: Bound::MinValue, upper: Bound::MaxValue };
        assert_eq!(holes(window, [all]), []);
        assert_eq!(
            holes(window, [Range { lower: Bound::MinValue, upper: Bound::At(Instant(40)) }]),
            [range(40, 100)]
        );
    }

    #[test]
    fn text_is_postgresqls() {
        let open = Range { lower: Bound::MinValue, upper: Bound::At(Instant(0)) };
        assert_eq!(open.to_string(), "FROM (MINVALUE) TO ('2000-01-01 00:00:00+00')");
    }

    proptest! {
        /// Against a model that looks at every single value.
        #[test]
        fn holes_equal_the_model(
            ranges in prop::collection::vec((0_i64..60, 1_i64..20), 0..12),
            (from, len) in (0_i64..40, 1_i64..40),
        ) {
            let window = range(from, from + len);
            let ranges: Vec<Range> = ranges.iter().map(|(l, n)| range(*l, l + n)).collect();
            let holes = holes(window, ranges.clone());
            for value in from..from + len {
                let covered = ranges.iter().any(|r| r.holds(Instant(value)));
                let in_hole = holes.iter().filter(|h| h.holds(Instant(value))).count();
                prop_assert_eq!(in_hole, usize::from(!covered));
            }
            for hole in holes {
                prop_assert!(window.covers(&hole));
            }
        }
    }
}
