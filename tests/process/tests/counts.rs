//! Partitions are counted natively, exactly as the plain query counts under the same snapshot: after VACUUM, a crash, on a
//! standby, beside writers, and beside whatever else may happen to a table.

use std::sync::atomic::{AtomicBool, Ordering};

use postgres::Client;
use process::{Mode, Server};

/// What the function counts and what the query counts, of each partition, in one statement, so in one snapshot.
const BOTH: &str = "WITH ours AS ( \
        SELECT partition_name AS name, row_count AS rows FROM get_workflow_events_partition_stats()), \
    theirs AS ( \
        SELECT c.relname::text AS name, coalesce(e.rows, 0) AS rows \
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
        LEFT JOIN (SELECT tableoid, count(*) AS rows FROM workflow_events GROUP BY tableoid) e ON e.tableoid = c.oid \
        WHERE i.inhparent = 'workflow_events'::regclass) \
    SELECT (SELECT string_agg(name || ' ' || rows, ', ' ORDER BY name) FROM ours), \
           (SELECT string_agg(name || ' ' || rows, ', ' ORDER BY name) FROM theirs)";

/// Asserts that both count the same, and gives what they count.
fn same(client: &mut Client, what: &str) -> String {
    let row = client.query_one(BOTH, &[]).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let (ours, theirs): (String, String) = (row.get(0), row.get(1));
    assert_eq!(ours, theirs, "{what}");
    ours
}

/// A log with so many events.
fn with_events(server: &Server, count: i64) {
    server
        .run("postgres", "ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_run_id_fkey");
    server.run("postgres", &insert(count));
}

/// How many indexes of partitions this transaction has locked: a query locks them all until the transaction ends, a native
/// count none.
fn locked_indexes(client: &mut Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
               WHERE l.pid = pg_backend_pid() AND c.oid >= 16384 AND c.relkind = 'i' AND c.relname LIKE 'workflow_events_y%'";
    client.query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn counts_are_native_and_leave_no_index_locked() {
    let server = Server::with_worker_off();
    with_events(&server, 3_000);
    let mut client = server.connect("postgres");
    client.batch_execute("VACUUM workflow_events").unwrap();
    let natively = "SELECT FROM get_workflow_events_partition_stats()";
    client.batch_execute(&format!("BEGIN; {natively}")).unwrap();
    assert_eq!(locked_indexes(&mut client), 0);
    // A query would show.
    client.batch_execute("SELECT count(*) FROM workflow_events").unwrap();
    assert!(locked_indexes(&mut client) > 0);
    client.batch_execute("COMMIT").unwrap();
    // Where each read has to be noted, it is the query.
    client.batch_execute(&format!("BEGIN ISOLATION LEVEL SERIALIZABLE; {natively}")).unwrap();
    assert!(locked_indexes(&mut client) > 0);
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn counts_are_exact_after_vacuum_crash_and_bulk_deletion() {
    let mut server = Server::with_worker_off();
    with_events(&server, 30_000);
    let steps = [
        ("never vacuumed", ""),
        ("clean", "VACUUM workflow_events"),
        ("few pages changed", "UPDATE workflow_events SET payload = '{}' WHERE id % 499 = 0"),
        ("rows deleted", "DELETE FROM workflow_events WHERE id % 97 = 0"),
        ("an index vacuumed, or not", "VACUUM (INDEX_CLEANUP off) workflow_events"),
        ("vacuumed", "VACUUM (INDEX_CLEANUP on) workflow_events"),
        // Whole leaves of each index become empty, and are deleted.
        ("in bulk", "DELETE FROM workflow_events WHERE id BETWEEN 5000 AND 20000 OR type = 't2'"),
        ("pages deleted", "VACUUM (INDEX_CLEANUP on) workflow_events"),
        (
            "refilled",
            "INSERT INTO workflow_events (run_id, ts, type, payload) \
                      SELECT run_id, ts, 'u' || id % 2, payload FROM workflow_events",
        ),
        ("reindexed", "REINDEX TABLE workflow_events"),
        ("vacuumed again", "VACUUM workflow_events"),
        ("frozen", "VACUUM (FREEZE) workflow_events"),
        ("rewritten", "VACUUM FULL workflow_events"),
        ("reindexed concurrently", "REINDEX TABLE CONCURRENTLY workflow_events"),
    ];
    for (what, step) in steps {
        server.run("postgres", step);
        let mut client = server.connect("postgres");
        let counted = same(&mut client, what);
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
        same(&mut client, what);
        drop(client);
        // Nothing was written to the files but the log.
        server.stop(Mode::Immediate);
        server.start();
        let again = same(&mut server.connect("postgres"), &format!("{what}, after a crash"));
        assert_eq!(again, counted, "{what}, after a crash");
    }
    let left: i64 = server.ask("SELECT count(*) FROM workflow_events");
    assert!((5_000..30_000).contains(&left), "{left}");
}

/// Ends what runs beside a comparison, also where that fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs statements in turn until told to end. Each succeeds alone; some fail beside others.
fn forever(server: &Server, is_over: &AtomicBool, statements: &[String]) {
    let mut client = server.connect("postgres");
    client.batch_execute("SET lock_timeout = '100ms'").unwrap();
    for statement in statements.iter().cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let _ = client.batch_execute(statement);
        let _ = client.batch_execute("ROLLBACK");
    }
}

/// Events in four months around this one, `count` of them, on pages with few rows, so that there are many pages.
fn insert(count: i64) -> String {
    format!(
        "INSERT INTO workflow_events (run_id, ts, type, payload) \
         SELECT gen_random_uuid(), \
                date_trunc('month', now(), 'UTC') + (n % 4 - 1) * interval '1 month' + interval '3 days', \
                't' || n % 3, jsonb_build_object('n', n, 'long', repeat('x', 300)) FROM generate_series(1, {count}) n"
    )
}

/// What writers do, and have done once.
fn writes(server: &Server) -> Vec<String> {
    let insert = insert(60);
    // Some events that lie beside each other, each time others.
    let some = |what: &str, count: i32| {
        format!(
            "WITH place AS (SELECT (random() * max(id))::bigint AS start FROM workflow_events) \
             {what} (SELECT id FROM workflow_events, place WHERE id BETWEEN start AND start + {count})"
        )
    };
    let hot = "UPDATE workflow_events SET payload = payload || '{\"hot\": 1}' WHERE id IN";
    let not_hot = "UPDATE workflow_events SET type = left('x' || type, 9) WHERE id IN";
    let moved =
        "UPDATE workflow_events SET ts = ts + interval '1 month' WHERE ts < now() AND id IN";
    let deleted = "DELETE FROM workflow_events WHERE id IN";
    let writes = vec![
        insert.clone(),
        some(hot, 50),
        some(not_hot, 50),
        format!(
            "BEGIN; {insert}; SAVEPOINT s; {insert}; {}; ROLLBACK TO s; {insert}; COMMIT",
            some(deleted, 300)
        ),
        some(deleted, 100),
        format!("BEGIN; {insert}; {}; ROLLBACK", some(not_hot, 300)),
        some(moved, 40),
        // The oldest, so that there are never many more than at the beginning.
        "DELETE FROM workflow_events WHERE id < (SELECT max(id) - 9000 FROM workflow_events)"
            .to_owned(),
    ];
    writes.iter().for_each(|write| server.run("postgres", write));
    writes
}

#[test]
fn counts_beside_writers_equal_the_plain_query() {
    /// How many comparisons are made in each isolation level, each of all partitions.
    const CHECKS: usize = 600;

    let server = Server::with_worker_off();
    with_events(&server, 9_000);
    let is_over = AtomicBool::new(false);
    let writes = writes(&server);
    let vacuum = ["VACUUM (INDEX_CLEANUP on, TRUNCATE off) workflow_events".to_owned()];
    let changes = [
        format!("REINDEX TABLE {}", server.month(1)),
        format!("TRUNCATE {}", server.month(2)),
        format!("REINDEX INDEX CONCURRENTLY {}_type_idx", server.month(0)),
        format!("VACUUM (INDEX_CLEANUP off) {}", server.month(-1)),
        format!("CREATE INDEX again ON {} (type); DROP INDEX again", server.month(0)),
        "ANALYZE workflow_events".to_owned(),
        "VACUUM workflow_events".to_owned(),
    ];
    changes.iter().for_each(|change| server.script("postgres", change).clear());
    std::thread::scope(|scope| {
        let _end = End(&is_over);
        for turn in 0..2 {
            let mut writes = writes.clone();
            writes.rotate_left(turn * 3);
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || forever(server, is_over, &writes));
        }
        scope.spawn(|| forever(&server, &is_over, &vacuum));
        scope.spawn(|| forever(&server, &is_over, &changes));
        let mut client = server.connect("postgres");
        let mut seen = std::collections::BTreeSet::new();
        for level in ["READ COMMITTED", "REPEATABLE READ"] {
            for check in 0..CHECKS / 3 {
                client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
                // In REPEATABLE READ the snapshot gets older from one to the next.
                for round in 0..3 {
                    seen.insert(same(&mut client, &format!("check {check}, {round}, {level}")));
                }
                client.batch_execute("COMMIT").unwrap();
            }
        }
        assert!(seen.len() > CHECKS / 5, "the writers wrote: {} different counts", seen.len());
    });
}

