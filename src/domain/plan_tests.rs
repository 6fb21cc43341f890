//! Tests of the plan: examples from the field, and properties over random catalogs.

use super::*;
use crate::domain::calendar::Granularity;
use crate::domain::partition::RowSecurity;
use proptest::prelude::*;

fn date(y: i32, m: u32, d: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(y, m, d).unwrap()
}

fn month(y: i32, m: u32) -> Period {
    Period::containing(Granularity::Month, date(y, m, 1)).unwrap()
}

fn utc(date: NaiveDate) -> Instant {
    Instant::from_utc(date.into())
}

/// New York's winter offset, at all times: enough to drift from UTC.
fn new_york(date: NaiveDate) -> Instant {
    Instant(utc(date).0 + 5 * 3_600_000_000)
}

fn partition(oid: u32, name: &str, range: Range) -> Partition {
    Partition {
        oid,
        schema: "public".into(),
        name: name.into(),
        extent: Extent::Range(range),
        kind: Kind::Table,
        detach_pending: false,
        row_security: RowSecurity::default(),
        file: oid,
    }
}

fn facts(today: NaiveDate, partitions: Vec<Partition>) -> Facts {
    let names = partitions.iter().map(|p| p.name.clone()).collect();
    Facts {
        parent: "workflow_events".into(),
        today,
        partitions,
        names,
        holds: Vec::new(),
        detaches_concurrently: true,
    }
}

/// The facts after the creations were carried out.
fn with(mut facts: Facts, creations: &[Creation]) -> Facts {
    for creation in creations {
        let oid = 100_000 + u32::try_from(facts.partitions.len()).unwrap();
        facts.partitions.push(partition(oid, &creation.name, creation.range));
        facts.names.insert(creation.name.clone());
    }
    facts
}

fn names(creations: &[Creation]) -> Vec<&str> {
    creations.iter().map(|c| c.name.as_str()).collect()
}

#[test]
fn an_empty_table_gets_the_documented_six() {
    let facts = facts(date(2026, 11, 24), vec![]);
    let window = window(&facts, &Policy::default(), 2).unwrap();
    let (creations, obstacles) = missing(&facts, window, &utc);
    assert_eq!(
        names(&creations),
        [
            "workflow_events_y2026m09",
            "workflow_events_y2026m10",
            "workflow_events_y2026m11",
            "workflow_events_y2026m12",
            "workflow_events_y2027m01",
            "workflow_events_y2027m02"
        ]
    );
    assert_eq!(obstacles, []);
}

#[test]
fn a_gap_in_the_middle_is_filled() {
    let base = facts(date(2026, 11, 24), vec![]);
    let window = window(&base, &Policy::default(), 0).unwrap();
    let (all, _) = missing(&base, window, &utc);
    let mut gapped = with(base, &all);
    gapped.partitions.retain(|p| p.name != "workflow_events_y2027m01");
    gapped.names.remove("workflow_events_y2027m01");
    assert_eq!(names(&missing(&gapped, window, &utc).0), ["workflow_events_y2027m01"]);
}

#[test]
fn a_set_made_in_another_time_zone_is_continued_without_overlap() {
    let base = facts(date(2026, 11, 24), vec![]);
    let old = (month(2026, 9), month(2026, 12));
    let (made, _) = missing(&base, old, &new_york);
    let drifted = with(base, &made);
    let window = window(&drifted, &Policy::default(), 0).unwrap();
    let (creations, obstacles) = missing(&drifted, window, &utc);
    assert_eq!(obstacles, []);
    assert_eq!(names(&creations), ["workflow_events_y2027m01_p1", "workflow_events_y2027m02"]);
    assert_eq!(creations[0].range.lower, Bound::At(new_york(date(2027, 1, 1))));
    assert_eq!(creations[0].range.upper, Bound::At(utc(date(2027, 2, 1))));
}

