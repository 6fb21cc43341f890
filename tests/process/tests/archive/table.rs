//! The archive table: rows are in it once, and nothing is taken for ours that isn't.

use crate::stage::*;

#[test]
fn rows_are_there_once_however_often_they_are_archived() {
    let stage = Stage::awkward();
    let server = &stage.server;
    stage.archive_to_table();
    let first = stage.archive();
    assert_eq!(
        (first.0.as_str(), first.1.as_str(), first.2),
        ("table", "public.workflow_events_archive", 406)
    );
    assert_eq!(stage.archive(), first);
    stage.assert_same_rows("workflow_events_archive");
    assert_eq!(stage.noted().len(), 1);
    // Others of the archive stay apart.
    let next = server.month(AHEAD + 1);
    server.run(
        DATABASE,
        &format!(
            "SELECT create_workflow_events_partition((date_trunc('month', now(), 'UTC') + ({AHEAD} + 1) * interval '1 month')::timestamptz); \
             INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT '{}', date_trunc('month', now(), 'UTC') + ({AHEAD} + 1) * interval '1 month', 'next', '{{}}'; \
             SELECT archive_workflow_events_partition('{next}')", stage.run
        ),
    );
    server.run(
        DATABASE,
        &format!(
            "UPDATE {} SET note = 'changed' WHERE type = 'NULL'; DELETE FROM {0} WHERE type = ' '",
            stage.old
        ),
    );
    let second = stage.archive();
    assert_eq!(second.2, 405);
    assert_ne!(second.4, first.4);
    let rows: Vec<String> = server.all(DATABASE, "SELECT concat_ws(' ', type, note) FROM workflow_events_archive WHERE type <> 'many' AND type IN (' ', 'NULL', 'next') ORDER BY 1");
    // What was archived and is in the partition no more stays: nobody knows why it isn't.
    assert_eq!(rows, ["  ", "NULL changed", "next"]);
    assert_eq!(server.ask::<i64>("SELECT count(*) FROM workflow_events_archive"), 407);
}

#[test]
fn late_events_join_those_that_were_archived_before() {
    let stage = Stage::plain(100);
    let server = &stage.server;
    stage.archive_to_table();
    stage.archive();
    stage.drop_old();
    server.run(
        DATABASE,
        &format!(
            "SELECT create_workflow_events_partition((date_trunc('month', now(), 'UTC') + {AHEAD} * interval '1 month')::timestamptz); \
             INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT '{}', date_trunc('month', now(), 'UTC') + {AHEAD} * interval '1 month', 'late', '{{}}' RETURNING 1", stage.run
        ),
    );
    server.run(DATABASE, &format!("INSERT INTO kept SELECT * FROM {}", stage.old));
    let archived = stage.archive();
    assert_eq!(archived.2, 1);
    stage.assert_same_rows("workflow_events_archive");
    assert_eq!(server.ask::<i64>("SELECT contents_row_count FROM meshhook_events.archived_partition ORDER BY id DESC LIMIT 1"), 101);
    stage.drop_old();
    assert_eq!(stage.restore(), (vec!["restored".to_owned()], 0));
    stage.assert_same_rows(&stage.old);
}

#[test]
fn rows_of_others_are_neither_taken_nor_deleted() {
    let stage = Stage::plain(100);
    let server = &stage.server;
    stage.archive_to_table();
    server.run(DATABASE, &format!("CREATE TABLE workflow_events_archive (LIKE workflow_events); INSERT INTO workflow_events_archive SELECT * FROM {} LIMIT 1", stage.old));
    let error = stage.archive_fails();
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert!(error.detail().unwrap().contains("no archive of that range"), "{error:?}");
    server.run(DATABASE, "TRUNCATE workflow_events_archive");
    stage.archive();
    server.run(DATABASE, "DELETE FROM workflow_events_archive WHERE payload ->> 'n' = '7'");
    let error = stage.archive_fails();
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert_eq!(server.ask::<i64>("SELECT count(*) FROM workflow_events_archive"), 99);
    stage.drop_old();
    let error =
        fails(server, &format!("SELECT restore_workflow_events_partition('{}')", stage.old));
    assert_eq!(error.code().code(), "XX001", "{error:?}");
    assert!(error.detail().unwrap().contains("100 rows"), "{error:?}");
    server.run(
        DATABASE,
        "DROP TABLE workflow_events_archive; CREATE VIEW workflow_events_archive AS SELECT 1 AS ts",
    );
    assert_eq!(
        fails(server, &format!("SELECT restore_workflow_events_partition('{}')", stage.old))
            .code()
            .code(),
        "42809"
    );
}

#[test]
fn the_archive_is_protected_as_the_log_is_and_apart_from_it() {
    let stage = Stage::plain(10);
    let server = &stage.server;
    stage.archive_to_table();
    stage.archive();
    let differing: i64 = server.ask(
        "SELECT count(*) FROM pg_class a, pg_class l WHERE a.relname = 'workflow_events_archive' AND l.relname = 'workflow_events' \
         AND (a.relowner, a.relacl::text, a.relrowsecurity, a.relforcerowsecurity) IS DISTINCT FROM \
             (l.relowner, l.relacl::text, l.relrowsecurity, l.relforcerowsecurity)",
    );
    assert_eq!(differing, 0);
    let policies = |table: &str| -> Vec<String> {
        server.all(DATABASE, &format!("SELECT concat_ws(' ', policyname, cmd, roles::text) FROM pg_policies WHERE tablename = '{table}' ORDER BY 1"))
    };
    assert_eq!(policies("workflow_events_archive"), policies("workflow_events"));
    // It outlives the log.
    server.run(DATABASE, "DROP TABLE workflow_events");
    assert_eq!(server.ask::<i64>("SELECT count(*) FROM workflow_events_archive"), 10);
}

#[test]
fn a_parked_partition_is_archived_by_its_name() {
    let stage = Stage::plain(100);
    let server = &stage.server;
    stage.archive_to_table();
    let detach = format!("ALTER TABLE workflow_events DETACH PARTITION {}", stage.old);
    server.run(DATABASE, &detach);
    // Detached by somebody, nobody knows why.
    assert_eq!(stage.archive_fails().code().code(), "42P01");
    server.run(
        DATABASE,
        &format!(
            "INSERT INTO meshhook_events.retired_partition (relation, schema_name, partition_name, range_start, \
                 range_end, state, noted_at, detached_at) \
             SELECT '{}'::regclass::oid, 'public', '{0}', at, at + interval '1 month', 'detached', now(), now() \
             FROM date_trunc('month', now() + {AHEAD} * interval '1 month', 'UTC') at",
            stage.old
        ),
    );
    assert_eq!(stage.archive().2, 100);
    stage.assert_same_rows("workflow_events_archive");
}
