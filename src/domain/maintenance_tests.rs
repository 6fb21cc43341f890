//! Tests of the whole plan: what is planned beside what, and how far the partitions reach.

use super::*;
use crate::domain::archive::Archive;
use crate::domain::calendar::{Granularity, Period};
use crate::domain::partition::{Kind, Partition, RowSecurity};
use crate::domain::plan::Hold;
use chrono::NaiveDate;

fn date(y: i32, m: u32, d: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(y, m, d).unwrap()
}

fn utc(date: NaiveDate) -> Instant {
    Instant::from_utc(date.into())
}

fn month(y: i32, m: u32) -> Range {
    let period = Period::containing(Granularity::Month, date(y, m, 1)).unwrap();
    plan::range_of(period, &utc)
}

fn partition(oid: u32, extent: Extent) -> Partition {
    let name = format!("p{oid}");
    Partition {
        oid,
        schema: "public".into(),
        name,
        extent,
        kind: Kind::Table,
        detach_pending: false,
        row_security: RowSecurity::default(),
        file: oid,
    }
}

/// The months of 2026 and the first two of 2027, on 24 November 2026.
fn facts() -> Facts {
    let months = (1..=12).map(|m| month(2026, m)).chain([month(2027, 1), month(2027, 2)]);
    let partitions: Vec<_> =
        (1..).zip(months).map(|(oid, range)| partition(oid, Extent::Range(range))).collect();
    let names = partitions.iter().map(|p| p.name.clone()).collect();
    let parent = "workflow_events".into();
    Facts {
        parent,
        today: date(2026, 11, 24),
        partitions,
        names,
        holds: Vec::new(),
        detaches_concurrently: true,
    }
}

fn keeping(months: u32) -> Policy {
    Policy { retention_months: Some(months), grace_us: 0, ..Policy::default() }
}

fn retirement_of(oid: u32) -> Retirement {
    Retirement { oid, name: format!("p{oid}"), range: month(2026, oid) }
}

/// A partition that was retired by the policy, and whose grace has passed.
fn retired_of(oid: u32, state: RetiredState) -> Retired {
    let partition = retirement_of(oid);
    Retired { partition, state, retention_months: None, is_due: true, is_forced: false }
}

fn planned(facts: &Facts, retired: &[Retired], policy: &Policy) -> Vec<Retiring> {
    retirement(facts, retired, policy, &utc).unwrap().retiring
}

#[test]
fn what_is_old_is_detached_oldest_first() {
    let expected = [1, 2].map(|oid| Retiring::Detach(retirement_of(oid)));
    assert_eq!(planned(&facts(), &[], &keeping(8)), expected);
    assert_eq!(planned(&facts(), &[], &Policy::default()), []);
}

#[test]
fn a_switch_turns_its_own_task_off_alone() {
    let mut policy = Policy { automatic_creation: false, ..keeping(8) };
    let mut facts = facts();
    facts.partitions.pop();
    assert_eq!(creation(&facts, &policy, &utc).unwrap(), Plan::default());
    assert_eq!(planned(&facts, &[], &policy).len(), 2);
    policy = Policy { automatic_retention: false, ..keeping(8) };
    assert_eq!(creation(&facts, &policy, &utc).unwrap().creations.len(), 1);
    assert_eq!(retirement(&facts, &[], &policy, &utc).unwrap(), Plan::default());
}

#[test]
fn beside_a_default_partition_nothing_is_detached_concurrently() {
    let mut facts = facts();
    facts.partitions.push(partition(90, Extent::Default));
    let expected = [1, 2].map(|oid| Retiring::DropAttached(retirement_of(oid)));
    assert_eq!(planned(&facts, &[], &keeping(8)), expected);
}

#[test]
fn a_pending_detach_comes_first_whoever_began_it() {
    let mut facts = facts();
    facts.partitions[6].detach_pending = true;
    let first = Retiring::Finalize(retirement_of(7));
    assert_eq!(planned(&facts, &[], &Policy::default()), std::slice::from_ref(&first));
    let plan = retirement(&facts, &[], &keeping(8), &utc).unwrap();
    assert_eq!(plan.retiring.first(), Some(&first));
    assert_eq!(plan.retiring.len(), 3);
    assert_eq!(plan.kept, []);
    // An old one is not named a second time.
    facts.partitions[0].detach_pending = true;
    let plan = retirement(&facts, &[], &keeping(8), &utc).unwrap();
    assert_eq!((plan.retiring.len(), plan.kept.len()), (3, 0));
}

#[test]
fn what_we_have_detached_is_dropped_and_what_is_in_doubt_is_kept() {
    let of = retired_of;
    let retired = [
        of(1, RetiredState::Attached),
        of(2, RetiredState::Detached),
        of(3, RetiredState::InDoubt),
        of(4, RetiredState::Over),
    ];
    let mut facts = facts();
    facts.partitions.drain(..3);
    let plan = retirement(&facts, &retired, &keeping(8), &utc).unwrap();
    assert_eq!(plan.retiring, [Retiring::DropDetached(retirement_of(2))]);
    assert_eq!(plan.kept, [Obstacle::InDoubt { partition: "p3".into() }]);
    // What is over is forgotten though nothing is to be retired.
    let off = Policy { automatic_retention: false, ..keeping(8) };
    assert_eq!(retirement(&facts, &retired, &off, &utc).unwrap().kept, []);
    for policy in [keeping(8), Policy::default(), off] {
        assert!(retirement(&facts, &retired, &policy, &utc).unwrap().has_stale_notes);
    }
    assert!(!retirement(&facts, &retired[..3], &keeping(8), &utc).unwrap().has_stale_notes);
    // The policy may have changed since it was detached.
    for policy in [Policy::default(), keeping(10)] {
        let plan = retirement(&facts, &retired, &policy, &utc).unwrap();
        assert_eq!(plan.retiring, []);
        assert_eq!(plan.kept.first(), Some(&Obstacle::NoLongerOutdated { partition: "p2".into() }));
    }
}