#[test]
fn counts_on_a_standby_equal_the_plain_query() {
    /// How many comparisons are made while the standby follows, each of all partitions.
    const CHECKS: usize = 400;

    let mut primary = Server::with_worker_off();
    primary.set_conf("max_standby_streaming_delay", "-1");
    primary.set_conf("hot_standby_feedback", "on");
    primary.set_conf("wal_receiver_status_interval", "1s");
    primary.reload();
    with_events(&primary, 9_000);
    primary.run("postgres", "VACUUM workflow_events");
    let standby = primary.standby();
    standby.catch_up_with(&primary);
    let is_over = AtomicBool::new(false);
    let writes = writes(&primary);
    let vacuum = ["VACUUM (INDEX_CLEANUP on, TRUNCATE off) workflow_events".to_owned()];
    std::thread::scope(|scope| {
        let _end = End(&is_over);
        scope.spawn(|| forever(&primary, &is_over, &writes));
        scope.spawn(|| forever(&primary, &is_over, &vacuum));
        let mut client = standby.connect("postgres");
        let mut seen = std::collections::BTreeSet::new();
        for level in ["READ COMMITTED", "REPEATABLE READ"] {
            for check in 0..CHECKS / 4 {
                client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
                for round in 0..2 {
                    seen.insert(same(&mut client, &format!("check {check}, {round}, {level}")));
                }
                client.batch_execute("COMMIT").unwrap();
                // It waits for our snapshots, and would fall behind.
                if check % 4 == 0 {
                    standby.catch_up_with(&primary);
                }
            }
        }
        assert!(seen.len() > CHECKS / 20, "the standby followed: {} different counts", seen.len());
    });
    standby.catch_up_with(&primary);
    let mut client = standby.connect("postgres");
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    let before = same(&mut client, "all replayed");
    standby.promote();
    // A transaction that began on the standby goes on.
    assert_eq!(same(&mut client, "promoted"), before);
}
