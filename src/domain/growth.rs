//! How large partitions are and become, and which granularity keeps them small enough.

use super::calendar::Granularity;
use super::instant::Instant;
use super::partition::{Bound, Range};
use super::policy::Policy;

/// A partition and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Its range.
    pub range: Range,
    /// Its size with indexes and TOAST, in bytes.
    pub bytes: i64,
}

/// Before this part of a range has gone by, one in so many, its size at the end is anybody's guess.
const LEAST_PART: i64 = 10;

impl Measured {
    /// How long its range is and how much of that lies before `now`, in microseconds; `None` where an end is missing.
    fn times(&self, now: Instant) -> Option<(i64, i64)> {
        let (Bound::At(lower), Bound::At(upper)) = (self.range.lower, self.range.upper) else {
            return None;
        };
        if !lower.is_finite() || !upper.is_finite() {
            return None;
        }
        let length = upper.0.checked_sub(lower.0).filter(|length| *length > 0)?;
        Some((length, now.0.saturating_sub(lower.0).clamp(0, length)))
    }

    /// The part of its range that lies before `now`, from 0 to 1; `None` where an end is missing.
    #[must_use]
    pub fn elapsed(&self, now: Instant) -> Option<f64> {
        self.times(now).map(|(length, elapsed)| elapsed as f64 / length as f64)
    }

    /// Its size at the end of its range if it goes on growing as it has, in bytes. `None` where it doesn't hold the
    /// present, before a tenth of its range has gone by, and where an end is missing.
    #[must_use]
    pub fn projected(&self, now: Instant) -> Option<i64> {
        let (length, elapsed) = self.times(now).filter(|_| self.range.holds(now))?;
        (elapsed >= length / LEAST_PART).then(|| scaled(self.bytes, length, elapsed))
    }

    /// The bytes and the time in which they came, in microseconds.
    fn rate(&self, now: Instant) -> Option<(i64, i64)> {
        let (length, elapsed) = self.times(now)?;
        Some((self.bytes, if self.projected(now).is_some() { elapsed } else { length }))
    }
}

/// `bytes` times `length` divided by `part`.
fn scaled(bytes: i64, length: i64, part: i64) -> i64 {
    let scaled = i128::from(bytes) * i128::from(length) / i128::from(part.max(1));
    i64::try_from(scaled).unwrap_or(i64::MAX)
}

/// The longest that a period lasts, in microseconds: with the hour by which the end of summer time makes it longer.
fn longest_us(granularity: Granularity) -> i64 {
    (i64::from(granularity.most_days()) * 24 + 1) * 3_600_000_000
}

/// A partition that is, or becomes, as large as the policy warns of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Large<'a> {
    /// The partition.
    pub partition: &'a Measured,
    /// Its size at the end of its range, in bytes, where that is still to come.
    pub projected: Option<i64>,
    /// Whether that, or its size, is more than a partition should ever have.
    pub is_beyond_limit: bool,
}

/// What may be done about large partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// A shorter granularity: its partitions would have up to so many bytes.
    Shorten(Granularity, i64),
    /// Partitions of the policy's granularity are small enough: up to so many bytes. What is large was made before.
    InEffect(i64),
    /// Nothing is shorter than a day.
    NothingShorter,
    /// What is large has no beginning or no end, so that no granularity changes it.
    Unbounded,
}

/// What is large, and what may be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment<'a> {
    /// The large partitions, in the order in which they were given.
    pub large: Vec<Large<'a>>,
    /// What may be done about them; `None` where there are none.
    pub advice: Option<Advice>,
}

impl Assessment<'_> {
    /// The granularity that the policy should have.
    #[must_use]
    pub const fn recommended(&self, policy: &Policy) -> Granularity {
        match self.advice {
            Some(Advice::Shorten(granularity, _)) => granularity,
            _ => policy.granularity,
        }
    }
}

/// Looks which partitions are large, or become so, and for the longest granularity with which they would not have
/// become it. A longer granularity than the policy's is never advised.
#[must_use]
pub fn assess<'a>(policy: &Policy, now: Instant, partitions: &'a [Measured]) -> Assessment<'a> {
    let large: Vec<Large> = partitions
        .iter()
        .filter_map(|partition| {
            let projected = partition.projected(now);
            let most = projected.unwrap_or(0).max(partition.bytes);
            let is_beyond_limit = most > policy.size_limit_bytes;
            (most >= policy.size_warning_bytes).then_some(Large {
                partition,
                projected,
                is_beyond_limit,
            })
        })
        .collect();
    let advice = (!large.is_empty()).then(|| advice(policy, now, &large));
    Assessment { large, advice }
}