#[test]
fn what_is_parked_is_neither_dropped_nor_complained_of() {
    let parked = Retired { is_due: false, ..retired_of(2, RetiredState::Detached) };
    let plan = retirement(&facts(), std::slice::from_ref(&parked), &keeping(8), &utc).unwrap();
    assert_eq!(plan.parked, [retirement_of(2)]);
    assert_eq!(plan.kept, []);
    assert!(!plan.retiring.contains(&Retiring::DropDetached(retirement_of(2))));
}

#[test]
fn a_retention_that_was_asked_for_holds_whatever_the_policy_says() {
    let asked = Retired { retention_months: Some(8), ..retired_of(2, RetiredState::Detached) };
    for policy in [Policy::default(), keeping(8), keeping(10)] {
        let planned = planned(&facts(), std::slice::from_ref(&asked), &policy);
        assert!(planned.contains(&Retiring::DropDetached(retirement_of(2))), "{policy:?}");
    }
}

#[test]
fn an_archive_comes_before_the_drop() {
    let policy = Policy { archive: Archive::Table, ..keeping(8) };
    for state in [RetiredState::Detached, RetiredState::Closing] {
        let plan = retirement(&facts(), &[retired_of(2, state)], &policy, &utc).unwrap();
        assert!(plan.retiring.contains(&Retiring::Archive(retirement_of(2))));
        assert!(!plan.retiring.contains(&Retiring::DropDetached(retirement_of(2))));
    }
}

#[test]
fn what_is_held_is_kept_wherever_it_is() {
    let mut facts = facts();
    let reason = || "a lawsuit".to_owned();
    // A part of the range is enough.
    let part = Range { lower: month(2026, 1).lower, upper: Bound::At(utc(date(2026, 1, 2))) };
    facts.holds = vec![
        Hold { range: part, reason: reason() },
        Hold { range: month(2026, 2), reason: reason() },
    ];
    let parked = retired_of(2, RetiredState::Detached);
    facts.partitions.remove(1);
    let plan = retirement(&facts, &[parked], &keeping(7), &utc).unwrap();
    assert_eq!(plan.retiring, [Retiring::Detach(retirement_of(3))]);
    let held = |partition: &str| Obstacle::Held { partition: partition.into(), reason: reason() };
    assert_eq!(plan.kept, [held("p2"), held("p1")]);
    assert!(plan.kept.iter().all(Obstacle::is_as_wanted));
}

#[test]
fn beside_a_default_partition_what_is_parked_or_archived_is_detached_under_a_lock() {
    let mut facts = facts();
    facts.partitions.push(partition(90, Extent::Default));
    let expected = [1, 2].map(|oid| Retiring::DetachLocked(retirement_of(oid)));
    for policy in
        [Policy { grace_us: 1, ..keeping(8) }, Policy { archive: Archive::Table, ..keeping(8) }]
    {
        assert_eq!(planned(&facts, &[], &policy), expected);
    }
}

#[test]
fn a_server_with_assertions_detaches_nothing_concurrently() {
    let facts = Facts { detaches_concurrently: false, ..facts() };
    let expected = [1, 2].map(|oid| Retiring::DropAttached(retirement_of(oid)));
    assert_eq!(planned(&facts, &[], &keeping(8)), expected);
    let expected = [1, 2].map(|oid| Retiring::DetachLocked(retirement_of(oid)));
    assert_eq!(planned(&facts, &[], &Policy { grace_us: 1, ..keeping(8) }), expected);
}

#[test]
fn coverage_reaches_to_the_first_hole() {
    let now = utc(date(2026, 11, 24));
    let full = coverage(&facts(), &Policy::default(), now, &utc).unwrap();
    assert_eq!(full.covered_until, Some(month(2027, 2).upper));
    assert_eq!((full.runway, full.holes), (Some(3), vec![]));
    assert_eq!(full.wanted_until, month(2027, 2).upper);

    let mut facts = facts();
    facts.partitions.remove(12);
    let holed = coverage(&facts, &Policy::default(), now, &utc).unwrap();
    assert_eq!(holed.covered_until, Some(month(2027, 1).lower));
    assert_eq!((holed.runway, holed.holes), (Some(1), vec![month(2027, 1)]));

    facts.partitions[10].detach_pending = true;
    let bare = coverage(&facts, &Policy::default(), now, &utc).unwrap();
    assert_eq!((bare.covered_until, bare.runway), (None, Some(0)));

    let open = Range { lower: month(2026, 11).lower, upper: Bound::MaxValue };
    facts.partitions = vec![partition(1, Extent::Range(open))];
    let endless = coverage(&facts, &Policy::default(), now, &utc).unwrap();
    assert_eq!((endless.covered_until, endless.runway), (Some(Bound::MaxValue), None));
}