#[test]
fn one_period_is_answered_by_bound_not_by_name() {
    let quarter = Range::between(utc(date(2026, 1, 1)), utc(date(2026, 4, 1)));
    let facts = facts(date(2026, 11, 24), vec![partition(1, "q1", quarter)]);
    assert_eq!(for_period(&facts, month(2026, 2), &utc), Ok(Answer::Exists("q1".into())));
    assert_eq!(
        for_period(&facts, month(2026, 3), &new_york),
        Err(Obstacle::Overlaps { partition: "q1".into(), range: quarter })
    );
    assert!(matches!(for_period(&facts, month(2026, 4), &utc), Ok(Answer::Create(_))));
}

#[test]
fn a_taken_name_is_an_obstacle_for_its_month_alone() {
    let mut facts = facts(date(2026, 11, 24), vec![]);
    facts.names.insert("workflow_events_y2026m12".into());
    let taken = Obstacle::NameTaken { name: "workflow_events_y2026m12".into() };
    assert_eq!(for_period(&facts, month(2026, 12), &utc), Err(taken.clone()));
    let window = window(&facts, &Policy::default(), 0).unwrap();
    let (creations, obstacles) = missing(&facts, window, &utc);
    assert_eq!(creations.len(), 3);
    assert_eq!(obstacles, [taken]);
}

#[test]
fn a_default_partition_covers_nothing_and_stops_nothing() {
    let mut default = partition(1, "rest", Range::between(Instant(0), Instant(1)));
    default.extent = Extent::Default;
    let facts = facts(date(2026, 11, 24), vec![default]);
    let window = window(&facts, &Policy::default(), 0).unwrap();
    assert_eq!(missing(&facts, window, &utc).0.len(), 4);
    assert_eq!(outdated(&facts, 1, &utc).unwrap(), (vec![], vec![]));
}

#[test]
fn retirement_goes_by_the_upper_bound() {
    const NONE: [u32; 0] = [];
    let at = |d| Bound::At(utc(d));
    let wide = Range { lower: at(date(2025, 8, 1)), upper: at(date(2026, 1, 1)) };
    let old = Range { lower: Bound::MinValue, upper: at(date(2025, 11, 1)) };
    let unbounded = Range { lower: at(date(2019, 1, 1)), upper: Bound::MaxValue };
    let facts = facts(
        date(2026, 11, 30),
        vec![partition(1, "wide", wide), partition(2, "old", old), partition(3, "open", unbounded)],
    );
    let retire = |months| {
        let (retirements, _) = outdated(&facts, months, &utc).unwrap();
        retirements.iter().map(|r| r.oid).collect::<Vec<_>>()
    };
    assert_eq!(retire(12), [2], "the month 12 before November 2026 is November 2025");
    assert_eq!(retire(13), NONE);
    assert_eq!(retire(10), [2, 1]);
    assert_eq!(retire(0), NONE);
    assert_eq!(retire(u32::MAX), NONE);
}

#[test]
fn what_must_not_be_dropped_is_named() {
    let range = Range::between(utc(date(2020, 1, 1)), utc(date(2020, 2, 1)));
    let mut foreign = partition(1, "f", range);
    foreign.kind = Kind::Foreign;
    let mut pending = partition(2, "p", range);
    pending.detach_pending = true;
    let mut unclear = partition(3, "u", range);
    unclear.extent = Extent::Unreadable("two keys".into());
    let facts = facts(date(2026, 11, 24), vec![foreign, pending, unclear]);
    let (retirements, obstacles) = outdated(&facts, 1, &utc).unwrap();
    assert_eq!(retirements, []);
    assert_eq!(obstacles.len(), 3, "{obstacles:?}");
}

#[test]
fn a_pending_detach_is_taken_but_not_covered() {
    let range = range_of(month(2026, 12), &utc);
    let mut pending = partition(1, "p", range);
    pending.detach_pending = true;
    let facts = facts(date(2026, 11, 24), vec![pending]);
    let window = (month(2026, 12), month(2026, 12));
    let obstacle = Obstacle::DetachPending { partition: "p".into() };
    assert_eq!(missing(&facts, window, &utc), (vec![], vec![obstacle.clone()]));
    assert_eq!(for_period(&facts, month(2026, 12), &utc), Err(obstacle));
    assert_eq!(uncovered(&facts, utc(date(2026, 12, 5)), month(2026, 12), &utc).len(), 1);
}

