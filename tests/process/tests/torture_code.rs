//! Code that the log's owner has planted, in the log and in what is old: retirement runs it as him, or not at all.

use process::{HANDFUL, Server, figure};

/// Who runs DDL is told by an event trigger of a superuser.
const WATCHED: &str = "\
CREATE FUNCTION public.note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ \
BEGIN RAISE LOG 'ddl by %: %', current_user, tg_tag; END $$; \
CREATE EVENT TRIGGER note_ddl ON ddl_command_end EXECUTE FUNCTION public.note_ddl(); \
CREATE EVENT TRIGGER note_drop ON sql_drop EXECUTE FUNCTION public.note_ddl()";

/// What the owner has in his schema: a function that tries to become more, says so, and leaves settings behind; and what
/// those would lead an unwary superuser to.
const TRAP: &str = r"
CREATE SCHEMA trap;
CREATE FUNCTION trap.spring() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    what text;
BEGIN
    RAISE LOG 'sprung by %', current_user;
    FOREACH what IN ARRAY ARRAY['SET ROLE postgres', 'RESET ROLE', 'SET SESSION AUTHORIZATION postgres',
        'RESET SESSION AUTHORIZATION', 'ALTER ROLE keeper SUPERUSER', 'CREATE TEMPORARY TABLE pg_inherits (i int)',
        'UPDATE meshhook_events.policy SET retention = NULL', 'DELETE FROM meshhook_events.maintenance_log',
        'CREATE FUNCTION pg_catalog.now(text) RETURNS text LANGUAGE sql AS ''SELECT 1'''] LOOP
        BEGIN
            EXECUTE what;
            RAISE LOG 'gained: %', what;
        EXCEPTION WHEN OTHERS THEN
        END;
    END LOOP;
    PERFORM set_config('search_path', 'trap, pg_catalog', false);
    PERFORM set_config('TimeZone', 'Asia/Tokyo', false);
    PERFORM set_config('default_transaction_read_only', 'on', false);
    PERFORM set_config('lock_timeout', '1', false);
    PERFORM set_config('row_security', 'off', false);
    PERFORM set_config('quote_all_identifiers', 'on', false);
END $$;
CREATE FUNCTION trap.bait(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM trap.spring();
    RETURN i;
END $$;
CREATE FUNCTION trap.fires() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM trap.spring(); RETURN NULL; END';
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS
    'BEGIN PERFORM trap.spring(); RETURN pg_catalog.now(); END';
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
    'BEGIN PERFORM trap.spring(); RETURN pg_catalog.clock_timestamp(); END';
CREATE FUNCTION trap.equal(oid, oid) RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN PERFORM trap.spring(); RETURN pg_catalog.oideq($1, $2); END';
CREATE OPERATOR trap.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = trap.equal);
";

/// Lays the trap in a table: everywhere that DDL looks at.
fn lay(server: &Server, table: &str) {
    for statement in [
        format!("CREATE INDEX ON {table} (trap.bait(3)) WHERE trap.bait(4) = 4"),
        format!("ALTER TABLE {table} ADD CONSTRAINT bait_{table} CHECK (trap.bait(5) = 5)"),
        format!("CREATE STATISTICS bait_{table} ON (trap.bait(6)), type FROM {table}"),
        format!("ALTER TABLE {table} ALTER type SET DEFAULT trap.bait(7)::text"),
        format!("CREATE POLICY bait ON {table} USING (trap.bait(8) = 8)"),
        format!(
            "CREATE TRIGGER bait AFTER TRUNCATE OR DELETE ON {table} EXECUTE FUNCTION trap.fires()"
        ),
    ] {
        // What is laid springs when more is laid, and changes settings: each in a session of his own.
        let mut keeper = server.connect_as("postgres", "keeper");
        keeper.batch_execute(&statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

#[test]
fn retirement_by_the_worker_runs_planted_code_as_the_owner_only() {
    let server = Server::preloaded().start();
    server.set_up("postgres");
    server.give_log("postgres", "keeper");
    server.run("postgres", "GRANT CREATE ON DATABASE postgres TO keeper");
    server.look("postgres");
    let old = [-9, -8, -7].map(|ahead| {
        server.run(
            "postgres",
            &format!("SELECT create_workflow_events_partition(date_trunc('month', now()) + {ahead} * interval '1 month')"),
        );
        server.month(ahead)
    });
    server.run("postgres", WATCHED);
    server.connect_as("postgres", "keeper").batch_execute(TRAP).unwrap();
    for table in old.iter().map(String::as_str).chain(["workflow_events"]) {
        lay(&server, table);
    }
    let missing = server.drop_month("postgres", 1);
    let before = server.log().len();
    server.run(
        "postgres",
        "SET search_path = pg_catalog; UPDATE meshhook_events.policy SET retention = '6 months'",
    );
    server.wake("postgres");
    server.wait_until("what is old has gone", |server| {
        let partitions = server.partitions("postgres");
        partitions.contains(&missing) && !old.iter().any(|name| partitions.contains(name))
    });
    server.wait_until_idle();
    let log = server.log().split_off(before);
    let worker: Vec<_> =
        log.lines().filter(|line| line.contains("] pg_meshhook_events worker ")).collect();
    let by = |what: &str| worker.iter().filter(|line| line.contains(what)).count();
    assert!(by("sprung by keeper") > 0, "the trap was not sprung at all\n{log}");
    assert!(by("ddl by keeper: ") > 0, "no DDL was seen\n{log}");
    for bad in ["sprung by postgres", "ddl by postgres", "gained: "] {
        assert_eq!(by(bad), 0, "{bad}\n{log}");
    }
    let superusers = "SELECT rolname::text FROM pg_roles WHERE rolsuper";
    assert_eq!(server.all::<String>("postgres", superusers), ["postgres"]);
    let left = format!("SELECT count(*) FROM pg_class WHERE relname IN ('{}')", old.join("', '"));
    assert_eq!(server.ask::<i64>(&left), 0, "detached and not dropped\n{log}");
    figure(
        "code: planted in log and old partitions",
        "times it ran, as the owner",
        by("sprung by keeper"),
    );
    let told = server.maintenance_lines();
    let own = told.iter().filter(|line| line.contains("maintenance of database")).count();
    assert!(own <= HANDFUL, "{told:#?}");
}
