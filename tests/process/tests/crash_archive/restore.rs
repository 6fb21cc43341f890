//! A month comes back: one that is parked, one that was cut off from the runs, one that is in an archive.

use crate::point::*;
use crate::stage::*;

const RESTORE: &str = "SELECT restore_workflow_events_partition('OLD')";

/// Calls the function until the month is in the log.
fn restore(stage: &Stage) {
    for _ in 0..3 {
        if !stage.is_attached() {
            stage.run(&RESTORE.replace("OLD", &stage.old));
        }
    }
    assert!(stage.is_attached() && stage.is_whole());
    assert_eq!(stage.noted(), None);
    is_sound(stage);
}

/// The partition is as any other.
fn is_sound(stage: &Stage) {
    let old = &stage.old;
    let query = format!(
        "SELECT (SELECT count(*) FROM pg_constraint WHERE conrelid = '{old}'::regclass AND contype = 'f' AND convalidated) \
             || ' ' || (SELECT count(*) FROM pg_constraint WHERE conrelid = '{old}'::regclass AND contype = 'c') \
             || ' ' || (SELECT count(*) FROM pg_index WHERE indrelid = '{old}'::regclass AND indisvalid \
                        AND EXISTS (SELECT FROM pg_inherits WHERE inhrelid = indexrelid))"
    );
    assert_eq!(stage.ask::<String>(&query), "1 0 4");
}

/// A run of the old month goes on.
fn reopen(stage: &Stage) {
    let reopen = "UPDATE workflow_runs SET status = 'running', finished_at = NULL \
                  WHERE id = (SELECT run_id FROM kept LIMIT 1)";
    stage.run(reopen);
}

fn comes_back(
    stage: &mut Stage,
    actor: Actor,
    prepare: impl Fn(&Stage),
    complete: impl Fn(&Stage),
) -> usize {
    let prepare = |stage: &Stage| {
        stage.prepare();
        prepare(stage);
    };
    let mut points = 0;
    for victim in [Victim::Process, Victim::Postmaster] {
        points += survives(stage, actor, victim, prepare, &complete).len();
    }
    points
}

#[test]
fn a_parked_month() {
    let mut stage = Stage::new(100, 10);
    stage.policy("automatic_retention = false");
    let park = |stage: &Stage| {
        let park = "SELECT drop_old_workflow_events_partitions(12, grace => '1 day')";
        stage.run(park);
        assert!(!stage.is_attached() && stage.has_partition());
    };
    let points = comes_back(&mut stage, Actor::Session(&[RESTORE]), park, restore);
    assert!(points >= 1, "{points}");

    // One that was cut off from the runs: its foreign key first.
    let close = |stage: &Stage| stage.retire_until(Some("closing"));
    let points = comes_back(&mut stage, Actor::Session(&[RESTORE, RESTORE]), close, restore);
    assert!(points >= 2, "{points}");

    stage.policy("automatic_retention = true");
    let reopened = |stage: &Stage| {
        close(stage);
        reopen(stage);
    };
    let points = comes_back(&mut stage, Actor::Worker, reopened, |stage| {
        assert!(stage.has_partition());
        stage.look_until("it is back", Stage::is_attached);
        assert!(stage.is_whole());
        assert_eq!(stage.noted(), None);
        is_sound(stage);
    });
    assert!(points >= 6, "{points}");
}

#[test]
fn a_month_from_its_file() {
    let archive = |stage: &Stage| {
        stage.retire_until(None);
        stage.assert_archived();
    };
    let complete = |stage: &Stage| {
        restore(stage);
        assert!(stage.has_archive(), "the archive stays");
    };
    // Larger ones take two calls.
    for (events, calls) in [(1_000, [RESTORE].as_slice()), (10_100, &[RESTORE, RESTORE])] {
        let mut stage = Stage::new(events, 5);
        stage.policy("automatic_retention = false");
        let points = comes_back(&mut stage, Actor::Session(calls), archive, complete);
        assert!(points >= 4, "{points}");
    }
}
