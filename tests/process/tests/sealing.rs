//! Sealed months: a month that is closed is frozen, counted and digested once, and again where its rows have changed; one
//! altered, missing or added row is found; nobody waits for it.

use std::fs;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use process::{Attempt, Mode, Server};

/// The months that have ended, in a server whose log also has the third month before the current one.
const CLOSED: [i32; 3] = [-3, -2, -1];

/// How many events each of them has.
const EVENTS: i64 = 500;

/// A server with the worker off and no autovacuum, whose log has three closed months, each with events of two runs, the
/// names of those months, and the runs.
fn with_closed_months() -> (Server, [String; 3], [String; 2]) {
    let server = Server::with_nothing_going_on();
    let runs = [(); 2].map(|()| server.make_run("postgres"));
    server.run(
        "postgres",
        "UPDATE meshhook_events.policy SET seal_after = '0 days'; \
         SELECT create_workflow_events_partition(date_trunc('month', now() AT TIME ZONE 'UTC')::date - interval '3 months')",
    );
    let months = CLOSED.map(|ahead| server.month(ahead));
    for month in &months {
        server.run(
            "postgres",
            &format!(
                "INSERT INTO workflow_events (run_id, ts, type, payload) \
                 SELECT ('{{{}}}'::uuid[])[1 + n % 2], {} + n * interval '1 s', 't', \
                        jsonb_build_object('text', 'needle-' || n) FROM generate_series(1, {EVENTS}) n",
                runs.join(","),
                start_of(month)
            ),
        );
    }
    (server, months, runs)
}

/// An expression: when a month begins.
fn start_of(month: &str) -> String {
    let name = month.trim_start_matches("workflow_events_y");
    format!("timestamptz '{}-{}-01 00:00+00'", &name[..4], &name[5..])
}

/// The same, sealed by the worker.
fn with_sealed_months() -> (Server, [String; 3], [String; 2]) {
    let (mut server, months, runs) = with_closed_months();
    server.turn_on();
    let attempt = server.wait_for("the months are sealed", |server| {
        ended(server).filter(|attempt| attempt.status == "ok")
    });
    server.wait_until_idle();
    assert_eq!(named(&attempt, "sealed"), months, "{attempt:?}");
    (server, months, runs)
}

/// The last attempt to seal that has ended.
fn ended(server: &Server) -> Option<Attempt> {
    server.attempts_at("postgres", "seal").into_iter().find(|attempt| attempt.status != "running")
}

/// The names in a list of an attempt's details.
fn named(attempt: &Attempt, list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let Some((_, rest)) = attempt.details.split_once(&format!("\"{list}\": [")) else {
        return names;
    };
    let list = rest.split(']').next().unwrap();
    names.extend(
        list.split("\"partition\": \"").skip(1).map(|p| p.split('"').next().unwrap().into()),
    );
    names
}

/// What is noted of all months, without what tells of changes.
fn seals(server: &Server) -> Vec<String> {
    server.all(
        "postgres",
        "SELECT concat_ws(' ', partition_name, row_count, digest, sealed_at, previous_row_count, previous_digest) \
         FROM meshhook_events.sealed_partition ORDER BY range_start",
    )
}

/// One column of what is noted of a month.
fn noted(server: &Server, month: &str, column: &str) -> String {
    server.ask(&format!(
        "SELECT {column}::text FROM meshhook_events.sealed_partition WHERE partition_name = '{month}'"
    ))
}

/// The check of the health check, with status.
fn check(server: &Server, database: &str, recompute: bool) -> String {
    server.ask_in(
        database,
        &format!(
            "SELECT status || ': ' || detail FROM verify_workflow_events({recompute}) WHERE check_name = 'sealed'"
        ),
    )
}

/// A session in whose way VACUUM is: it waits until nobody looks at a page that it freezes.
fn pin(server: &Server, month: &str) -> Client {
    let mut session = server.connect("postgres");
    let cursor = format!("BEGIN; DECLARE c CURSOR FOR SELECT * FROM {month}; FETCH 1 FROM c");
    session.batch_execute(&cursor).unwrap();
    session
}

/// Waits until the worker waits for that page, and gives its process.
fn wait_for_pinned_worker(server: &Server) -> i32 {
    server.wait_for("the worker waits for a page", |server| {
        let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_meshhook_events worker' \
                     AND wait_event = 'BufferPin'";
        server.all("postgres", query).pop()
    })
}

