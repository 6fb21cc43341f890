//! Both forms of the plain table migrate and come back, and everything that hangs on them comes along.

use process::{Form, MIGRATE, Server, UNDO};

use crate::phases::Phase;
use crate::stage::*;
use crate::users;

/// What is different in a table that is partitioned: part of a line of the plain one, and what is there instead.
fn differences(form: Form) -> Vec<(&'static str, &'static str)> {
    let mut differences = vec![
        ("kind r", "kind p"),
        ("PRIMARY KEY (id)", "PRIMARY KEY (id, ts)"),
        (
            "workflow_events_pkey ON public.workflow_events USING btree (id)",
            "workflow_events_pkey ON public.workflow_events USING btree (id, ts)",
        ),
    ];
    if form == Form::Older {
        // A key has no NULL.
        differences.push((
            "ts timestamp with time zone default",
            "ts timestamp with time zone not null default",
        ));
    }
    differences
}

/// All that there is of a log that is migrated.
fn assert_migrated(stage: &Stage, form: Form) {
    stage.assert_is_partitioned();
    assert_same(&stage.definition(), &stage.plain, &differences(form));
    stage.assert_same_rows();
    stage.assert_sequence_goes_on();
    users::assert_apart(&stage.server);
    // Subscribers see one table, as they did before.
    let published: Vec<String> =
        stage.server.all(DATABASE, "SELECT tablename::text FROM pg_publication_tables ORDER BY 1");
    assert_eq!(published, ["workflow_events"]);
    assert_months_hold_their_rows(stage);
    assert_told_once(stage);
    assert_cascades(stage);
}

/// Each row lies in the partition of its month, which has its name.
fn assert_months_hold_their_rows(stage: &Stage) {
    let months: Vec<String> = stage.server.all(
        DATABASE,
        "SELECT DISTINCT CASE WHEN tableoid = format('workflow_events_y%sm%s', to_char(ts AT TIME ZONE 'UTC', 'YYYY'), \
                                                     to_char(ts AT TIME ZONE 'UTC', 'MM'))::regclass \
                THEN 'right' ELSE tableoid::regclass || ' has ' || ts END FROM workflow_events",
    );
    assert_eq!(months, ["right"]);
    // Those of the policy are there, and those that rows need; not what lies between.
    let partitions = stage.server.partitions(DATABASE);
    let wanted = (-2..=3).map(|ahead| stage.server.month(ahead));
    let wanted =
        wanted.chain(["workflow_events_y2019m03", "workflow_events_y2031m07"].map(str::to_owned));
    for month in wanted {
        assert!(partitions.contains(&month), "no {month}: {partitions:?}");
    }
    assert!(partitions.len() < 20, "{partitions:?}");
}

/// The users' trigger has fired for each row once, when a client inserted it, and for no row that was copied.
fn assert_told_once(stage: &Stage) {
    let mut client = stage.server.connect(DATABASE);
    let mut transaction = client.transaction().expect("it answers");
    let told = "SELECT count(*), count(DISTINCT event_id) FROM told";
    let count = |client: &mut postgres::Transaction<'_>| -> (i64, i64) {
        let row = client.query_one(told, &[]).expect("it answers");
        (row.get(0), row.get(1))
    };
    // The fixture's rows came before the trigger.
    assert_eq!(count(&mut transaction), (0, 0));
    let insert = "INSERT INTO workflow_events (run_id, type, payload) \
                  VALUES (t.run(1), 'told', '{}'), (t.run(1), 'untold', '{}')";
    transaction.execute(insert, &[]).expect("it can be inserted");
    assert_eq!(count(&mut transaction), (1, 1));
    transaction.rollback().expect("it answers");
}

/// Events go with their run.
fn assert_cascades(stage: &Stage) {
    let mut client = stage.server.connect(DATABASE);
    let mut transaction = client.transaction().expect("it answers");
    let of_run = "SELECT count(*) FROM workflow_events WHERE run_id = t.run(3)";
    assert!(transaction.query_one(of_run, &[]).unwrap().get::<_, i64>(0) > 100);
    let deleted = transaction.execute("DELETE FROM workflow_runs WHERE id = t.run(3)", &[]);
    assert_eq!(deleted.expect("it can be deleted"), 1);
    assert_eq!(transaction.query_one(of_run, &[]).unwrap().get::<_, i64>(0), 0);
    transaction.rollback().expect("it answers");
    let orphan =
        "INSERT INTO workflow_events (run_id, type, payload) VALUES (t.run(999), 't', '{}')";
    let error = client.execute(orphan, &[]).expect_err("there is no such run");
    assert_eq!(error.code().map(|code| code.code()), Some("23503"), "{error:?}");
}

