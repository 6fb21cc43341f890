//! Tests of changes of granularity: month, week and day after each other, while time goes on and zones differ.

use super::*;
use crate::domain::maintenance;
use crate::domain::partition::RowSecurity;
use proptest::prelude::*;

const HOUR_US: i64 = 3_600_000_000;

fn date(y: i32, m: u32, d: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(y, m, d).unwrap()
}

fn utc(date: NaiveDate) -> Instant {
    Instant::from_utc(date.into())
}

/// A time zone as simple as serves: hours behind UTC, one more in summer, and perhaps a day that it leaves out.
#[derive(Clone, Copy, Debug)]
struct Zone {
    hours: i64,
    has_summer: bool,
    left_out: Option<NaiveDate>,
}

impl Midnights for Zone {
    fn midnight(&self, date: NaiveDate) -> Instant {
        use chrono::Datelike;
        let summer = self.has_summer && (91..=300).contains(&date.ordinal());
        // From the day left out on, the clock is a day ahead.
        let ahead = self.left_out.is_some_and(|day| date > day);
        let hours = self.hours - i64::from(summer) - if ahead { 24 } else { 0 };
        Instant(utc(date).0 + hours * HOUR_US)
    }
}

impl Zone {
    /// The day that holds `now`.
    fn today(&self, now: Instant) -> NaiveDate {
        let around = now.to_utc().unwrap().date() - Days::new(2);
        around.iter_days().take(6).find(|day| self.midnight(day.succ_opt().unwrap()) > now).unwrap()
    }
}

/// A log that is maintained.
#[derive(Clone, Debug)]
struct Log {
    facts: Facts,
    policy: Policy,
    zone: Zone,
    now: Instant,
}

impl Log {
    fn new(granularity: Granularity, zone: Zone, now: Instant) -> Self {
        let policy = Policy { granularity, ..Policy::default() };
        let (parent, today) = ("workflow_events".into(), zone.today(now));
        let facts = Facts {
            parent,
            today,
            partitions: vec![],
            names: BTreeSet::new(),
            holds: vec![],
            detaches_concurrently: true,
        };
        Self { facts, policy, zone, now }
    }

    fn apply(&mut self, creations: &[Creation]) {
        for creation in creations {
            let oid = u32::try_from(self.facts.names.len()).unwrap();
            assert!(self.facts.names.insert(creation.name.clone()), "{}", creation.name);
            self.facts.partitions.push(Partition {
                oid,
                schema: "public".into(),
                name: creation.name.clone(),
                extent: Extent::Range(creation.range),
                kind: Kind::Table,
                detach_pending: false,
                row_security: RowSecurity::default(),
                file: oid,
            });
        }
    }

    fn set_up(&mut self) -> Vec<Creation> {
        let window = window(&self.facts, &self.policy, 2).unwrap();
        let (creations, obstacles) = missing(&self.facts, window, &self.zone);
        assert_eq!(obstacles, []);
        self.apply(&creations);
        creations
    }

    fn maintain(&mut self) -> Vec<Creation> {
        let plan = maintenance::creation(&self.facts, &self.policy, &self.zone).unwrap();
        assert_eq!(plan.not_created, []);
        self.apply(&plan.creations);
        plan.creations
    }

    fn go_to(&mut self, now: Instant) {
        (self.now, self.facts.today) = (now, self.zone.today(now));
    }

    fn ranges(&self) -> Vec<Range> {
        let mut ranges: Vec<_> =
            self.facts.partitions.iter().filter_map(Partition::range).collect();
        ranges.sort_unstable();
        ranges
    }

    fn names_of(creations: &[Creation]) -> Vec<&str> {
        let names = creations.iter().map(|c| c.name.strip_prefix("workflow_events_").unwrap());
        names.collect()
    }
}

const UTC: Zone = Zone { hours: 0, has_summer: false, left_out: None };

#[test]
fn setup_makes_two_past_periods_the_current_one_and_premake() {
    // A Thursday.
    let now = utc(date(2026, 12, 31));
    let weeks = ["y2026w51", "y2026w52", "y2026w53", "y2027w01", "y2027w02", "y2027w03"];
    let days =
        ["y2026m12d29", "y2026m12d30", "y2026m12d31", "y2027m01d01", "y2027m01d02", "y2027m01d03"];
    for (granularity, names) in [(Granularity::Week, weeks), (Granularity::Day, days)] {
        let mut log = Log::new(granularity, UTC, now);
        assert_eq!(Log::names_of(&log.set_up()), names);
        assert_eq!(Log::names_of(&log.maintain()), [""; 0]);
        let coverage = maintenance::coverage(&log.facts, &log.policy, now, &UTC).unwrap();
        assert_eq!(coverage.runway, Some(3));
    }
}