#[test]
fn a_month_that_is_closed_is_frozen_counted_and_digested_once() {
    let (server, months, _) = with_sealed_months();
    for month in &months {
        assert_eq!(noted(&server, month, "row_count"), EVENTS.to_string());
        let frozen = format!(
            "SELECT relallvisible = relpages AND relpages > 0 \
                    AND relfrozenxid::text::bigint > (SELECT max(xmin::text::bigint) FROM {month}) \
             FROM pg_class WHERE relname = '{month}'"
        );
        assert!(server.ask::<bool>(&frozen), "{month}");
    }
    let others = "SELECT count(*) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid \
                  WHERE i.inhparent = 'workflow_events'::regclass AND relallvisible > 0";
    assert_eq!(server.ask::<i64>(others), 3, "what isn't closed is left alone");
    // The same rows at other times have other digests.
    let digests = "SELECT count(DISTINCT digest) FROM meshhook_events.sealed_partition \
                   WHERE digest ~ '^[0-9a-f]{64}$'";
    assert_eq!(server.ask::<i64>(digests), 3);
    let log = "SELECT reltuples::bigint FROM pg_class WHERE oid = 'workflow_events'::regclass";
    assert_eq!(server.ask::<i64>(log), 3 * EVENTS, "the log as a whole is analyzed");

    // Once; and the events that the health check tries out and takes back are no changes.
    check(&server, "postgres", false);
    let before = (seals(&server), ended(&server));
    let vacuums = "SELECT sum(vacuum_count)::bigint FROM pg_stat_user_tables";
    let vacuumed: i64 = server.ask(vacuums);
    for _ in 0..3 {
        server.look("postgres");
    }
    assert_eq!((seals(&server), ended(&server)), before);
    assert_eq!(server.ask::<i64>(vacuums), vacuumed);
    let entries = server.attempts_at("postgres", "seal");
    assert!(entries.len() == 1, "{entries:?}");
    assert_eq!(check(&server, "postgres", false), "ok: 3 partitions are sealed");
    assert_eq!(
        check(&server, "postgres", true),
        "ok: 3 partitions are sealed; their rows are those that were sealed"
    );
}

#[test]
fn what_has_changed_since_is_sealed_anew_and_the_ledger_shows_both_digests() {
    let (server, months, runs) = with_sealed_months();
    let [oldest, middle, _] = &months;
    let digest = noted(&server, middle, "digest");
    let late = format!(
        "INSERT INTO workflow_events (run_id, ts, type, payload) VALUES ('{}', {}, 'late', '{{}}')",
        runs[0],
        start_of(middle)
    );
    server.run("postgres", &late);
    server.wait_until("the change is counted", |server| {
        check(server, "postgres", false)
            == format!("ok: 3 partitions are sealed; to be looked at again: \"{middle}\"")
    });
    server.look("postgres");
    let attempt = ended(&server).unwrap();
    assert_eq!(
        (named(&attempt, "resealed"), named(&attempt, "sealed")),
        (vec![middle.clone()], vec![])
    );
    let now = noted(&server, middle, "digest");
    assert_ne!(now, digest);
    for text in [&now, &digest, &format!("{}", EVENTS + 1)] {
        assert!(attempt.details.contains(text), "{text}: {attempt:?}");
    }
    assert_eq!(noted(&server, middle, "previous_digest"), digest);
    assert_eq!(noted(&server, middle, "previous_row_count"), EVENTS.to_string());
    assert_eq!(noted(&server, oldest, "coalesce(previous_digest, 'none')"), "none");

    // A run goes, and its events in every month with it.
    server.run("postgres", &format!("DELETE FROM workflow_runs WHERE id = '{}'", runs[1]));
    server.wait_until("the changes are counted", |server| {
        months.iter().all(|month| check(server, "postgres", false).contains(month))
    });
    server.look("postgres");
    assert_eq!(named(&ended(&server).unwrap(), "resealed"), months);
    assert_eq!(noted(&server, oldest, "row_count"), (EVENTS / 2).to_string());
    assert_eq!(
        check(&server, "postgres", true),
        "ok: 3 partitions are sealed; their rows are those that were sealed"
    );
    assert_eq!(noted(&server, middle, "previous_digest"), now);
}

