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
        server.make_run("app");
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
    server.make_run("postgres");
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

/// A database `app` of the role `tenant`, with the worker off.
fn with_tenants_database() -> Server {
    let server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
    server.run("postgres", "CREATE ROLE tenant LOGIN");
    server.run("postgres", "CREATE DATABASE app OWNER tenant");
    server
}

/// Runs statements in a session of the role `tenant`, which must succeed.
fn as_tenant(server: &Server, sql: &str) {
    let mut tenant = server.connect_as("app", "tenant");
    tenant.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The role `tenant` is no superuser, and no code of his has run as one.
fn assert_never_run_as_superuser(server: &Server, when: &str) {
    assert!(!server.log().contains("sprung by postgres"), "{when}\n{}", server.log());
    let superusers = "SELECT rolname::text FROM pg_roles WHERE rolsuper";
    assert_eq!(server.all::<String>("postgres", superusers), ["postgres"], "{when}");
}

/// How often his code has run as himself.
fn times_sprung(server: &Server) -> usize {
    server.log().matches("sprung by tenant").count()
}

/// An operator for each pair of types, which is a better match than PostgreSQL's own wherever that needs a cast.
const PLANTED_OPERATORS: &str = r#"
CREATE FUNCTION public.spring(what text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE LOG 'sprung by %: %', current_user, what;
    ALTER ROLE tenant SUPERUSER;
EXCEPTION WHEN OTHERS THEN
END $$;
DO $do$
DECLARE
    types text[] := pg_catalog.string_to_array('oid,integer,bigint,smallint,real,double precision,numeric,regclass,regproc,'
        'regprocedure,regnamespace,name,text,"char",interval,timestamptz,timestamp,date,boolean', ',');
    l text; r text; operator text;
BEGIN
    SET LOCAL search_path = pg_catalog;
    FOR l, r IN SELECT a, b FROM unnest(types) a CROSS JOIN unnest(types) b LOOP
        EXECUTE format('CREATE FUNCTION public.compare(%s, %s) RETURNS boolean LANGUAGE plpgsql AS %L', l, r,
            format('BEGIN PERFORM public.spring(%L); RETURN true; END', l || ' compared with ' || r));
        FOREACH operator IN ARRAY '{=, <>, <, <=, >, >=}'::text[] LOOP
            EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.compare)',
                operator, l, r);
        END LOOP;
        EXECUTE format('CREATE FUNCTION public.compute(%s, %s) RETURNS numeric LANGUAGE plpgsql AS %L', l, r,
            format('BEGIN PERFORM public.spring(%L); RETURN 0; END', l || ' computed with ' || r));
        FOREACH operator IN ARRAY '{+, -, *, /, ||}'::text[] LOOP
            EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.compute)',
                operator, l, r);
        END LOOP;
    END LOOP;
END $do$;
CREATE TABLE public.workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
"#;

#[test]
fn operators_planted_in_the_schema_are_never_called_by_a_superuser() {
    let mut server = with_tenants_database();
    as_tenant(&server, PLANTED_OPERATORS);
    // They would be: each of these is what an unwary script says.
    let unwary = "SELECT 1::oid = 1, 1::real < 1, 1 * 1::numeric, 1::numeric = 1, 1::oid = 'pg_class'::regclass";
    as_tenant(&server, unwary);
    assert_eq!(times_sprung(&server), 5, "{}", server.log());

    let mut superuser = server.connect("app");
    superuser.batch_execute("SET search_path = public").unwrap();
    // No operator of the caller's own in these.
    for call in [
        "CREATE EXTENSION pg_meshhook_events SCHEMA public",
        "SELECT * FROM setup_workflow_events()",
        "SELECT * FROM workflow_events_partition_info",
        "UPDATE meshhook_events.policy SET retention = '18 months', time_zone = 'Europe/Vienna', premake = 5",
        "SELECT * FROM maintain_workflow_events_partitions()",
        "SELECT create_workflow_events_partition('2020-01-31'::date)",
        "SELECT create_workflow_events_partition('2020-03-31'::timestamptz)",
        "SELECT * FROM get_workflow_events_partition_stats()",
        "SELECT * FROM verify_workflow_events()",
        "SELECT * FROM drop_old_workflow_events_partitions(12)",
        "SELECT * FROM get_workflow_run_events(gen_random_uuid(), now(), now())",
        "SELECT * FROM workflow_events_partition_info",
        "SELECT * FROM setup_workflow_events()",
    ] {
        superuser.batch_execute(call).unwrap_or_else(|error| panic!("{call}: {error:?}"));
        assert_never_run_as_superuser(&server, call);
    }
    // What the constraints of the policy are for still holds.
    let error = superuser
        .batch_execute("UPDATE meshhook_events.policy SET retention = '30 days'")
        .expect_err("days are no months");
    assert_eq!(error.code().map(|code| code.code()), Some("23514"), "{error:?}");
    assert_never_run_as_superuser(&server, "a bad policy");
    drop(superuser);

    server.turn_on();
    let mut quiet = server.connect("app");
    quiet
        .batch_execute("SET search_path = pg_catalog; SELECT meshhook_events.wake_worker()")
        .unwrap();
    let ended = "SELECT status FROM meshhook_events.maintenance_log WHERE origin = 'worker' AND status <> 'running'";
    let status: String = server
        .wait_for("an attempt", |_| quiet.query(ended, &[]).unwrap().pop().map(|row| row.get(0)));
    assert_eq!(status, "ok", "{}", server.log());
    assert_never_run_as_superuser(&server, "the worker");
}