#[test]
fn a_change_takes_effect_after_the_last_partition() {
    let mut log = Log::new(Granularity::Month, UTC, utc(date(2025, 1, 15)));
    log.set_up();
    // The months that exist reach to the end of April, further than three weeks do.
    log.policy.granularity = Granularity::Week;
    assert_eq!(Log::names_of(&log.maintain()), [""; 0]);
    let coverage = maintenance::coverage(&log.facts, &log.policy, log.now, &UTC).unwrap();
    assert_eq!(coverage.wanted_until, Bound::At(utc(date(2025, 2, 10))));
    assert_eq!(coverage.covered_until, Some(Bound::At(utc(date(2025, 5, 1)))));
    // The weeks from that of 20 January to that of 21 April; the next ends after the months do.
    assert_eq!(coverage.runway, Some(14));
    // A week within a month is that month's; one that reaches out of it can't be made as a whole.
    let week = |d| Period::containing(Granularity::Week, d).unwrap();
    let april = Answer::Exists("workflow_events_y2025m04".into());
    assert_eq!(for_period(&log.facts, week(date(2025, 4, 23)), &UTC), Ok(april));
    let seam = for_period(&log.facts, week(date(2025, 4, 30)), &UTC);
    assert!(matches!(seam, Err(Obstacle::Overlaps { .. })), "{seam:?}");

    // The last month ends on a Wednesday: a part of that week, and whole weeks from then on.
    log.go_to(utc(date(2025, 4, 20)));
    let made = log.maintain();
    assert_eq!(Log::names_of(&made), ["y2025w18_p1", "y2025w19"]);
    assert_eq!(made[0].range, Range::between(utc(date(2025, 5, 1)), utc(date(2025, 5, 5))));

    // Days begin where the last week ends, with no part.
    log.policy.granularity = Granularity::Day;
    log.go_to(utc(date(2025, 5, 10)));
    assert_eq!(Log::names_of(&log.maintain()), ["y2025m05d12", "y2025m05d13"]);

    // Months fill the rest of the month, and its beginning is held already.
    log.policy.granularity = Granularity::Month;
    let made = log.maintain();
    assert_eq!(Log::names_of(&made), ["y2025m05_p1", "y2025m06", "y2025m07", "y2025m08"]);
    assert_eq!(made[0].range, Range::between(utc(date(2025, 5, 14)), utc(date(2025, 6, 1))));
}

#[test]
fn retention_goes_by_months_whatever_the_granularity() {
    let of = |granularity| {
        let log = Log::new(granularity, UTC, utc(date(2026, 3, 31)));
        (cutoff(&log.facts, 1, &UTC).unwrap(), cutoff(&log.facts, 14, &UTC).unwrap())
    };
    let expected = (Some(Bound::At(utc(date(2026, 2, 1)))), Some(Bound::At(utc(date(2025, 1, 1)))));
    for granularity in Granularity::ALL {
        assert_eq!(of(granularity), expected, "{granularity:?}");
    }
    // The week that reaches into the first month to keep is kept.
    let mut log = Log::new(Granularity::Week, UTC, utc(date(2026, 1, 26)));
    log.policy.premake = 10;
    log.set_up();
    log.go_to(utc(date(2026, 3, 31)));
    let (retirements, _) = outdated(&log.facts, 1, &UTC).unwrap();
    // That of 26 January ends on 2 February.
    let names: Vec<_> = retirements.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["workflow_events_y2026w03", "workflow_events_y2026w04"]);
}

#[test]
fn premake_is_counted_in_periods() {
    let today = date(2025, 1, 15);
    let counts = |days| Granularity::ALL.map(|g| premake_for(g, today, days).unwrap());
    assert_eq!(counts(0), [0, 0, 0]);
    // The 15th is a Wednesday, and January has 31 days.
    assert_eq!(counts(4), [0, 0, 4]);
    assert_eq!(counts(5), [0, 1, 5]);
    assert_eq!(counts(31), [1, 4, 31]);
    assert_eq!(premake_for(Granularity::Week, date(9999, 12, 14), 31), None);
}

#[test]
fn a_day_that_the_zone_leaves_out_has_no_partition() {
    let left_out = date(2011, 12, 30);
    let zone = Zone { hours: 10, has_summer: false, left_out: Some(left_out) };
    let mut log = Log::new(Granularity::Day, zone, zone.midnight(date(2011, 12, 29)));
    let made = log.set_up();
    let expected = ["y2011m12d27", "y2011m12d28", "y2011m12d29", "y2011m12d31", "y2012m01d01"];
    assert_eq!(Log::names_of(&made), expected);
    let day = Period::containing(Granularity::Day, left_out).unwrap();
    let obstacle = Obstacle::Calendar(CalendarError::LeftOut);
    assert_eq!(for_period(&log.facts, day, &zone), Err(obstacle.clone()));
    log.facts.partitions.clear();
    assert_eq!(for_period(&log.facts, day, &zone), Err(obstacle));
}

#[test]
fn the_last_week_that_can_be_named_is_the_last_that_is_made() {
    let mut log = Log::new(Granularity::Week, UTC, utc(date(9999, 12, 14)));
    assert_eq!(Log::names_of(&log.maintain()), ["y9999w50", "y9999w51"]);
    log.go_to(utc(date(9999, 12, 28)));
    let plan = maintenance::creation(&log.facts, &log.policy, &UTC);
    assert_eq!(plan, Err(CalendarError::OutOfRange));
}

