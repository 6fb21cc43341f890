//! What the worker costs where there is nothing to do: it writes nothing, however many partitions there are.

use process::Server;

/// Records and bytes of WAL, where the next record goes, and the next transaction number.
type Written = (i64, i64, String, String);

fn written(server: &Server) -> Written {
    let mut client = server.connect("postgres");
    let row = client
        .query_one(
            "SELECT wal_records, wal_bytes::bigint, pg_current_wal_insert_lsn()::text, \
                    pg_snapshot_xmax(pg_current_snapshot())::text FROM pg_stat_wal",
            &[],
        )
        .unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

/// The same once sessions that have ended have handed in what they counted: it stays as it is for a while.
fn settled(server: &Server) -> Written {
    let mut last = (written(server), 0);
    server.wait_for("the statistics are in", |server| {
        let now = written(server);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        (last.1 == 10).then(|| last.0.clone())
    })
}

/// A log with a thousand partitions, and nothing else that writes.
fn with_a_thousand_partitions() -> Server {
    let mut server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("max_locks_per_transaction", "1000")
        .conf("autovacuum", "off")
        .conf("bgwriter_lru_maxpages", "0")
        .conf("checkpoint_timeout", "1d")
        // Else the server writes a record of running transactions now and then.
        .conf("wal_level", "minimal")
        .conf("max_wal_senders", "0")
        .start();
    server.set_up("postgres");
    server.run(
        "postgres",
        "SET TimeZone = 'UTC'; \
         DO $$ DECLARE month timestamptz; BEGIN \
             FOR n IN 1..994 LOOP \
                 month := timestamptz '1940-01-01 00:00+00' + n * interval '1 month'; \
                 EXECUTE format('CREATE TABLE workflow_events_y%sm%s PARTITION OF workflow_events \
                                 FOR VALUES FROM (%L) TO (%L)', \
                                to_char(month, 'YYYY'), to_char(month, 'MM'), month, month + interval '1 month'); \
             END LOOP; END $$",
    );
    assert_eq!(server.partitions("postgres").len(), 1000);
    server.run("postgres", "VACUUM FREEZE");
    server.turn_on();
    server.pass("postgres");
    server.wait_until_idle();
    server
}

#[test]
fn a_pass_with_nothing_to_do_writes_no_wal_and_takes_no_transaction_number() {
    let server = with_a_thousand_partitions();
    for retention in ["NULL", "'1200 months'"] {
        server
            .run("postgres", &format!("UPDATE meshhook_events.policy SET retention = {retention}"));
        // The first pass may have something to say; reading what was written leaves hint bits.
        server.pass("postgres");
        server.run(
            "postgres",
            "VACUUM FREEZE meshhook_events.policy, meshhook_events.maintenance_log",
        );
        server.pass("postgres");
        let before = settled(&server);
        for _ in 0..5 {
            assert_eq!(server.pass("postgres").status, "ok");
        }
        assert_eq!(settled(&server), before, "retention {retention}\n{}", server.log());
    }
}

#[test]
fn a_pass_over_sealed_partitions_writes_nothing_either() {
    let server = with_a_thousand_partitions();
    server.run("postgres", "UPDATE meshhook_events.policy SET seal_after = '0 days'");
    server.wake("postgres");
    // All but the current month and those to come.
    for count in [100, 200, 300, 400, 500, 600, 700, 800, 900, 996] {
        server.wait_until("so many are sealed", |server| {
            server.ask::<i64>("SELECT count(*) FROM meshhook_events.sealed_partition") >= count
        });
    }
    server.wait_until_idle();
    server.pass("postgres");
    server.run(
        "postgres",
        "VACUUM FREEZE meshhook_events.policy, meshhook_events.maintenance_log, meshhook_events.sealed_partition",
    );
    server.pass("postgres");
    let before = settled(&server);
    for _ in 0..5 {
        assert_eq!(server.pass("postgres").status, "ok");
    }
    assert_eq!(settled(&server), before, "{}", server.log());
}

#[test]
fn a_look_at_somebody_in_the_way_is_written_down_once() {
    let mut server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("autovacuum", "off")
        .conf("bgwriter_lru_maxpages", "0")
        .conf("wal_level", "minimal")
        .conf("max_wal_senders", "0")
        .start();
    server.set_up("postgres");
    let missing = server.drop_month("postgres", 1);
    let mut holder = server.connect("postgres");
    holder.batch_execute("BEGIN; LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE").unwrap();
    server.wait_until("the holder's transaction is older than a second", |server| {
        server.ask(
            "SELECT bool_or(xact_start < now() - interval '1.1 s') FROM pg_stat_activity \
             WHERE state = 'idle in transaction'",
        )
    });
    server.turn_on();
    let entry = |server: &Server| {
        let attempts = server.attempts_at("postgres", "create");
        attempts.into_iter().find(|attempt| attempt.status == "failed")
    };
    let first = server.wait_for("the state is written down", entry);
    assert_eq!(first.sqlstate.as_deref(), Some("55P03"));
    server.pass("postgres");
    let before = settled(&server);
    for _ in 0..5 {
        assert_eq!(server.pass("postgres").status, "failed");
    }
    assert_eq!(settled(&server), before, "{}", server.log());
    let attempts = server.attempts_at("postgres", "create");
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    assert_eq!(
        server.log().matches("LOG:  maintenance of database").count(),
        1,
        "{}",
        server.log()
    );
    holder.batch_execute("COMMIT").unwrap();
    // Nobody wakes it.
    server.wait_for_partition("postgres", &missing);
}
