//! The worker detaches the old month, archives and drops it, all in one pass; or parks it.

use crate::point::*;
use crate::stage::*;

fn archives(stage: &mut Stage, victim: Victim) -> Vec<String> {
    survives(stage, Actor::Worker, victim, Stage::prepare, |stage| {
        stage.heal();
        stage.assert_archived();
    })
}

fn to_csv(victim: Victim) {
    let mut stage = Stage::new(600, 600);
    let points = archives(&mut stage, victim);
    // Written, on disk, in place, its name on disk, read back, noted: in this order.
    let archiving = format!("archiving partition {}: ", stage.old);
    let mut calls: Vec<&str> = points.iter().filter_map(|p| p.strip_prefix(&archiving)).collect();
    assert_eq!(calls.last(), Some(&LOG), "{points:?}");
    calls.retain(|call| *call != LOG);
    calls.dedup();
    let (file, temporary) = (format!("{}.csv", stage.old), format!("{}.csv.tmp", stage.old));
    let expected = [
        "opendir archive",
        &format!("create {temporary}"),
        &format!("write {temporary}"),
        &format!("fsync {temporary}"),
        &format!("link {file}"),
        &format!("unlink {temporary}"),
        "fsync archive",
        &format!("open {file}"),
    ];
    assert_eq!(calls, expected);
    // Somebody else may have written the log for one of them.
    let steps =
        ["claiming", "detaching", "looking", "cutting", "archiving", "dropping", "recording"];
    let commits = |step: &&&str| points.iter().any(|p| p.starts_with(**step) && p.ends_with(LOG));
    assert!(steps.iter().filter(commits).count() >= steps.len() - 1, "{points:?}");
}

#[test]
fn archives_to_csv_whenever_it_is_killed() {
    to_csv(Victim::Process);
}

#[test]
fn archives_to_csv_whenever_the_postmaster_is_killed() {
    to_csv(Victim::Postmaster);
}

#[test]
fn archives_to_a_table_and_parks_whenever_it_is_killed() {
    let mut stage = Stage::new(600, 600);
    stage.policy("archive = 'table'");
    let points = archives(&mut stage, Victim::Process);
    assert!(points.len() >= 6, "{points:?}");

    stage.policy("grace = '1 day'");
    for victim in [Victim::Process, Victim::Postmaster] {
        let points = survives(&mut stage, Actor::Worker, victim, Stage::prepare, |stage| {
            stage.settle_doubt();
            stage.look_until("it is parked", |stage| {
                !stage.is_attached() && stage.noted().as_deref() == Some("detached")
            });
            assert!(stage.has_partition());
        });
        assert!(points.len() >= 3, "{points:?}");
    }
}
