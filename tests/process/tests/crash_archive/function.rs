//! A session archives and drops the old month, or parks it.

use std::cell::Cell;

use crate::point::*;
use crate::stage::*;

const RETIRE: &str = "SELECT drop_old_workflow_events_partitions(12)";
const PARK: &str = "SELECT drop_old_workflow_events_partitions(12, grace => '1 day')";
const ARCHIVE: &str = "SELECT archive_workflow_events_partition('OLD')";

/// Calls the function until the old month is gone and archived.
fn retire(stage: &Stage) {
    for _ in 0..3 {
        stage.run(RETIRE);
        stage.assert_safe();
    }
    stage.assert_archived();
}

fn calls(stage: &mut Stage, statements: &[&str], victim: Victim, least: usize) {
    let actor = Actor::Session(statements);
    let points = survives(stage, actor, victim, Stage::prepare, retire);
    assert!(points.len() >= least, "{points:?}");
}

/// A crash came before the name was on disk, and before the temporary name was gone: who takes the file over sees to both,
/// before that is noted.
fn takes_over(stage: &Stage) {
    let mut calls = calls_of(stage, &ARCHIVE.replace("OLD", &stage.old));
    calls.retain(|call| call != LOG);
    let (file, temporary) = (format!("{}.csv", stage.old), format!("{}.csv.tmp", stage.old));
    let expected = [
        "opendir archive",
        &format!("open {file}"),
        &format!("fsync {file}"),
        &format!("open {temporary}"),
        &format!("unlink {temporary}"),
        "fsync archive",
    ];
    assert_eq!(calls, expected);
    assert_eq!(files(&stage.directory), [file]);
    assert!(stage.has_archive());
}

fn by_hand() -> Stage {
    let stage = Stage::new(600, 600);
    stage.policy("automatic_retention = false");
    stage
}

#[test]
fn archives_to_csv_whenever_the_backend_is_killed() {
    let mut stage = by_hand();
    calls(&mut stage, &[RETIRE, RETIRE], Victim::Process, 10);
}

#[test]
fn archives_to_csv_whenever_the_postmaster_is_killed() {
    let mut stage = by_hand();
    calls(&mut stage, &[RETIRE, RETIRE], Victim::Postmaster, 10);
}

#[test]
fn archives_to_a_table_and_before_it_retires_and_parks() {
    let mut stage = by_hand();
    let taken_over = Cell::new(0);
    let actor = Actor::Session(&[ARCHIVE]);
    let points = survives(&mut stage, actor, Victim::Process, Stage::prepare, |stage| {
        if files(&stage.directory).len() == 2 {
            takes_over(stage);
            taken_over.set(taken_over.get() + 1);
        }
        retire(stage);
    });
    assert!(points.len() >= 10 && taken_over.get() == 1, "{points:?}");

    stage.policy("archive = 'table'");
    for victim in [Victim::Process, Victim::Postmaster] {
        calls(&mut stage, &[RETIRE, RETIRE], victim, 1);
    }
    let mut count = 0;
    for victim in [Victim::Process, Victim::Postmaster] {
        let points =
            survives(&mut stage, Actor::Session(&[PARK]), victim, Stage::prepare, |stage| {
                assert!(stage.has_partition());
                stage.run(PARK);
                assert!(!stage.is_attached() && stage.noted().as_deref() == Some("detached"));
                let restore = format!("SELECT restore_workflow_events_partition('{}')", stage.old);
                stage.run(&restore);
                assert!(stage.is_whole());
            });
        count += points.len();
    }
    assert!(count > 0);
}
