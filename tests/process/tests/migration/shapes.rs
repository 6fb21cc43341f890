//! Tables that are not as usual: hidden rows, odd columns, other periods, ids everywhere.

use process::{Form, OWNER};

use crate::stage::*;

/// Columns of many types, some of them gone, and rows that are as awkward as rows can be.
const AWKWARD: &str = r#"
    ALTER TABLE workflow_events DROP COLUMN created_at CASCADE;
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE DOMAIN plain_text AS text;
    ALTER TABLE workflow_events
        ADD COLUMN gone int, ADD COLUMN note varchar(9) COLLATE "C", ADD COLUMN "Odd, ""name""" text[],
        ADD COLUMN raw bytea, ADD COLUMN real float8, ADD COLUMN span interval, ADD COLUMN amount numeric(30,10) DEFAULT 1.5,
        ADD COLUMN during tstzrange, ADD COLUMN place point, ADD COLUMN raw_json json, ADD COLUMN mood mood,
        ADD COLUMN bits bit(3), ADD COLUMN plain plain_text, ADD COLUMN search tsvector,
        ADD COLUMN twice numeric GENERATED ALWAYS AS (amount * 2) STORED, ADD COLUMN own workflow_runs;
    ALTER TABLE workflow_events DROP COLUMN gone;
    INSERT INTO workflow_events (run_id, ts, type, payload, note, "Odd, ""name""", raw, real, span, amount, during, place,
                                 raw_json, mood, bits, plain, search, own)
    SELECT t.run(1), t.start(n % 3), 'awkward', jsonb_build_object('n', n, 'text', repeat(md5(n::text), n * 10)),
           CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE E'\\N"\n' END, ARRAY['a', NULL, E'"\\', repeat('x', n)],
           decode(repeat('00ff', n * 50), 'hex'), CASE n % 3 WHEN 0 THEN 'NaN'::float8 WHEN 1 THEN '-Infinity' ELSE 0.1 * n END,
           make_interval(0, n, 0, -n), CASE WHEN n % 5 = 0 THEN 'NaN' ELSE n / 7.0 END, tstzrange(t.start(0), NULL),
           point(n, 0.1), '{"b": 1,  "a":2, "a" :3}', CASE WHEN n % 2 = 0 THEN 'good'::mood END, B'101', 'p',
           to_tsvector('simple', 'a b c'), (SELECT r FROM workflow_runs r WHERE r.id = t.run(2))
    FROM generate_series(1, 120) n;
"#;

fn as_owner(stage: &Stage, sql: &str) {
    stage.server.script(DATABASE, &format!("SET ROLE {OWNER};\n{sql}"));
}

#[test]
fn odd_columns_and_rows_come_along_as_they_are() {
    let stage = Stage::new(Form::Current);
    as_owner(&stage, AWKWARD);
    let text = "SELECT string_agg(md5(to_jsonb(e)::text || md5(e.raw_json::text)), '' ORDER BY id) FROM workflow_events e";
    let before: String = stage.server.ask(text);
    let plain = stage.definition();
    stage.migrate();
    assert_eq!(stage.server.ask::<String>(text), before);
    stage.call(process::UNDO);
    assert_eq!(stage.server.ask::<String>(text), before);
    assert_same(&stage.definition(), &plain, &[]);
}

/// Row level security that is forced on the owner hides from him what he is to copy: not while it is copied.
#[test]
fn row_level_security_that_is_forced_on_the_owner_hides_no_row() {
    let stage = Stage::new(Form::Older);
    as_owner(
        &stage,
        "ALTER TABLE workflow_events FORCE ROW LEVEL SECURITY; ALTER TABLE workflow_runs FORCE ROW LEVEL SECURITY",
    );
    let mut owner = stage.server.connect_as(DATABASE, OWNER);
    let mut seen = || -> i64 {
        owner.query_one("SELECT count(*) FROM workflow_events", &[]).expect("it can be read").get(0)
    };
    assert_eq!(seen(), 0);
    stage.migrate();
    stage.assert_same_rows();
    assert_eq!(seen(), 0);
    stage.call(process::UNDO);
    stage.assert_same_rows();
    assert_eq!(seen(), 0);
}