#[test]
fn the_runway_of_a_wide_partition_is_counted_in_few_steps() {
    let end = utc(date(9999, 6, 1));
    let mut log = Log::new(Granularity::Day, UTC, utc(date(2025, 1, 15)));
    log.set_up();
    log.facts.partitions.truncate(1);
    log.facts.partitions[0].extent = Extent::Range(Range::between(utc(date(2000, 1, 1)), end));
    let calls = std::cell::Cell::new(0);
    let counting = |date| {
        calls.set(calls.get() + 1);
        UTC.midnight(date)
    };
    let coverage = maintenance::coverage(&log.facts, &log.policy, log.now, &counting).unwrap();
    let days = (date(9999, 5, 31) - date(2025, 1, 15)).num_days();
    assert_eq!(coverage.runway.map(i64::from), Some(days));
    assert!(calls.get() < 100, "{}", calls.get());
}

fn zones() -> impl Strategy<Value = Zone> {
    let left_out = prop::option::of((0_u64..900).prop_map(|n| date(2024, 1, 1) + Days::new(n)));
    // Less than a day apart: otherwise a day would be where another one of that name was before.
    (-11_i64..=11, any::<bool>(), left_out).prop_map(|(hours, has_summer, left_out)| Zone {
        hours,
        has_summer,
        left_out,
    })
}

/// What happens before a maintenance.
#[derive(Clone, Debug)]
enum Event {
    Granularity(Granularity),
    Premake(u32),
    Zone(Zone),
    Hours(i64),
    Retire(u32),
}

fn events() -> impl Strategy<Value = Event> {
    let granularity = || prop::sample::select(&Granularity::ALL[..]);
    prop_oneof![
        4 => granularity().prop_map(Event::Granularity),
        1 => (1_u32..40).prop_map(Event::Premake),
        1 => zones().prop_map(Event::Zone),
        4 => (1_i64..1_500).prop_map(Event::Hours),
        1 => (1_u32..4).prop_map(Event::Retire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_hole_and_no_overlap_whatever_changes(
        first in prop::sample::select(&Granularity::ALL[..]),
        zone in zones(),
        start in 0_i64..20_000,
        events in prop::collection::vec(events(), 1..20),
    ) {
        let mut log = Log::new(first, zone, Instant(utc(date(2024, 1, 1)).0 + start * HOUR_US));
        log.set_up();
        for event in events {
            match event {
                Event::Granularity(granularity) => log.policy.granularity = granularity,
                Event::Premake(premake) => log.policy.premake = premake,
                Event::Zone(zone) => {
                    log.zone = Zone { left_out: log.zone.left_out, ..zone };
                    log.go_to(log.now);
                }
                Event::Hours(hours) => log.go_to(Instant(log.now.0 + hours * HOUR_US)),
                Event::Retire(months) => {
                    let (gone, _) = outdated(&log.facts, months, &log.zone).unwrap();
                    log.facts.partitions.retain(|p| gone.iter().all(|gone| gone.oid != p.oid));
                }
            }
            let before = log.ranges().last().map(|range| range.upper);
            let made = log.maintain();
            for creation in &made {
                let whole = range_of(creation.period, &log.zone);
                let name = creation.name.as_str();
                let parsed = name::parse("workflow_events", name);
                prop_assert_eq!(parsed.is_some(), whole == creation.range, "{}", name);
                prop_assert!(parsed.is_none_or(|period| period == creation.period), "{}", name);
                prop_assert_eq!(creation.period.granularity(), log.policy.granularity);
                // After the last one that there was; but the current period is filled from its beginning.
                let is_after = before.is_none_or(|before| creation.range.lower >= before);
                prop_assert!(is_after || creation.range.upper <= Bound::At(log.now), "{}", name);
            }
            let ranges = log.ranges();
            for pair in ranges.windows(2) {
                prop_assert!(!pair[0].overlaps(&pair[1]), "{} and {}", pair[0], pair[1]);
            }
            let coverage =
                maintenance::coverage(&log.facts, &log.policy, log.now, &log.zone).unwrap();
            prop_assert_eq!(coverage.holes, vec![]);
            prop_assert!(coverage.covered_until >= Some(coverage.wanted_until));
            // The periods that are held after the current one, counted one by one.
            let current = Period::containing(log.policy.granularity, log.facts.today).unwrap();
            let held = |count: &u32| {
                let period = current.plus(i64::from(*count)).unwrap();
                let range = Range { lower: Bound::At(log.now), ..range_of(period, &log.zone) };
                holes(range, ranges.iter().copied()).is_empty()
            };
            let runway = u32::try_from((1..).take_while(held).count()).unwrap();
            prop_assert_eq!(coverage.runway, Some(runway));
            prop_assert!(runway >= log.policy.premake);
            // Nothing is left to do.
            prop_assert_eq!(log.maintain(), vec![]);
        }
    }
}