#[test]
fn both_forms_migrate_and_come_back() {
    for form in Form::ALL {
        let stage = Stage::new(form);
        users::assert_apart(&stage.server);
        stage.migrate();
        assert_migrated(&stage, form);
        stage.undo();
        stage.assert_same_rows();
        stage.assert_sequence_goes_on();
        users::assert_apart(&stage.server);
        assert_told_once(&stage);
        assert_cascades(&stage);
        // As often as one likes.
        stage.migrate();
        assert_migrated(&stage, form);
        stage.undo();
        stage.assert_same_rows();
    }
}

#[test]
fn the_worker_migrates_and_brings_back() {
    for form in Form::ALL {
        let stage = Stage::of(form, Server::preloaded());
        for call in [
            "CALL migrate_workflow_events()",
            "CALL migrate_workflow_events(in_background => true)",
        ] {
            // By itself it goes where the worker can do it.
            stage.call(call);
            let progress = stage.server.wait_for_migration(DATABASE);
            assert_eq!((progress.direction.as_str(), progress.phase.as_str()), ("migrate", "done"));
            assert_migrated(&stage, form);
            stage.call(&call.replace("migrate_workflow_events", "undo_workflow_events_migration"));
            let progress = stage.server.wait_for_migration(DATABASE);
            assert_eq!((progress.direction.as_str(), progress.phase.as_str()), ("undo", "done"));
            stage.assert_is_plain();
            stage.assert_same_rows();
        }
    }
}

/// Whoever looks while rows are copied sees what he saw before, and nothing through what is being made.
#[test]
fn users_see_their_own_rows_while_it_is_copied() {
    let stage = Stage::new(Form::Current);
    for call in [MIGRATE, UNDO] {
        let under_way = stage.begin(SLOWLY, call);
        stage.server.wait_for_phase(DATABASE, "copying");
        let mut looks = 0;
        while !under_way.is_over() {
            users::assert_apart(&stage.server);
            looks += 1;
        }
        under_way.end().unwrap_or_else(|error| panic!("{error:?}\n{}", stage.server.log()));
        assert!(looks > 0, "nobody has looked");
        users::assert_apart(&stage.server);
    }
    stage.assert_is_plain();
    stage.assert_same_rows();
}

/// Before the switch a migration is taken back: the table has not been touched.
#[test]
fn a_migration_is_taken_back_before_the_switch() {
    let stage = Stage::new(Form::Current);
    let oid: u32 = stage.server.ask("SELECT 'workflow_events'::regclass::oid");
    let under_way = stage.begin(SLOWLY, MIGRATE);
    let progress = stage.server.wait_for_phase(DATABASE, "copying");
    assert!(progress.rows.1 > 3000, "{progress:?}");
    stage.server.run("postgres", &format!("SELECT pg_cancel_backend({})", under_way.pid));
    let error = under_way.end().expect_err("it was cancelled").expect("the server says so");
    assert_eq!(error.code().code(), "57014", "{error:?}");
    assert!(!stage.is_partitioned());
    stage.undo();
    let progress = stage.server.migration(DATABASE).expect("it is known");
    assert_eq!(progress.phase, "taken back", "{progress:?}");
    assert_eq!(stage.server.ask::<u32>("SELECT 'workflow_events'::regclass::oid"), oid);
    stage.assert_same_rows();
    // It can be begun again.
    stage.migrate();
    stage.assert_same_rows();
}

/// After the switch and before the old table is dropped, that one is brought up to date and comes back.
#[test]
fn the_old_table_comes_back_while_it_is_kept() {
    let stage = Stage::new(Form::Older);
    let (under_way, holder) = Phase::Verifying.reach(&stage, MIGRATE);
    let oid: u32 = stage.server.ask("SELECT 'workflow_events_old'::regclass::oid");
    stage.server.run("postgres", &format!("SELECT pg_cancel_backend({})", under_way.pid));
    under_way.end().expect_err("it was cancelled");
    let_go(holder);
    assert!(stage.is_partitioned());
    // What is changed since the switch is brought over.
    stage.server.run(
        DATABASE,
        "INSERT INTO workflow_events (run_id, type, payload) SELECT t.run(4), 'new', to_jsonb(n) FROM generate_series(1, 50) n; \
         UPDATE workflow_events SET payload = '\"changed\"' WHERE run_id = t.run(5); \
         UPDATE workflow_events SET ts = t.start(1) WHERE run_id = t.run(6) AND ts BETWEEN '2020-01-01' AND t.start(-4); \
         DELETE FROM workflow_runs WHERE id = t.run(7)",
    );
    let rows = stage.server.rows_of(DATABASE, "workflow_events");
    assert_ne!(rows, stage.rows);
    stage.undo();
    assert_eq!(stage.server.ask::<u32>("SELECT 'workflow_events'::regclass::oid"), oid);
    assert_eq!(stage.server.rows_of(DATABASE, "workflow_events"), rows);
    stage.assert_sequence_goes_on();
}