/// Weeks of another time zone, as the policy says before.
#[test]
fn the_policy_says_what_partitions_are_made() {
    let stage = Stage::new(Form::Current);
    stage.server.run(
        DATABASE,
        "INSERT INTO meshhook_events.policy (granularity, time_zone) VALUES ('week', 'Europe/Berlin')",
    );
    stage.migrate();
    stage.assert_same_rows();
    let wrong: Vec<String> = stage.server.all(
        DATABASE,
        "SELECT DISTINCT e.tableoid::regclass || ' has ' || e.ts FROM workflow_events e \
         WHERE e.tableoid <> format('workflow_events_y%sw%s', to_char(e.ts AT TIME ZONE 'Europe/Berlin', 'IYYY'), \
                                    to_char(e.ts AT TIME ZONE 'Europe/Berlin', 'IW'))::regclass",
    );
    assert_eq!(wrong, Vec::<String>::new());
    stage.undo();
    stage.assert_same_rows();
}

/// Ids need not be positive, nor dense; and those of the log may have come to their greatest.
#[test]
fn ids_lie_everywhere() {
    let stage = Stage::new(Form::Current);
    stage.server.run(
        DATABASE,
        "INSERT INTO workflow_events (id, run_id, ts, type, payload) \
         SELECT id, t.run(1), t.start(-1), 'untold', '1' \
         FROM unnest('{-9223372036854775808,-9223372036854775807,-1,0,9223372036854775806,9223372036854775807}'::bigint[]) id",
    );
    let rows = stage.server.rows_of(DATABASE, "workflow_events");
    stage.migrate();
    assert_eq!(stage.server.rows_of(DATABASE, "workflow_events"), rows);
    stage.undo();
    assert_eq!(stage.server.rows_of(DATABASE, "workflow_events"), rows);
}

/// Nothing is in it.
#[test]
fn an_empty_table_is_migrated_as_well() {
    for form in Form::ALL {
        let stage = Stage::new(form);
        stage.server.run(DATABASE, "DELETE FROM workflow_events");
        stage.migrate();
        stage.server.run(
            DATABASE,
            "INSERT INTO workflow_events (run_id, type, payload) VALUES (t.run(1), 'untold', '1')",
        );
        stage.undo();
        assert_eq!(stage.server.ask::<i64>("SELECT count(*) FROM workflow_events"), 1);
    }
}

/// Two events of different months may have the same id as long as there are partitions; in a plain table they can't. Whichever
/// of them goes, the other one comes along.
#[test]
fn ids_that_occur_twice_are_named() {
    let stage = Stage::new(Form::Current);
    for (number, goes) in ["ts < t.start(0)", "ts = t.start(1)"].iter().enumerate() {
        stage.migrate();
        let id = 77 + i64::try_from(number).expect("it is small");
        stage.server.run(
            DATABASE,
            &format!(
                "DELETE FROM workflow_events WHERE id = {id}; \
                 INSERT INTO workflow_events (id, run_id, ts, type, payload) \
                 VALUES ({id}, t.run(1), t.start(-1), 'untold', '1'), ({id}, t.run(1), t.start(1), 'untold', '2')"
            ),
        );
        let rows = stage.server.rows_of(DATABASE, "workflow_events");
        let error = stage.error_of(process::UNDO);
        let names_it = error.message().contains(&id.to_string());
        assert!(names_it && error.hint().is_some(), "{error:?}");
        assert!(stage.is_partitioned());
        assert_eq!(stage.server.rows_of(DATABASE, "workflow_events"), rows);
        let delete = format!("DELETE FROM workflow_events WHERE id = {id} AND {goes}");
        stage.server.run(DATABASE, &delete);
        let rows = stage.server.rows_of(DATABASE, "workflow_events");
        stage.undo();
        assert_eq!(stage.server.rows_of(DATABASE, "workflow_events"), rows, "{goes}");
    }
}