/// An index whose expression calls his function: the planner runs it for whoever reads the table.
const SPRING: &str = r"
CREATE FUNCTION public.spring() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE LOG 'sprung by %', current_user;
    ALTER ROLE tenant SUPERUSER;
EXCEPTION WHEN OTHERS THEN
END $$;
CREATE FUNCTION public.bait(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM public.spring();
    RETURN x;
END $$;
";

#[test]
fn an_index_planted_on_the_runs_gains_nothing_from_a_superusers_setup() {
    let mut server = with_tenants_database();
    server.run("app", "CREATE EXTENSION pg_meshhook_events");
    as_tenant(&server, SPRING);
    as_tenant(
        &server,
        "CREATE TABLE workflow_runs (id uuid PRIMARY KEY); \
         CREATE INDEX bait ON workflow_runs (public.bait('x'::text)); \
         INSERT INTO workflow_runs VALUES (gen_random_uuid())",
    );
    let before = times_sprung(&server);
    server.run("app", "SELECT setup_workflow_events()");
    assert_never_run_as_superuser(&server, "setup");
    assert!(times_sprung(&server) > before, "it was not run at all\n{}", server.log());
    let owners = "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname LIKE 'workflow\\_events\\_y%' \
                  OR relname = 'workflow_events'";
    assert_eq!(server.all::<String>("app", owners), ["tenant"]);

    let calls = [
        "SELECT maintain_workflow_events_partitions()",
        "SELECT create_workflow_events_partition(now() + interval '1 month')",
        "SELECT setup_workflow_events()",
        "SELECT verify_workflow_events()",
    ];
    for call in calls {
        as_tenant(&server, &format!("DROP TABLE {}", server.month(1)));
        server.run("app", call);
        assert_never_run_as_superuser(&server, call);
        server.run("app", "SELECT maintain_workflow_events_partitions()");
    }
    as_tenant(&server, &format!("DROP TABLE {}", server.month(1)));
    server.turn_on();
    server.wait_for_partition("app", &server.month(1));
    server.wait_until_idle();
    assert_eq!(server.attempts("app")[0].status, "ok");
    assert_never_run_as_superuser(&server, "the worker");
}

#[test]
fn a_superusers_log_that_points_to_the_runs_of_another_is_refused() {
    let mut server = with_tenants_database();
    as_tenant(&server, "CREATE TABLE workflow_runs (id uuid PRIMARY KEY)");
    server.run(
        "app",
        "CREATE TABLE workflow_events (id bigserial, run_id uuid NOT NULL REFERENCES workflow_runs ON DELETE CASCADE, \
             ts timestamptz NOT NULL DEFAULT now(), type text NOT NULL, payload jsonb NOT NULL, \
             created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, ts)) PARTITION BY RANGE (ts)",
    );
    // The log is made before, as our own DDL would run it too; this one may hold an event of today.
    let of_today = format!(
        "CREATE TABLE {} PARTITION OF workflow_events FOR VALUES FROM ('{}-01 00:00Z') TO ('{}-01 00:00Z')",
        server.month(0),
        server.month(0).trim_start_matches("workflow_events_y").replace('m', "-"),
        server.month(1).trim_start_matches("workflow_events_y").replace('m', "-"),
    );
    server.run("app", &of_today);
    as_tenant(&server, SPRING);
    as_tenant(
        &server,
        "CREATE INDEX bait ON workflow_runs (public.bait('x'::text)); \
         INSERT INTO workflow_runs VALUES (gen_random_uuid())",
    );
    server.run("app", "CREATE EXTENSION pg_meshhook_events");
    let before = times_sprung(&server);
    for call in [
        "SELECT create_workflow_events_partition(now() + interval '1 month')",
        "SELECT maintain_workflow_events_partitions()",
        "SELECT setup_workflow_events()",
    ] {
        let error = server.connect("app").batch_execute(call).expect_err(call);
        let error = error.as_db_error().expect("the server has answered");
        assert_eq!(error.code().code(), "42501", "{call}: {error:?}");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("ALTER TABLE … OWNER TO …"), "{call}: {error:?}");
        assert_never_run_as_superuser(&server, call);
    }
    assert_eq!(server.partitions("app"), [server.month(0)]);
    let owner = "SELECT status FROM verify_workflow_events() WHERE check_name = 'owner'";
    assert_eq!(server.all::<String>("app", owner), ["failed"]);
    assert_never_run_as_superuser(&server, "verify");

    server.turn_on();
    let failed = server.wait_for("a failed attempt", |server| {
        server.attempts("app").into_iter().find(|attempt| attempt.status == "failed")
    });
    assert_eq!(failed.sqlstate.as_deref(), Some("42501"), "{failed:?}");
    assert_never_run_as_superuser(&server, "the worker");
    assert_eq!(times_sprung(&server), before, "{}", server.log());

    // What the hint says helps.
    let mut give = "ALTER TABLE workflow_events OWNER TO tenant".to_owned();
    for partition in server.partitions("app") {
        give.push_str(&format!("; ALTER TABLE {partition} OWNER TO tenant"));
    }
    server.run("app", &give);
    server.run("app", "SELECT setup_workflow_events()");
    assert!(server.partitions("app").contains(&server.month(1)));
    assert_eq!(server.all::<String>("app", owner), Vec::<String>::new());
    assert_never_run_as_superuser(&server, "after the log was given away");
}

