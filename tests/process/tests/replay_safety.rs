//! What a run that goes on needs is kept, whoever asks and whatever can be told of the runs; and what is retired is parked
//! first, out of the sight of others.

use postgres::Client;
use process::Server;

/// A server with the worker off, and the tools that make months.
fn server() -> Server {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        // A busy machine is no failure.
        .conf("pg_meshhook_events.lock_timeout", "5s")
        .start();
    server.set_up_months("postgres");
    server.run("postgres", "UPDATE meshhook_events.policy SET retention = '12 months'");
    server
}

/// The id of a run, by its number.
fn run(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

fn names(client: &mut Client, sql: &str) -> Vec<String> {
    let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.into_iter().map(|row| row.get(0)).collect()
}

const DROP: &str = "SELECT drop_old_workflow_events_partitions()";

#[test]
fn what_is_kept_is_said_with_the_runs_and_is_no_failure() {
    let mut server = server();
    server.run(
        "postgres",
        "SELECT t.add(-21, 1, 2, 3), t.add(-20, 3), t.add(-19, 1), t.add(-18, 1), t.finish(1)",
    );
    let [needed, later, gone, held] = [-21, -20, -19, -18].map(|ahead| server.month(ahead));
    server
        .run("postgres", &format!("SELECT hold_workflow_events_partition('{held}', 'a lawsuit')"));
    let (mut client, notices) = server.connect_with_notices();
    assert_eq!(names(&mut client, DROP), vec![gone.clone()]);
    let expected = [
        (
            held.clone(),
            "a lawsuit".to_owned(),
            format!("release_workflow_events_partition('{held}')"),
        ),
        (
            needed.clone(),
            format!("2 run(s) that are not finished, the first of them run {}", run(2)),
            "final".to_owned(),
        ),
        (
            later.clone(),
            format!("1 run(s) that are not finished, the first of them run {}", run(3)),
            "final".to_owned(),
        ),
    ];
    let notices = notices.lock().unwrap();
    assert_eq!(notices.len(), expected.len(), "{notices:?}");
    for (notice, (name, what, hint)) in notices.iter().zip(&expected) {
        assert_eq!(notice.severity(), "WARNING");
        let message = notice.message();
        assert!(message.contains(&format!("\"{name}\"")) && message.contains(what), "{message}");
        let said = notice.hint().unwrap_or_default();
        assert!(said.contains(hint), "{message}: {said}");
    }
    // The ledger has the same.
    let details: String =
        server.ask("SELECT details::text FROM meshhook_events.maintenance_log WHERE task = 'drop'");
    assert!(
        expected.iter().all(|(name, what, _)| details.contains(name) && details.contains(what)),
        "{details}"
    );

    // The worker keeps them too, and has nothing to complain of.
    server.turn_on_and_restart();
    let attempt = server.pass("postgres");
    assert_eq!((attempt.task.as_str(), attempt.status.as_str()), ("retire", "ok"), "{attempt:?}");
    let kept = "SELECT jsonb_array_elements_text(details -> 'kept') FROM meshhook_events.maintenance_log \
                WHERE origin = 'worker' AND task = 'retire' ORDER BY id DESC LIMIT 3";
    let kept: Vec<String> = server.all("postgres", kept);
    for (name, what, _) in &expected {
        assert!(kept.iter().any(|kept| kept.contains(name) && kept.contains(what)), "{kept:?}");
    }
    assert!(!attempt.details.contains("warnings"), "{attempt:?}");
    let check = "SELECT status FROM verify_workflow_events() WHERE check_name = 'worker'";
    assert_eq!(server.ask::<String>(check), "ok");
    // It goes when nothing keeps it any more.
    server.run(
        "postgres",
        &format!("SELECT t.finish(2, 3), release_workflow_events_partition('{held}')"),
    );
    server.look("postgres");
    for name in [needed, later, gone, held] {
        assert_eq!(server.place_of("postgres", &name), "gone");
    }
    server.assert_quiet(2);
}

/// What says that a run goes on, and what of it is there.
#[test]
fn the_runs_may_say_it_in_many_ways() {
    let server = server();
    server.run("postgres", "SELECT t.add(-21, 1), t.add(-20, 2), t.finish(2)");
    let (going_on, over) = (server.month(-21), server.month(-20));
    const OF_TYPE: &str = "ALTER TABLE workflow_runs DROP CONSTRAINT workflow_runs_status_check, \
                           ALTER status DROP DEFAULT, ALTER status TYPE {} USING status::text::{}";
    let of_type = |name: &str| OF_TYPE.replace("{}", name);
    let without_finish = "ALTER TABLE workflow_runs DROP COLUMN finished_at";
    let cases = [
        (String::new(), true),
        (of_type("varchar(20)"), true),
        (format!("{}; {without_finish}", of_type("varchar(20)")), true),
        (
            format!(
                "CREATE TYPE run_status AS ENUM ('succeeded', 'running', 'lost'); {}; {without_finish}",
                of_type("run_status")
            ),
            true,
        ),
        (without_finish.to_owned(), true),
        (
            format!(
                "ALTER TABLE workflow_runs ALTER status DROP NOT NULL; {without_finish}; \
                 UPDATE workflow_runs SET status = NULL WHERE id = t.run(1)"
            ),
            true,
        ),
        ("ALTER TABLE workflow_runs DROP COLUMN status".to_owned(), true),
        // Nothing says it: a month goes by its age alone.
        (format!("ALTER TABLE workflow_runs DROP COLUMN status; {without_finish}"), false),
    ];
    for (change, is_known) in cases {
        let mut client = server.connect("postgres");
        client.batch_execute(&format!("BEGIN; {change}")).unwrap();
        let plan = format!(
            "SELECT action FROM plan_workflow_events_maintenance() \
             WHERE partition_name IN ('{going_on}', '{over}') ORDER BY partition_name"
        );
        let first = if is_known { "keep" } else { "detach" };
        let mut planned = names(&mut client, &plan);
        planned.sort_by_key(|action| action != first);
        assert_eq!(planned, [first, "detach"], "{change}");
        let expected =
            if is_known { vec![over.clone()] } else { vec![going_on.clone(), over.clone()] };
        assert_eq!(names(&mut client, DROP), expected, "{change}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}

#[test]
fn what_can_not_be_told_is_kept() {
    let mut server = server();
    // One that goes on, with no event there: without any, the events need not be looked at.
    server.run("postgres", "SELECT t.add(-21, 1), t.finish(1), t.new_run(2)");
    let old = server.month(-21);
    server.give_log("postgres", "keeper");
    for (table, other) in [("workflow_runs", old.as_str()), (old.as_str(), "workflow_runs")] {
        // In this order, and before the worker looks: there is no moment at which it could be told.
        server.run("postgres", &format!("REVOKE SELECT ON {table} FROM keeper"));
        server.run("postgres", &format!("GRANT SELECT ON {other} TO keeper"));
        server.turn_on_and_restart();
        let planned = server.planned_for("postgres", &old);
        assert!(
            matches!(&planned[..], [(action, reason)] if action == "keep" && reason.contains("is not known")),
            "{planned:?}"
        );
        let (mut client, notices) = server.connect_with_notices();
        assert_eq!(names(&mut client, DROP), Vec::<String>::new(), "{table}");
        let notice = notices.lock().unwrap().pop().expect("it says so");
        assert!(notice.message().contains("is not known"), "{notice:?}");
        assert_eq!(notice.hint(), Some("It is kept until that can be told."));
        // Somebody should look at that.
        let attempt = server.pass("postgres");
        assert_eq!(attempt.status, "warning", "{attempt:?}");
        assert!(attempt.details.contains("is not known"), "{attempt:?}");
        assert_eq!(server.place_of("postgres", &old), "attached", "{table}");
    }
    server.run("postgres", &format!("GRANT SELECT ON {old} TO keeper"));
    server.look("postgres");
    assert_eq!(server.place_of("postgres", &old), "gone", "{}", server.log());
}

#[test]
fn row_level_security_that_is_forced_on_the_owner_hides_no_run() {
    let mut server = server();
    server.run("postgres", "SELECT t.add(-21, 1)");
    let old = server.month(-21);
    server.give_log("postgres", "keeper");
    server.turn_on_and_restart();
    for table in ["workflow_runs", "workflow_events", old.as_str()] {
        server.run(
            "postgres",
            &format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
        );
    }
    let planned = server.planned_for("postgres", &old);
    assert!(
        matches!(&planned[..], [(action, reason)] if action == "keep" && reason.contains("1 run(s) that are not finished")),
        "{planned:?}"
    );
    let attempt = server.pass("postgres");
    assert_eq!(attempt.status, "ok", "{attempt:?}");
    assert_eq!(server.place_of("postgres", &old), "attached");
    server.run("postgres", "SELECT t.finish(1)");
    server.look("postgres");
    assert_eq!(server.place_of("postgres", &old), "gone", "{}", server.log());
}

#[test]
fn runs_and_events_may_belong_to_two_roles() {
    let mut server = server();
    server.run("postgres", "SELECT t.add(-21, 1), t.add(-20, 2), t.finish(2)");
    let (going_on, over) = (server.month(-21), server.month(-20));
    server.give_log("postgres", "keeper");
    server.run("postgres", "CREATE ROLE runner; ALTER TABLE workflow_runs OWNER TO runner");
    // The one may not read what is the other's.
    let readable = "SELECT has_table_privilege('keeper', 'workflow_runs', 'SELECT') \
                        OR has_table_privilege('runner', 'workflow_events', 'SELECT')";
    assert!(!server.ask::<bool>(readable));
    let mut client = server.connect("postgres");
    client.batch_execute("BEGIN").unwrap();
    assert_eq!(names(&mut client, DROP), vec![over.clone()]);
    client.batch_execute("ROLLBACK").unwrap();
    drop(client);
    server.turn_on_and_restart();
    server.look("postgres");
    assert_eq!(server.place_of("postgres", &over), "gone", "{}", server.log());
    assert_eq!(server.place_of("postgres", &going_on), "attached");
}

/// The worker's whole way; and what the plan says before each pass.
#[test]
fn a_month_is_parked_out_of_sight_and_dropped_when_its_time_has_come() {
    for (has_default, grace) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut server = server();
        server.run(
            "postgres",
            "CREATE ROLE reader; GRANT SELECT ON workflow_events TO reader; SELECT t.add(-21, 1), t.finish(1)",
        );
        let old = server.month(-21);
        server.run("postgres", &format!("GRANT SELECT ON {old} TO reader"));
        if grace {
            server.run("postgres", "UPDATE meshhook_events.policy SET grace = DEFAULT");
        }
        if has_default {
            server.run("postgres", "CREATE TABLE rest PARTITION OF workflow_events DEFAULT");
        }
        server.turn_on_and_restart();
        // It looks at the log by itself when it starts.
        let case = format!("DEFAULT partition: {has_default}, grace: {grace}\n");
        let attempt = server.pass("postgres");
        assert_eq!(attempt.status, "ok", "{case}{attempt:?}");
        if !grace {
            assert_eq!(server.place_of("postgres", &old), "gone", "{case}{}", server.log());
            continue;
        }
        assert_eq!(server.place_of("postgres", &old), "parked", "{case}{}", server.log());
        let readers = format!(
            "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a \
             WHERE c.relname = '{old}' AND a.grantee <> c.relowner"
        );
        assert_eq!(server.ask::<i64>(&readers), 0, "{case}others may use it");
        assert!(
            !server
                .ask::<bool>(&format!("SELECT has_table_privilege('reader', '{old}', 'SELECT')"))
        );

        // Before its time nothing is done; and nothing is written but once.
        let planned = server.planned_for("postgres", &old);
        assert!(
            matches!(&planned[..], [(action, reason)] if action == "keep" && reason.contains("parked")),
            "{case}{planned:?}"
        );
        let aged = |days: i32| {
            format!(
                "UPDATE meshhook_events.retired_partition SET detached_at = now() - {days} * interval '1 day'"
            )
        };
        for days in [0, 6] {
            server.run("postgres", &aged(days));
            server.look("postgres");
            assert_eq!(server.place_of("postgres", &old), "parked", "{case}");
        }
        server.run("postgres", &aged(7));
        let planned = server.planned_for("postgres", &old);
        assert!(matches!(&planned[..], [(action, _)] if action == "drop"), "{case}{planned:?}");
        server.look("postgres");
        assert_eq!(server.place_of("postgres", &old), "gone", "{case}{}", server.log());
        assert_eq!(server.planned_for("postgres", &old), [], "{case}");
        let notes = "SELECT count(*) FROM meshhook_events.retired_partition";
        assert_eq!(server.ask::<i64>(notes), 0, "{case}");
    }
}

#[test]
fn the_plan_says_that_a_month_is_detached_and_how_it_goes_on() {
    let server = server();
    server.run("postgres", "SELECT t.add(-21, 1), t.finish(1)");
    let old = server.month(-21);
    for (grace, default, how) in [
        ("0", "", "then it is dropped"),
        ("7 days", "", "then it is parked"),
        ("7 days", "CREATE TABLE rest PARTITION OF workflow_events DEFAULT", "then it is parked"),
    ] {
        server.run(
            "postgres",
            &format!("UPDATE meshhook_events.policy SET grace = '{grace}'; {default}"),
        );
        let planned = server.planned_for("postgres", &old);
        assert!(
            matches!(&planned[..], [(action, reason)] if action == "detach" && reason.contains(how)),
            "{planned:?}"
        );
    }
    server.run("postgres", "UPDATE meshhook_events.policy SET grace = '0'");
    let planned = server.planned_for("postgres", &old);
    assert!(matches!(&planned[..], [(action, _)] if action == "drop"), "{planned:?}");
    server.run("postgres", "SELECT t.reopen(1)");
    let planned = server.planned_for("postgres", &old);
    assert!(
        matches!(&planned[..], [(action, reason)] if action == "keep" && reason.contains(&run(1))),
        "{planned:?}"
    );
}

/// A parked month that somebody attaches by his own hand, and takes out by his own hand later, is no longer parked.
#[test]
fn what_somebody_has_put_back_and_taken_out_himself_is_his() {
    let server = server();
    server.run("postgres", "SELECT t.add(-21, 1), t.finish(1)");
    let old = server.month(-21);
    server.run("postgres", "SELECT drop_old_workflow_events_partitions(grace => '1 day')");
    assert_eq!(server.place_of("postgres", &old), "parked");
    let attach = "SELECT format('ALTER TABLE workflow_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', \
                  partition_name, range_start, range_end) FROM meshhook_events.retired_partition";
    let attach: String = server.ask(attach);
    server.run("postgres", &format!("{attach}; SELECT t.reopen(1)"));
    server.run("postgres", DROP);
    assert_eq!(server.place_of("postgres", &old), "attached");
    server.run(
        "postgres",
        &format!(
            "ALTER TABLE workflow_events DETACH PARTITION {old}; SELECT t.finish(1); \
             UPDATE meshhook_events.retired_partition SET detached_at = detached_at - interval '30 days'"
        ),
    );
    server.run("postgres", DROP);
    assert_eq!(server.place_of("postgres", &old), "aside");
}

/// A status whose text is slow to make out once the run has finished. Nobody would write such a cast; but where there are
/// many runs, looking at all of them takes as long.
const SLOW_STATUS: &str = "CREATE TYPE run_status AS ENUM ('running', 'succeeded'); \
    ALTER TABLE workflow_runs DROP CONSTRAINT workflow_runs_status_check, ALTER status DROP DEFAULT, \
                              ALTER status TYPE run_status USING status::run_status; \
    CREATE FUNCTION slow_text(status run_status) RETURNS text LANGUAGE plpgsql IMMUTABLE COST 1000000 AS \
        $$ BEGIN IF status = 'succeeded' THEN PERFORM pg_sleep(0.3); END IF; RETURN format('%s', status); END $$; \
    CREATE CAST (run_status AS text) WITH FUNCTION slow_text(run_status)";

/// Others would wait while it is looked at once more; and by the indexes that the hint names it is quick.
#[test]
fn a_month_is_kept_where_the_look_at_the_runs_is_slow_until_they_have_the_indexes_of_the_hint() {
    let server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
    server.set_up_months("postgres");
    server.run("postgres", "UPDATE meshhook_events.policy SET retention = '12 months'");
    server.run("postgres", "SELECT t.add(-21, 1), t.finish(1)");
    let old = server.month(-21);
    server.run("postgres", SLOW_STATUS);
    let (mut client, notices) = server.connect_with_notices();
    assert_eq!(names(&mut client, DROP), Vec::<String>::new());
    assert_eq!(server.place_of("postgres", &old), "attached");
    let notice = notices.lock().unwrap().pop().expect("it says so");
    let message = notice.message();
    assert!(
        message.contains(&format!("looking for runs that need partition \"{old}\" took")),
        "{notice:?}"
    );
    let hint = notice.hint().expect("it says what helps");
    assert_eq!(hint.matches("CREATE INDEX CONCURRENTLY").count(), 2, "{hint}");
    for statement in hint.split_terminator(';') {
        server.run("postgres", statement);
    }
    // A machine that is busy for a moment is as slow as a look without them.
    server.wait_until("the look is quick", |server| {
        names(&mut server.connect("postgres"), DROP) == [old.as_str()]
    });
    server.wait_until("both indexes were used", |server| {
        server.ask(
            "SELECT count(*) = 2 AND bool_and(idx_scan > 0) FROM pg_stat_user_indexes \
             WHERE relname = 'workflow_runs' AND indexrelname LIKE 'workflow\\_runs\\_id\\_idx%'",
        )
    });
}