#[test]
fn the_end_of_the_calendar_is_no_obstacle() {
    let facts = facts(date(9999, 11, 1), vec![]);
    let window = window(&facts, &Policy::default(), 2).unwrap();
    assert_eq!(window, (month(9999, 9), month(9999, 12)));
}

/// Partitions that do not overlap, with holes, of any width, some open at an end, some special.
fn catalogs() -> impl Strategy<Value = Vec<Partition>> {
    let day = 86_400_000_000_i64;
    prop::collection::vec((0_i64..40, 1_i64..70, 0_u8..12), 0..25).prop_map(move |pieces| {
        let mut at = utc(date(2025, 6, 1)).0;
        let last = pieces.len();
        let mut partitions = Vec::new();
        for (i, (gap, width, special)) in pieces.into_iter().enumerate() {
            let lower = at + gap * day + i64::from(special) * 3_600_000_000;
            at = lower + width * day;
            let mut range = Range::between(Instant(lower), Instant(at));
            if i == 0 && special == 0 {
                range.lower = Bound::MinValue;
            }
            if i + 1 == last && special == 1 {
                range.upper = Bound::MaxValue;
            }
            let mut p = partition(u32::try_from(i).unwrap(), &format!("p{i}"), range);
            p.detach_pending = special == 2;
            if special == 3 {
                p.kind = Kind::Foreign;
            }
            partitions.push(p);
        }
        partitions
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn planning_on_its_own_result_gives_nothing(
        partitions in catalogs(), drift in 0_i64..24, past in 0_u32..4,
    ) {
        let zone = |d: NaiveDate| Instant(utc(d).0 + drift * 3_600_000_000);
        let base = facts(date(2026, 11, 24), partitions);
        let window = window(&base, &Policy::default(), past).unwrap();
        let (creations, _) = missing(&base, window, &zone);
        let after = with(base.clone(), &creations);

        // Nothing overlaps: PostgreSQL would refuse it.
        let mut ranges: Vec<Range> = after.partitions.iter().filter_map(Partition::range).collect();
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            prop_assert!(!pair[0].overlaps(&pair[1]), "{} and {}", pair[0], pair[1]);
        }
        // Nothing is uncovered, but for detaches that are pending.
        prop_assert_eq!(missing(&after, window, &zone).0, vec![]);
        let whole = Range::between(zone(window.0.start()), zone(window.1.end()));
        let mut left = holes(whole, after.partitions.iter().filter(|p| !p.detach_pending).filter_map(Partition::range));
        left.retain(|hole| {
            !after.partitions.iter().any(|p| p.detach_pending && p.range().is_some_and(|r| r.covers(hole)))
        });
        prop_assert_eq!(left, vec![]);
    }

    #[test]
    fn retirement_never_touches_what_is_not_wholly_old(
        partitions in catalogs(), months in 0_u32..30,
    ) {
        let base = facts(date(2026, 11, 24), partitions);
        let (retirements, _) = outdated(&base, months, &utc).unwrap();
        let current = Bound::At(utc(date(2026, 11, 1)));
        for retirement in &retirements {
            let partition = base.partitions.iter().find(|p| p.oid == retirement.oid).unwrap();
            prop_assert_eq!(partition.range(), Some(retirement.range));
            prop_assert!(retirement.range.upper <= current && months > 0);
            prop_assert!(partition.kind != Kind::Foreign && !partition.detach_pending);
        }
        // Retiring never changes what creation wants.
        let window = window(&base, &Policy::default(), 0).unwrap();
        let mut after = base.clone();
        after.partitions.retain(|p| retirements.iter().all(|r| r.oid != p.oid));
        prop_assert_eq!(missing(&base, window, &utc).0, missing(&after, window, &utc).0);
    }
}