fn advice(policy: &Policy, now: Instant, large: &[Large]) -> Advice {
    let rates: Vec<_> = large.iter().filter_map(|large| large.partition.rate(now)).collect();
    let most = |granularity| {
        let of = |(bytes, time): &(i64, i64)| scaled(*bytes, longest_us(granularity), *time);
        rates.iter().map(of).max()
    };
    let shorter = Granularity::ALL.into_iter().skip_while(|g| *g != policy.granularity);
    let mut last = Advice::Unbounded;
    for granularity in shorter {
        let Some(bytes) = most(granularity) else { return Advice::Unbounded };
        let is_small = bytes < policy.size_warning_bytes;
        last = match granularity == policy.granularity {
            true if is_small => Advice::InEffect(bytes),
            true => Advice::NothingShorter,
            false => Advice::Shorten(granularity, bytes),
        };
        if is_small {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::calendar::Period;
    use crate::domain::plan;
    use chrono::NaiveDate;
    use proptest::prelude::*;

    const GIB: i64 = 1 << 30;

    fn at(y: i32, m: u32, d: u32) -> Instant {
        Instant::from_utc(NaiveDate::from_ymd_opt(y, m, d).unwrap().into())
    }

    fn of(granularity: Granularity, (y, m, d): (i32, u32, u32), bytes: i64) -> Measured {
        let date = NaiveDate::from_ymd_opt(y, m, d).unwrap();
        let period = Period::containing(granularity, date).unwrap();
        let range = plan::range_of(period, &|date: NaiveDate| Instant::from_utc(date.into()));
        Measured { name: format!("p{y}{m}{d}"), range, bytes }
    }

    /// That month of 2025, on 11 April: a third of the month has gone by.
    fn month(m: u32, bytes: i64) -> Measured {
        of(Granularity::Month, (2025, m, 1), bytes)
    }

    fn now() -> Instant {
        at(2025, 4, 11)
    }

    fn by(granularity: Granularity) -> Policy {
        Policy { granularity, ..Policy::default() }
    }

    fn advice_of(policy: &Policy, partitions: &[Measured]) -> Option<Advice> {
        assess(policy, now(), partitions).advice
    }

    #[test]
    fn a_size_is_projected_from_a_tenth_of_the_range_on() {
        let april = month(4, 30 * GIB);
        assert_eq!(april.elapsed(now()), Some(1.0 / 3.0));
        assert_eq!(april.projected(now()), Some(90 * GIB));
        assert_eq!(april.projected(at(2025, 4, 4)), Some(300 * GIB));
        let early = Instant(at(2025, 4, 4).0 - 1);
        assert_eq!(april.projected(early), None, "less than a tenth");
        assert_eq!(april.elapsed(at(2025, 4, 1)), Some(0.0));
        // Neither what is over nor what is to come.
        for m in [3, 5] {
            assert_eq!(month(m, GIB).projected(now()), None);
        }
        assert_eq!(month(4, 0).projected(now()), Some(0));
        assert_eq!(month(4, i64::MAX).projected(now()), Some(i64::MAX));
    }

    #[test]
    fn what_has_no_end_has_no_projection() {
        let april = month(4, 300 * GIB);
        for (lower, upper) in [
            (Bound::MinValue, april.range.upper),
            (april.range.lower, Bound::MaxValue),
            (Bound::At(Instant::NEG_INFINITY), april.range.upper),
            (april.range.lower, Bound::At(Instant::INFINITY)),
        ] {
            let open = Measured { range: Range { lower, upper }, ..april.clone() };
            assert_eq!((open.elapsed(now()), open.projected(now())), (None, None));
            assert_eq!(advice_of(&by(Granularity::Month), &[open]), Some(Advice::Unbounded));
        }
    }

    #[test]
    fn what_is_below_the_warning_is_good() {
        let partitions = [month(3, 100 * GIB - 1), month(4, 33 * GIB), month(5, 0)];
        let policy = by(Granularity::Month);
        let good = assess(&policy, now(), &partitions);
        assert_eq!((good.large.len(), good.advice), (0, None));
        assert_eq!(good.recommended(&policy), Granularity::Month);
    }

    #[test]
    fn each_large_partition_is_named_and_the_limit_told_apart() {
        let partitions = [
            month(1, 99 * GIB),
            month(2, 100 * GIB),
            month(3, 200 * GIB + 1),
            month(4, 40 * GIB),
            month(5, 0),
        ];
        let policy = by(Granularity::Month);
        let found = assess(&policy, now(), &partitions);
        let large: Vec<_> = found
            .large
            .iter()
            .map(|l| (l.partition.name.as_str(), l.projected, l.is_beyond_limit))
            .collect();
        let projected = Some(120 * GIB);
        assert_eq!(
            large,
            [("p202521", None, false), ("p202531", None, true), ("p202541", projected, false)]
        );
        // Its own limit is not beyond it, and a projection counts as a size does.
        assert!(!assess(&policy, now(), &[month(3, 200 * GIB)]).large[0].is_beyond_limit);
        assert!(assess(&policy, now(), &[month(4, 67 * GIB)]).large[0].is_beyond_limit);
    }

    #[test]
    fn weeks_are_advised_and_days_where_weeks_are_not_enough() {
        let policy = by(Granularity::Month);
        let advice = advice_of(&policy, &[month(3, 310 * GIB)]);
        // 10 GiB a day, and an hour of the week in which summer time ends.
        let Some(Advice::Shorten(Granularity::Week, bytes)) = advice else { panic!("{advice:?}") };
        assert_eq!(bytes / GIB, 70);
        assert_eq!(
            assess(&policy, now(), &[month(3, 310 * GIB)]).recommended(&policy),
            Granularity::Week
        );
        let large = advice_of(&policy, &[month(2, 110 * GIB), month(3, 620 * GIB)]);
        assert!(matches!(large, Some(Advice::Shorten(Granularity::Day, b)) if b / GIB == 20));
        // Days are the best there is, even where they are not enough.
        let huge = advice_of(&policy, &[month(3, 31_000 * GIB)]);
        assert!(matches!(huge, Some(Advice::Shorten(Granularity::Day, b)) if b > 100 * GIB));
        // The rate of what goes on is that of the time gone by.
        let current = advice_of(&policy, &[month(4, 160 * GIB)]);
        assert!(matches!(current, Some(Advice::Shorten(Granularity::Day, _))), "{current:?}");
    }

    #[test]
    fn by_week_already_only_days_are_shorter() {
        let policy = by(Granularity::Week);
        let week = of(Granularity::Week, (2025, 3, 12), 120 * GIB);
        let advice = advice_of(&policy, &[week]);
        assert!(matches!(advice, Some(Advice::Shorten(Granularity::Day, b)) if b / GIB == 17));
        // A month from before is named, and no reason for days.
        let advice = advice_of(&policy, &[month(3, 310 * GIB)]);
        assert!(matches!(advice, Some(Advice::InEffect(b)) if b / GIB == 70), "{advice:?}");
        let policy = by(Granularity::Day);
        let day = of(Granularity::Day, (2025, 3, 12), 120 * GIB);
        assert_eq!(advice_of(&policy, &[day]), Some(Advice::NothingShorter));
        assert!(matches!(advice_of(&policy, &[month(3, 310 * GIB)]), Some(Advice::InEffect(_))));
    }

    proptest! {
        /// A period that is large by itself is never answered with its own granularity.
        #[test]
        fn a_large_period_needs_a_shorter_granularity(
            days in 1_i32..3_000_000, n in 0_usize..2, excess in 0_i64..100_000_000, hour in 0_i64..2,
        ) {
            let granularity = Granularity::ALL[n];
            let policy = by(granularity);
            let date = NaiveDate::from_num_days_from_ce_opt(days).unwrap();
            let period = Period::containing(granularity, date).unwrap();
            // Summer time begins or ends in it.
            let end = Instant(Instant::from_utc(period.end().into()).0 + hour * 3_600_000_000);
            let range = Range::between(Instant::from_utc(period.start().into()), end);
            let bytes = policy.size_warning_bytes + excess;
            let measured = [Measured { name: "p".into(), range, bytes }];
            let shorter = assess(&policy, Instant::INFINITY, &measured).recommended(&policy);
            prop_assert!(shorter > granularity, "{shorter:?}");
        }
    }
}