#[test]
fn one_altered_missing_or_added_row_is_found() {
    let (mut server, months, runs) = with_sealed_months();
    server.set_conf("pg_meshhook_events.enabled", "off");
    server.restart();
    let [oldest, middle, youngest] = &months;
    server.run(
        "postgres",
        &format!(
            "UPDATE {oldest} SET payload = '{{}}' WHERE id = (SELECT min(id) FROM {oldest}); \
             DELETE FROM {middle} WHERE id = (SELECT max(id) FROM {middle}); \
             INSERT INTO workflow_events (run_id, ts, type, payload) VALUES ('{}', {}, 't', '{{}}')",
            runs[0],
            start_of(youngest)
        ),
    );
    server.wait_until("the changes are counted", |server| {
        months.iter().all(|month| check(server, "postgres", false).contains(month))
    });
    assert_eq!(
        check(&server, "postgres", true),
        format!(
            "failed: \"{oldest}\" has {EVENTS} rows as when it was sealed, but not the same, by statements since; \
             \"{middle}\" has 1 row(s) fewer than when it was sealed, by statements since; \
             \"{youngest}\" has 1 row(s) more than when it was sealed, by statements since"
        )
    );
}

#[test]
fn a_row_that_no_statement_has_altered_is_found() {
    let (mut server, months, _) = with_sealed_months();
    let file: String = server.ask(&format!("SELECT pg_relation_filepath('{}')", months[1]));
    server.set_conf("pg_meshhook_events.enabled", "off");
    server.stop(Mode::Fast);
    let path = server.data().join(file);
    let mut bytes = fs::read(&path).unwrap();
    let needle = b"needle-123";
    let at = bytes.windows(needle.len()).position(|part| part == needle).unwrap();
    bytes[at] = b'N';
    fs::write(&path, bytes).unwrap();
    // Where pages have checksums, as 18 has them by default, the server would find this one by itself.
    server.set_conf("ignore_checksum_failure", "on");
    server.start();
    assert_eq!(check(&server, "postgres", false), "ok: 3 partitions are sealed");
    assert_eq!(
        check(&server, "postgres", true),
        format!(
            "failed: \"{}\" has {EVENTS} rows as when it was sealed, but not the same, though no statement since is known",
            months[1]
        )
    );
}

#[test]
fn a_seal_still_verifies_after_dump_and_restore() {
    let (server, months, _) = with_sealed_months();
    let dump = server.command("pg_dump").arg("postgres").stdin(Stdio::null()).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    server.create_database("copy");
    server.script("copy", &String::from_utf8(dump.stdout).unwrap());
    // The columns stand in the same order there; seals don't depend on it.
    server.wait_until("the copy was looked at", |server| {
        server.look("copy");
        check(server, "copy", false) == "ok: 3 partitions are sealed"
    });
    assert_eq!(
        check(&server, "copy", true),
        "ok: 3 partitions are sealed; their rows are those that were sealed"
    );
    let same = "SELECT string_agg(partition_name || digest || sealed_at || coalesce(previous_digest, '-'), ' ' \
                                  ORDER BY range_start) FROM meshhook_events.sealed_partition";
    assert_eq!(server.ask_in::<String>("copy", same), server.ask_in::<String>("postgres", same));
    let anew = "SELECT count(*) FROM meshhook_events.maintenance_log WHERE details ? 'resealed'";
    assert_eq!(server.ask_in::<i64>("copy", anew), 0);
    server.run("copy", &format!("DELETE FROM {} WHERE payload ->> 'text' = 'needle-7'", months[0]));
    assert!(check(&server, "copy", true).starts_with("failed: "));
}

#[test]
fn after_a_crash_months_are_looked_at_again_and_nothing_is_said_of_it() {
    let (mut server, ..) = with_sealed_months();
    let before = (seals(&server), ended(&server).map(|attempt| attempt.id));
    server.stop(Mode::Immediate);
    server.start();
    server.wait_until("they are looked at again", |server| {
        let waiting = "SELECT count(*) FROM meshhook_events.sealed_partition s \
                       WHERE changes <> 0 OR pg_stat_get_vacuum_count(relation) = 0";
        server.ask::<i64>(waiting) == 0
    });
    server.wait_until_idle();
    assert_eq!(seals(&server), before.0);
    let said = "SELECT count(*) FROM meshhook_events.maintenance_log WHERE details ? 'resealed'";
    assert_eq!(server.ask::<i64>(said), 0);
    assert_eq!(check(&server, "postgres", false), "ok: 3 partitions are sealed");
}