#[test]
fn an_index_planted_on_a_plain_table_gains_nothing_from_a_superusers_setup() {
    let server = with_tenants_database();
    server.run("app", "CREATE EXTENSION pg_meshhook_events");
    as_tenant(&server, SPRING);
    as_tenant(
        &server,
        "CREATE TABLE workflow_runs (id uuid PRIMARY KEY); \
         CREATE TABLE workflow_events (id bigint, run_id uuid, ts timestamptz, type text, payload jsonb); \
         CREATE INDEX bait ON workflow_events (public.bait('x'::text)); \
         INSERT INTO workflow_events (id) VALUES (1), (2)",
    );
    let before = times_sprung(&server);
    let error = server.connect("app").batch_execute("SELECT setup_workflow_events()");
    let error = error.expect_err("a plain table can't be maintained");
    let error = error.as_db_error().expect("the server has answered");
    assert_eq!(error.code().code(), "42809", "{error:?}");
    assert_eq!(error.detail(), Some("It is a plain table of 2 rows."));
    assert_never_run_as_superuser(&server, "setup");
    assert!(times_sprung(&server) > before, "it was not run at all\n{}", server.log());
    // Who only looks runs nothing.
    let table = "SELECT status FROM verify_workflow_events() WHERE check_name = 'table'";
    assert_eq!(server.all::<String>("app", table), ["failed"]);
    assert_never_run_as_superuser(&server, "verify");
}

#[test]
fn a_role_set_for_the_database_does_not_stop_the_worker() {
    let (mut server, missing) = planted();
    server.run("postgres", "CREATE ROLE reader; GRANT reader TO tenant");
    let mut owner = server.connect_as("postgres", "tenant");
    owner.batch_execute("ALTER DATABASE app SET role = 'reader'").unwrap();
    server.turn_on();
    // Our own sessions would be stopped.
    let conninfo = format!("{} options='-c role=none'", server.conninfo("app", "postgres"));
    let look = |sql: &str| -> Vec<String> {
        let mut client = postgres::Client::connect(&conninfo, postgres::NoTls).unwrap();
        client.query(sql, &[]).unwrap().into_iter().map(|row| row.get(0)).collect()
    };
    let done = "SELECT concat_ws(' ', status, role_name) FROM meshhook_events.maintenance_log \
                WHERE origin = 'worker' AND status <> 'running'";
    let attempt = server.wait_for("an attempt", |_| look(done).pop());
    assert_eq!(attempt, "ok postgres", "{}", server.log());
    let made = look("SELECT relname::text FROM pg_class WHERE relispartition AND relkind = 'r'");
    assert!(missing.iter().all(|name| made.contains(name)), "{made:?}");
    assert_eq!(owners(&server, &missing), ["tenant"]);
}
