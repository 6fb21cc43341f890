//! Who may have files written, what is no archive, and what is said then.

use crate::stage::*;

#[test]
fn only_who_may_write_files_sets_where_they_go() {
    let stage = Stage::plain(1);
    let server = &stage.server;
    server.run(
        DATABASE,
        "CREATE ROLE keeper LOGIN; CREATE ROLE scribe LOGIN; GRANT pg_write_server_files TO scribe; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON meshhook_events.policy TO keeper, scribe",
    );
    let update = |role: &str, set: &str| {
        let mut session = server.connect_as(DATABASE, role);
        let done = session.batch_execute(&format!("UPDATE meshhook_events.policy SET {set}"));
        done.map_err(|error| Box::new(error.as_db_error().unwrap().clone()))
    };
    let code = |role, set| update(role, set).unwrap_err().code().code().to_owned();
    assert_eq!(code("keeper", "archive_directory = '/srv'"), "42501");
    let error = update("keeper", "archive = 'file', archive_directory = '/srv'").unwrap_err();
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert!(error.hint().unwrap().contains("pg_write_server_files"), "{error:?}");
    update("keeper", "archive = 'table'").unwrap();
    update("scribe", "archive_directory = '/srv'").unwrap();
    // Where it is set already, but nothing is written yet.
    assert_eq!(code("keeper", "archive = 'file'"), "42501");
    update("scribe", "archive = 'file'").unwrap();
    update("keeper", "premake = 4").unwrap();
    assert_eq!(code("keeper", "archive_directory = '/etc'"), "42501");
    update("keeper", "archive = 'none', archive_directory = NULL").unwrap();
    for (set, expected) in [
        ("archive = 'file', archive_directory = 'here'", "22023"),
        ("archive = 'file', archive_directory = '/srv/../etc'", "22023"),
        ("archive_directory = '/srv/.'", "22023"),
        ("archive = 'file', archive_directory = 's3://bucket'", "22023"),
        ("archive = 'file'", "23514"),
        ("archive = 'tape'", "23514"),
    ] {
        assert_eq!(code("scribe", set), expected, "{set}");
    }
    let store =
        "archive = 'file', archive_format = 'parquet', archive_directory = 's3://bucket/events'";
    update("scribe", store).unwrap();
    let insert = "DELETE FROM meshhook_events.policy; \
                  INSERT INTO meshhook_events.policy (archive, archive_directory) VALUES ('file', '/srv')";
    assert!(server.connect_as(DATABASE, "keeper").batch_execute(insert).is_err());
    server.connect_as(DATABASE, "scribe").batch_execute(insert).unwrap();
}

#[test]
fn what_cannot_be_archived_is_said() {
    let stage = Stage::plain(1);
    let server = &stage.server;
    let error = stage.archive_fails();
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert!(error.hint().unwrap().contains("UPDATE meshhook_events.policy"), "{error:?}");
    stage.archive_to_table();
    server.run(
        DATABASE,
        "CREATE ROLE stranger LOGIN; GRANT EXECUTE ON FUNCTION archive_workflow_events_partition TO stranger; \
         CREATE TABLE other (); CREATE TABLE rest PARTITION OF workflow_events DEFAULT",
    );
    let code = |name: &str| {
        let sql = format!("SELECT archive_workflow_events_partition({name})");
        fails(server, &sql).code().code().to_owned()
    };
    assert_eq!(code("NULL"), "22004");
    assert_eq!(code("'workflow_events'"), "42P01");
    assert_eq!(code("'other'"), "42P01");
    assert_eq!(code("'rest'"), "0A000");
    let call = format!("SELECT archive_workflow_events_partition('{}')", stage.old);
    let error = server.connect_as(DATABASE, "stranger").batch_execute(&call).unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501");
    let error = fails(server, &format!("BEGIN READ ONLY; {call}"));
    assert_eq!(error.code().code(), "25006");

    server.run(
        DATABASE,
        "UPDATE meshhook_events.policy SET archive = 'file', archive_format = 'parquet', archive_directory = '/tmp'",
    );
    let error = stage.archive_fails();
    assert_eq!(error.code().code(), "0A000", "{error:?}");
    assert!(error.hint().unwrap().contains("CREATE EXTENSION pg_parquet"), "{error:?}");
    assert_eq!(
        fails(server, "SELECT restore_workflow_events_partition('none')").code().code(),
        "42P01"
    );
}

/// Code that the log's owner has planted runs as that owner, whoever calls.
#[test]
fn planted_code_gains_nothing() {
    let stage = Stage::plain(10);
    let server = &stage.server;
    server.run(
        DATABASE,
        "CREATE ROLE keeper LOGIN; GRANT ALL ON SCHEMA public TO keeper; \
         ALTER TABLE workflow_events OWNER TO keeper; ALTER TABLE workflow_runs OWNER TO keeper; \
         DO $$ DECLARE p text; BEGIN FOR p IN SELECT inhrelid::regclass FROM pg_inherits \
             WHERE inhparent = 'workflow_events'::regclass LOOP \
             EXECUTE format('ALTER TABLE %s OWNER TO keeper', p); END LOOP; END $$; \
         ALTER SEQUENCE workflow_events_id_seq OWNER TO keeper",
    );
    server
        .connect_as(DATABASE, "keeper")
        .batch_execute(
            "CREATE TABLE seen (who text); \
         CREATE FUNCTION note() RETURNS void LANGUAGE sql AS \
                 'INSERT INTO public.seen VALUES (current_user)'; \
             CREATE FUNCTION bait(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS \
                 $$ BEGIN PERFORM public.note(); RETURN x; END $$; \
             CREATE INDEX bait ON workflow_events (public.bait('x'::text))",
        )
        .unwrap();
    stage.archive_to_table();
    let seen = || -> Vec<String> {
        let seen = server.all(DATABASE, "SELECT DISTINCT who FROM seen");
        server.run(DATABASE, "TRUNCATE seen");
        seen
    };
    seen();
    assert_eq!(stage.archive().2, 10);
    assert_eq!(seen(), ["keeper"]);
    let owner: String = server.ask(
        "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'workflow_events_archive'",
    );
    assert_eq!(owner, "keeper");
    let traps = format!(
        "DELETE FROM {0} WHERE payload ->> 'n' = '10'; \
         CREATE INDEX bait2 ON workflow_events_archive (public.bait('y'::text)); \
         CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM public.bait('z'); RETURN NEW; END $$; \
         CREATE TRIGGER trap BEFORE INSERT ON workflow_events_archive \
             FOR EACH ROW EXECUTE FUNCTION public.trap(); \
         ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY; \
         ALTER TABLE workflow_events FORCE ROW LEVEL SECURITY; \
         ALTER TABLE {0} ENABLE ROW LEVEL SECURITY; ALTER TABLE {0} FORCE ROW LEVEL SECURITY",
        stage.old
    );
    server.connect_as(DATABASE, "keeper").batch_execute(&traps).unwrap();
    seen();
    assert_eq!(stage.archive().2, 9);
    assert_eq!(seen(), ["keeper"]);
    stage.drop_old();
    seen();
    stage.restore();
    assert_eq!(seen(), ["keeper"]);
}