#[test]
fn a_month_that_somebody_has_locked_is_sealed_later_and_nobody_waits() {
    let (mut server, months, runs) = with_closed_months();
    let mut holder = server.connect("postgres");
    let lock = format!("BEGIN; LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", months[1]);
    holder.batch_execute(&lock).unwrap();
    server.wait_until("the holder's transaction is older than a second", |server| {
        server.ask(
            "SELECT bool_or(xact_start < now() - interval '1.1 s') FROM pg_stat_activity \
             WHERE state = 'idle in transaction'",
        )
    });
    server.turn_on();
    let attempt = server.wait_for("the others are sealed", |server| {
        ended(server).filter(|attempt| attempt.status == "warning")
    });
    assert!(attempt.details.contains("is in use by a longer transaction"), "{attempt:?}");
    assert_eq!(seals(&server).len(), 2, "{attempt:?}");
    // Nothing stands in the way of those who read and write it.
    let mut client = server.connect("postgres");
    client.batch_execute("SET lock_timeout = '1ms'").unwrap();
    client
        .batch_execute(&format!(
            "INSERT INTO workflow_events (run_id, ts, type, payload) VALUES ('{}', {}, 't', '{{}}')",
            runs[0],
            start_of(&months[1])
        ))
        .unwrap();
    holder.batch_execute("COMMIT").unwrap();
    server.wait_until("it is sealed", |server| seals(server).len() == 3);
    assert_eq!(noted(&server, &months[1], "row_count"), (EVENTS + 1).to_string());
}

#[test]
fn sealing_gives_way_to_whoever_needs_the_month_and_ends_at_once_when_told() {
    let (mut server, months, _) = with_closed_months();
    let mut reader = pin(&server, &months[0]);
    server.turn_on();
    wait_for_pinned_worker(&server);
    // Whoever changes the table waits for deadlock_timeout at most, however long the worker would go on.
    server.run("postgres", &format!("ALTER TABLE {} SET (fillfactor = 90)", months[0]));
    let attempt = server.wait_for("the attempt has ended", ended);
    assert!(attempt.details.contains("it was cut short"), "{attempt:?}");
    assert_eq!(seals(&server).len(), 2, "the others are sealed all the same: {attempt:?}");
    let worker = wait_for_pinned_worker(&server);
    server.terminate(worker);
    reader.batch_execute("COMMIT").unwrap();
    server.wait_until("it is sealed", |server| {
        if server.workers(None).is_empty() {
            server.wake("postgres");
        }
        seals(server).len() == 3
    });
}

#[test]
fn a_worker_that_is_killed_in_the_middle_is_followed_by_one_that_seals() {
    let (mut server, months, _) = with_closed_months();
    let reader = pin(&server, &months[1]);
    server.turn_on();
    let worker = wait_for_pinned_worker(&server);
    assert_eq!(seals(&server).len(), 1, "what was sealed before is noted");
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    server.wait_until("the crash is over", |server| {
        server.log().contains("terminated by signal 9") && server.try_connect("postgres").is_ok()
    });
    drop(reader);
    server.wait_until("all are sealed", |server| seals(server).len() == 3);
    server.wait_until_idle();
    let statuses: Vec<_> =
        server.attempts_at("postgres", "seal").into_iter().map(|attempt| attempt.status).collect();
    assert!(statuses.contains(&"crashed".to_owned()) && statuses[0] == "ok", "{statuses:?}");
    assert!(check(&server, "postgres", true).starts_with("ok: 3 partitions are sealed"));
}

#[test]
fn nothing_is_sealed_where_that_is_not_wanted_or_not_possible() {
    let (mut server, months, _) = with_closed_months();
    server.run(
        "postgres",
        &format!(
            "UPDATE meshhook_events.policy SET seal_after = NULL; \
             CREATE TABLE elsewhere PARTITION OF workflow_events DEFAULT; DROP TABLE {}",
            months[0]
        ),
    );
    server.turn_on();
    server.look("postgres");
    assert_eq!(seals(&server), Vec::<String>::new());
    assert_eq!(server.attempts_at("postgres", "seal"), []);
    assert_eq!(check(&server, "postgres", true), "ok: none is sealed");
    server.run("postgres", "UPDATE meshhook_events.policy SET seal_after = '1 month'");
    server.look("postgres");
    // The last month has just ended, or has a few days to go; the DEFAULT partition never ends.
    assert_eq!(seals(&server).len(), 1, "{:?}", seals(&server));
}
