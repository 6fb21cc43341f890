//! Code that a table's owner has planted: it runs as the owner, gains nothing, and leaves nothing behind; and settings
//! that he may make neither stop nor steer maintenance.

use process::Server;

/// The role `tenant` owns the event log; a superuser's event trigger notes who runs DDL.
const GIVEN: &str = r"
GRANT CREATE, USAGE ON SCHEMA public TO tenant;
ALTER TABLE workflow_runs OWNER TO tenant;
DO $$
DECLARE t regclass;
BEGIN
    FOR t IN SELECT relid FROM pg_partition_tree('workflow_events') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO tenant', t);
    END LOOP;
END $$;

CREATE TABLE public.ddl_seen (who name, tag text);
GRANT INSERT ON public.ddl_seen TO PUBLIC;
CREATE FUNCTION public.note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.ddl_seen VALUES (current_user, tg_tag);
END $$;
CREATE EVENT TRIGGER note_ddl ON ddl_command_end EXECUTE FUNCTION public.note_ddl();
";

/// What he plants: an index, a CHECK and a DEFAULT call his function, which notes who runs it and tries to become more.
const PLANTED: &str = r"
CREATE SCHEMA trap;
CREATE TABLE trap.seen (who name, what text, outcome text);

CREATE FUNCTION trap.try(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE what;
    INSERT INTO trap.seen VALUES (current_user, what, 'done');
EXCEPTION WHEN OTHERS THEN
    INSERT INTO trap.seen VALUES (current_user, what, sqlstate);
END $$;

CREATE FUNCTION trap.spring() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Into the server's log, as what is noted in the table may be rolled back.
    RAISE LOG 'sprung by %', current_user;
    PERFORM trap.try('SET ROLE postgres');
    PERFORM trap.try('RESET ROLE');
    PERFORM trap.try('SET SESSION AUTHORIZATION postgres');
    PERFORM trap.try('RESET SESSION AUTHORIZATION');
    PERFORM trap.try('ALTER ROLE tenant SUPERUSER');
    PERFORM trap.try('CREATE TEMPORARY TABLE pg_class (i int)');
    PERFORM trap.try($q$SELECT set_config('search_path', 'trap, pg_catalog', false)$q$);
    PERFORM trap.try($q$SELECT set_config('TimeZone', 'Asia/Tokyo', false)$q$);
    PERFORM trap.try($q$SELECT set_config('default_transaction_read_only', 'on', false)$q$);
    PERFORM trap.try($q$SELECT set_config('statement_timeout', '1h', false)$q$);
    PERFORM trap.try($q$SELECT set_config('lock_timeout', '1h', false)$q$);
    PERFORM trap.try($q$SELECT set_config('pg_meshhook_events.lock_timeout', '10000', false)$q$);
    PERFORM trap.try($q$SELECT set_config('row_security', 'off', false)$q$);
    PERFORM trap.try($q$SELECT set_config('quote_all_identifiers', 'on', false)$q$);
END $$;

-- An immutable function is run while an index is built, and by the planner; it may call one that writes.
CREATE FUNCTION trap.bait(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM trap.spring();
    RETURN i;
END $$;
-- Whoever looks names up in his schema runs his code.
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    PERFORM trap.spring();
    RETURN pg_catalog.now();
END $$;
CREATE FUNCTION trap.current_database() RETURNS name LANGUAGE plpgsql AS $$
BEGIN
    PERFORM trap.spring();
    RETURN pg_catalog.current_database();
END $$;

ALTER TABLE public.workflow_events ADD COLUMN bait int DEFAULT trap.bait(1);
ALTER TABLE public.workflow_events ADD CONSTRAINT bait CHECK (trap.bait(2) = 2 AND bait IS NOT NULL);
CREATE INDEX bait ON public.workflow_events (trap.bait(3));
";

/// A server with the worker off and the planted database, which lacks the partitions of the next two months.
fn planted() -> (Server, [String; 2]) {
    let server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
    server.run("postgres", "CREATE ROLE tenant LOGIN");
    server.run("postgres", "CREATE DATABASE app OWNER tenant");
    server.set_up("app");
    server.run("app", GIVEN);
    // In a session of his own: in one of ours he would be set free by the first trap.
    server.connect_as("app", "tenant").batch_execute(PLANTED).unwrap();
    let missing = [1, 2].map(|ahead| server.drop_month("app", ahead));
    server.run("app", "TRUNCATE trap.seen, public.ddl_seen");
    (server, missing)
}

/// All settings of a session, with who it is.
fn settings(client: &mut postgres::Client) -> Vec<String> {
    let query = "SELECT name || ' = ' || setting FROM pg_settings \
                 UNION ALL SELECT 'user = ' || current_user || ', ' || session_user ORDER BY 1";
    client.query(query, &[]).unwrap().into_iter().map(|row| row.get(0)).collect()
}

/// The planted code has run, as the owner only, and gained nothing.
fn assert_nothing_gained(server: &Server) {
    assert!(server.log().contains("sprung by tenant"), "{}", server.log());
    assert!(!server.log().contains("sprung by postgres"), "{}", server.log());
    let gained = "SELECT what FROM trap.seen WHERE outcome = 'done' AND what !~ 'set_config'";
    assert_eq!(server.all::<String>("app", gained), Vec::<String>::new());
    let who = "SELECT DISTINCT who::text FROM ddl_seen WHERE who <> 'tenant'";
    assert_eq!(server.all::<String>("app", who), Vec::<String>::new());
    let superusers = "SELECT rolname::text FROM pg_roles WHERE rolsuper";
    assert_eq!(server.all::<String>("postgres", superusers), ["postgres"]);
}

fn owners(server: &Server, partitions: &[String]) -> Vec<String> {
    let query = format!(
        "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname LIKE ANY ('{{{}%}}')",
        partitions.join("%,")
    );
    server.all("app", &query)
}

#[test]
fn planted_code_gains_nothing_from_the_worker() {
    let (mut server, missing) = planted();
    server.turn_on();
    for partition in &missing {
        server.wait_for_partition("app", partition);
    }
    server.wait_until_idle();
    // The steps after those that ran it went well too.
    assert_eq!(server.attempts("app")[0].status, "ok");
    assert_nothing_gained(&server);
    let who = "SELECT DISTINCT who::text FROM ddl_seen";
    assert_eq!(server.all::<String>("app", who), ["tenant"]);
    assert_eq!(owners(&server, &missing), ["tenant"]);
}

#[test]
fn planted_code_gains_nothing_from_a_superuser_who_calls_a_function() {
    for call in [
        "SELECT maintain_workflow_events_partitions()",
        "SELECT create_workflow_events_partition(now() + interval '1 month')",
        "SELECT setup_workflow_events()",
        "SELECT * FROM verify_workflow_events()",
    ] {
        let (server, _) = planted();
        server.start_run("app");
        let mut superuser = server.connect("app");
        // A library that is loaded later would bring settings of its own.
        superuser.batch_execute("LOAD 'plpgsql'").unwrap();
        superuser
            .batch_execute("SET TimeZone = 'Europe/Vienna'; SET search_path = public")
            .unwrap();
        let before = settings(&mut superuser);
        superuser.batch_execute(call).unwrap_or_else(|error| panic!("{call}: {error:?}"));
        let changed: Vec<_> =
            settings(&mut superuser).into_iter().filter(|line| !before.contains(line)).collect();
        assert_eq!(changed, Vec::<String>::new(), "{call}");
        assert_nothing_gained(&server);
    }
}

#[test]
fn an_old_partition_with_planted_code_is_dropped_as_its_owner() {
    let (server, _) = planted();
    server
        .run("app", "SELECT create_workflow_events_partition(current_date - interval '20 months')");
    server.run("app", "TRUNCATE trap.seen, public.ddl_seen");
    server.run(
        "app",
        "CREATE TABLE drop_seen (who name, object text); GRANT INSERT ON drop_seen TO PUBLIC; \
         CREATE FUNCTION note_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO public.drop_seen SELECT current_user, object_identity FROM pg_event_trigger_dropped_objects(); \
         END $$; \
         CREATE EVENT TRIGGER note_drop ON sql_drop EXECUTE FUNCTION note_drop()",
    );
    let dropped: Vec<String> = server.all("app", "SELECT drop_old_workflow_events_partitions()");
    assert_eq!(dropped, [server.month(-20)]);
    let who = "SELECT DISTINCT who::text FROM drop_seen";
    assert_eq!(server.all::<String>("app", who), ["tenant"]);
}

/// Settings that the owner of a database may give to it.
const STEERING: [(&str, &str); 18] = [
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("search_path", "trap"),
    ("TimeZone", "Asia/Tokyo"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("lock_timeout", "1ms"),
    ("statement_timeout", "10ms"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("pg_meshhook_events.lock_timeout", "1ms"),
    ("default_tablespace", "nowhere"),
    ("default_table_access_method", "nothing"),
    ("row_security", "off"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("array_nulls", "off"),
    ("check_function_bodies", "off"),
];

#[test]
fn settings_of_the_database_neither_stop_nor_steer_the_worker() {
    let (mut server, missing) = planted();
    let mut owner = server.connect_as("postgres", "tenant");
    for (name, value) in STEERING {
        let sql = format!("ALTER DATABASE app SET {name} = '{value}'");
        owner.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    // They must not steer us either.
    let mut options =
        "-c search_path=public -c TimeZone=UTC -c DateStyle=ISO -c statement_timeout=0".to_owned();
    if server.install().version() >= 17 {
        owner.batch_execute("ALTER DATABASE app SET transaction_timeout = '10ms'").unwrap();
        options.push_str(" -c transaction_timeout=0");
    }
    server.turn_on();
    let look = |server: &Server, sql: &str| -> Vec<String> {
        let conninfo = format!("{} options='{options}'", server.conninfo("app", "postgres"));
        let mut client = postgres::Client::connect(&conninfo, postgres::NoTls).unwrap();
        client.query(sql, &[]).unwrap().into_iter().map(|row| row.get(0)).collect()
    };
    let done = "SELECT status FROM meshhook_events.maintenance_log WHERE origin = 'worker' AND status <> 'running'";
    let status = server.wait_for("an attempt", |server| look(server, done).pop());
    assert_eq!(status, "ok", "{}", server.log());
    let made = "SELECT relname || ' ' || pg_get_expr(relpartbound, oid) FROM pg_class \
                WHERE relispartition AND relkind = 'r' ORDER BY 1";
    let made = look(&server, made);
    for name in missing {
        let date = name.trim_start_matches("workflow_events_y").replace('m', "-");
        let begins = format!("{name} FOR VALUES FROM ('{date}-01 00:00:00+00') TO (");
        assert!(made.iter().any(|line| line.starts_with(&begins)), "{made:?}");
    }
}

/// Settings that a client or an administrator may have for reasons of his own.
const ODD: [(&str, &str); 9] = [
    ("search_path", "trap"),
    ("TimeZone", "Asia/Tokyo"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("array_nulls", "off"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
];

#[test]
fn settings_of_the_caller_change_no_answer() {
    let server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
    server.set_up("postgres");
    server.start_run("postgres");
    let answers = |setting: &str| -> Vec<String> {
        let mut client = server.connect("postgres");
        client.batch_execute(setting).unwrap();
        let calls = [
            "SELECT concat_ws(', ', check_name, status, detail, hint) FROM public.verify_workflow_events() \
             WHERE check_name <> 'worker'",
            "SELECT concat_ws(', ', object_name, status, detail, hint) FROM public.setup_workflow_events()",
            "SELECT concat_ws(', ', partition_name, start_date - date '2020-01-01', row_count, size_bytes, size_pretty) \
             FROM public.get_workflow_events_partition_stats()",
            "SELECT public.create_workflow_events_partition(date '2020-05-31')",
            "SELECT public.drop_old_workflow_events_partitions()",
        ];
        let rows = calls.map(|call| {
            client.query(call, &[]).unwrap_or_else(|error| panic!("{setting}: {error:?}"))
        });
        rows.into_iter().flatten().map(|row| row.get(0)).collect()
    };
    let expected = answers("SELECT");
    assert!(expected.len() > 20, "{expected:#?}");
    for (name, value) in ODD {
        let setting = format!("SET {name} = '{value}'");
        let differing: Vec<_> =
            answers(&setting).into_iter().filter(|line| !expected.contains(line)).collect();
        assert_eq!(differing, Vec::<String>::new(), "{setting}");
    }
}