/// Rows of a DEFAULT partition, which the months don't tell where it lies, are changed until the last moment.
#[test]
fn rows_of_a_default_partition_come_along() {
    let stage = Stage::new(Form::Current);
    stage.migrate();
    as_owner(
        &stage,
        "CREATE TABLE others PARTITION OF workflow_events DEFAULT; \
         INSERT INTO workflow_events (run_id, ts, type, payload) \
         SELECT t.run(1), '1999-01-01', 'untold', to_jsonb(n) FROM generate_series(1, 40) n",
    );
    let (under_way, holder) = crate::phases::Phase::Switching.reach(&stage, process::UNDO);
    stage.server.run(
        DATABASE,
        "UPDATE workflow_events SET payload = '0' WHERE ts = '1999-01-01' AND payload < '10'; \
         UPDATE workflow_events SET ts = t.start(0) WHERE ts = '1999-01-01' AND payload > '30'; \
         DELETE FROM workflow_events WHERE ts = '1999-01-01' AND payload = '15'; \
         UPDATE workflow_events SET ts = '1998-01-01' WHERE run_id = t.run(3) AND ts > t.start(0)",
    );
    let rows = stage.server.rows_of(DATABASE, "workflow_events");
    // Of these nothing is noted but that somebody has changed the copy.
    as_owner(&stage, "UPDATE workflow_events_shadow SET type = 'altered' WHERE ts = '1999-01-01'");
    let_go(holder);
    let answer = under_way.end();
    assert!(answer.is_ok(), "{answer:?}\n{}", stage.server.log());
    assert_eq!(stage.server.rows_of(DATABASE, "workflow_events"), rows);
}

/// What the session of the caller is like changes nothing.
#[test]
fn settings_of_the_session_change_nothing() {
    let stage = Stage::new(Form::Current);
    as_owner(
        &stage,
        "CREATE SCHEMA mine; CREATE FUNCTION mine.count(anyelement) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'; \
         CREATE TABLE mine.workflow_events (i int); CREATE TABLE mine.migration (i int)",
    );
    let settings = "SET search_path = mine, public; CREATE TEMP TABLE workflow_events (i int); SET TimeZone = 'Asia/Kolkata'; \
                    SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'; SET row_security = off; \
                    SET standard_conforming_strings = off; SET bytea_output = 'escape'; SET extra_float_digits = -10; \
                    SET default_toast_compression = 'pglz'; SET enable_indexscan = off; SET work_mem = '64kB'; \
                    SET statement_timeout = '1h'; SET quote_all_identifiers = on; SET array_nulls = off; \
                    SET constraint_exclusion = off; SET enable_partition_pruning = off; SET check_function_bodies = off; \
                    SET default_transaction_deferrable = on; SET transform_null_equals = on";
    for call in [process::MIGRATE, process::UNDO] {
        let call = call.replace("CALL ", "CALL public.");
        let answer = stage.begin(settings, &call).end();
        assert!(answer.is_ok(), "{answer:?}\n{}", stage.server.log());
        stage.assert_same_rows();
    }
    stage.assert_is_plain();
    // Each step sees what others have committed, whatever the session's transactions are like otherwise.
    for isolation in ["repeatable read", "serializable"] {
        let settings = format!("SET default_transaction_isolation = '{isolation}'");
        for call in [process::MIGRATE, process::UNDO] {
            let answer = stage.begin(&settings, call).end();
            assert!(answer.is_ok(), "{answer:?}\n{}", stage.server.log());
            stage.assert_same_rows();
        }
    }
    match stage.begin("SET default_transaction_read_only = on", process::MIGRATE).end() {
        Err(Some(error)) => assert_eq!(error.code().code(), "25006", "{error:?}"),
        answer => panic!("{answer:?}"),
    }
    stage.assert_is_plain();
}
