//! When a month is archived, and what may come between.

use crate::stage::*;

/// The names that the function gives, and what it says beside.
fn retire(stage: &Stage) -> (String, String) {
    let psql = stage.server.psql(DATABASE, "SELECT drop_old_workflow_events_partitions(12)");
    assert!(psql.success, "{psql:?}");
    (psql.stdout.trim().to_owned(), psql.stderr)
}

fn archives(stage: &Stage) -> i64 {
    stage.ask("SELECT count(*) FROM meshhook_events.archived_partition")
}

/// The month has been parked for longer than its grace.
fn let_grace_pass(stage: &Stage) {
    let pass = "UPDATE meshhook_events.retired_partition SET detached_at = detached_at - interval '2 days'";
    stage.run(pass);
}

#[test]
fn the_worker_archives_when_the_grace_has_passed() {
    let stage = Stage::new(100, 10);
    for archive in ["file", "table"] {
        stage.policy(&format!("archive = '{archive}', grace = '1 day'"));
        stage.prepare();
        for _ in 0..2 {
            stage.server.look(DATABASE);
            assert_eq!(stage.noted().as_deref(), Some("detached"));
            assert!(stage.has_partition() && archives(&stage) == 0);
        }
        let_grace_pass(&stage);
        stage.server.look(DATABASE);
        stage.assert_archived();

        stage.policy("grace = '0'");
        stage.prepare();
        stage.server.look(DATABASE);
        stage.assert_archived();
        let attempt = stage.server.attempts_at(DATABASE, "retire").remove(0);
        assert_eq!(attempt.status, "ok");
        assert!(attempt.details.contains(&format!("{}: 100 row(s)", stage.old)), "{attempt:?}");
    }
}

#[test]
fn the_function_archives_by_its_second_call() {
    let stage = Stage::new(100, 10);
    stage.policy("automatic_retention = false");
    for archive in ["file", "table"] {
        stage.policy(&format!("archive = '{archive}'"));
        stage.prepare();
        let (names, said) = retire(&stage);
        assert!(
            names.is_empty() && said.contains("a further call archives and drops it"),
            "{said}"
        );
        assert!(said.contains("NOTICE") && said.contains(&stage.old), "{said}");
        assert!(stage.has_partition() && archives(&stage) == 0);
        assert_eq!(stage.noted().as_deref(), Some("closing"));
        let (names, said) = retire(&stage);
        assert_eq!((names.as_str(), said.as_str()), (stage.old.as_str(), ""));
        stage.assert_archived();
        assert_eq!(retire(&stage), (String::new(), String::new()));
    }
}

#[test]
fn a_run_that_goes_on_brings_back_what_was_cut_off() {
    let stage = Stage::new(99, 10);
    stage.policy("automatic_retention = false");
    stage.prepare();
    retire(&stage);
    // One run goes away, and its events with it in the end; another one goes on.
    stage.run(
        "DELETE FROM workflow_runs WHERE id = (SELECT run_id FROM kept ORDER BY id LIMIT 1); \
         UPDATE workflow_runs SET status = 'running', finished_at = NULL \
         WHERE id = (SELECT run_id FROM kept ORDER BY id DESC LIMIT 1)",
    );
    assert!(stage.has_partition(), "nothing changes it while it is cut off");
    let (names, said) = retire(&stage);
    assert!(names.is_empty() && said.contains("kept") && said.contains("not finished"), "{said}");
    stage.policy("automatic_retention = true");
    stage.server.look(DATABASE);
    assert!(stage.is_attached(), "{:?}", stage.server.attempts(DATABASE));
    assert_eq!((stage.noted(), archives(&stage)), (None, 0));
    let rows = "SELECT count(*) FILTER (WHERE r.id IS NULL) || ' ' || count(*) || ' ' || ( \
                    SELECT count(*) FROM kept k WHERE EXISTS ( \
                        SELECT FROM workflow_events e WHERE (e.*) IS NOT DISTINCT FROM (k.*))) \
                FROM workflow_events LEFT JOIN workflow_runs r ON r.id = run_id";
    assert_eq!(stage.ask::<String>(rows), "0 66 66");
    let key = format!(
        "SELECT convalidated AND conparentid <> 0 FROM pg_constraint \
         WHERE conrelid = '{}'::regclass AND contype = 'f'",
        stage.old
    );
    assert!(stage.ask::<bool>(&key));
    // Its foreign key deletes again.
    stage.run("DELETE FROM workflow_runs WHERE finished_at IS NOT NULL");
    assert_eq!(stage.ask::<i64>("SELECT count(*) FROM workflow_events"), 33);
}

#[test]
fn what_is_held_while_it_is_cut_off_is_kept() {
    let stage = Stage::new(100, 10);
    stage.policy("automatic_retention = false");
    stage.prepare();
    retire(&stage);
    let old = &stage.old;
    stage
        .server
        .run(DATABASE, &format!("SELECT hold_workflow_events_partition('{old}', 'a case')"));
    let (names, said) = retire(&stage);
    assert!(names.is_empty() && said.contains("a case"), "{said}");
    stage.policy("automatic_retention = true");
    stage.server.look(DATABASE);
    assert_eq!(stage.noted().as_deref(), Some("closing"));
    assert!(stage.has_partition() && archives(&stage) == 0);
    stage.run(&format!("SELECT release_workflow_events_partition('{old}')"));
    stage.server.look(DATABASE);
    stage.assert_archived();
}

#[test]
fn an_archive_that_is_asked_for_while_the_worker_is_about_to_drop() {
    let stage = Stage::new(100, 10);
    stage.policy("archive = 'none', grace = '1 day'");
    stage.prepare();
    stage.server.look(DATABASE);
    let_grace_pass(&stage);
    let begin = stage.server.log_length();
    let (mut holder, _) = stage.server.make_worker_wait_behind(DATABASE, |server| {
        let mut holder = server.connect(DATABASE);
        let claims = "BEGIN; LOCK TABLE meshhook_events.maintenance_log IN SHARE MODE";
        holder.batch_execute(claims).unwrap();
        holder
    });
    stage.policy("archive = 'file'");
    holder.batch_execute("COMMIT").unwrap();
    let database = stage.server.oid_of(DATABASE);
    stage.server.wait_until("the pass is over", |server| server.passes_after(begin, database) > 0);
    stage.assert_safe();
    stage.heal();
    stage.assert_archived();
}

/// The policy is the one of the moment of the drop.
#[test]
fn a_policy_that_changes_on_the_way() {
    let stage = Stage::new(100, 10);
    stage.policy("automatic_retention = false");
    for (from, to) in [("file", "table"), ("table", "file"), ("none", "file")] {
        stage.policy(&format!("archive = '{from}'"));
        stage.prepare();
        let park = "SELECT drop_old_workflow_events_partitions(12, grace => '1 day')";
        stage.server.run(
            DATABASE,
            if from == "none" { park } else { "SELECT drop_old_workflow_events_partitions(12)" },
        );
        stage.policy(&format!("archive = '{to}'"));
        let_grace_pass(&stage);
        retire(&stage);
        retire(&stage);
        stage.assert_archived();
    }
    stage.policy("archive = 'file'");
    stage.prepare();
    retire(&stage);
    stage.policy("archive = 'none'");
    assert_eq!(retire(&stage).0, stage.old);
    assert!(!stage.exists() && archives(&stage) == 0);
}
