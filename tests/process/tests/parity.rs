//! A partition is what its parent is: it does not matter who made it, and it is never more open than the event log.

use std::process::Command;

use process::{Server, fixture};

/// Everything the catalogs say of a partition, its own name and the numbers of objects apart.
const DESCRIPTION: &str = r"
WITH part AS (SELECT c.* FROM pg_class c WHERE c.oid = '{name}'::regclass)
SELECT regexp_replace(line, '{name}', 'PARTITION', 'g') FROM (
    SELECT concat_ws(' ', 'column', attnum, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
                     attgenerated, attstorage, attcompression, attislocal, attinhcount, attcollation,
                     -- 15.20 writes a number of its own into every column's options.
                     (SELECT array_agg(o) FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'),
                     CASE WHEN {protection} THEN attacl END, pg_get_expr(d.adbin, d.adrelid)) AS line
    FROM part JOIN pg_attribute a ON a.attrelid = part.oid AND attnum > 0
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    UNION ALL
    SELECT concat_ws(' ', 'constraint', contype, {constraint name}, pg_get_constraintdef(k.oid), convalidated, conislocal,
                     coninhcount, contype = 'c' AND connoinherit, conparentid <> 0)
    FROM part JOIN pg_constraint k ON k.conrelid = part.oid
    UNION ALL
    SELECT concat_ws(' ', 'index', {index name}, indisunique, indisprimary, indisvalid, indisreplident,
                     regexp_replace(pg_get_indexdef(indexrelid), 'INDEX \S+', 'INDEX'), ic.relispartition,
                     (SELECT p.relname FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent
                      WHERE h.inhrelid = indexrelid), ic.reltablespace, pg_get_userbyid(ic.relowner))
    FROM part JOIN pg_index i ON i.indrelid = part.oid JOIN pg_class ic ON ic.oid = i.indexrelid
    UNION ALL
    SELECT concat_ws(' ', 'trigger', regexp_replace(tgname, '\d+', 'n'), tgenabled, tgisinternal, tgparentid <> 0,
                     regexp_replace(pg_get_triggerdef(t.oid), '_\d+', '_n'))
    FROM part JOIN pg_trigger t ON t.tgrelid = part.oid
    UNION ALL
    SELECT concat_ws(' ', 'table', relkind, relpersistence, pg_get_userbyid(relowner), relreplident, relispartition,
                     reloptions, reltablespace, (SELECT amname FROM pg_am WHERE oid = relam), relchecks, relhastriggers)
    FROM part
    UNION ALL
    SELECT concat_ws(' ', 'publication', pubname) FROM part
    JOIN pg_publication_tables p ON p.tablename = part.relname
    UNION ALL
    SELECT concat_ws(' ', 'grant', grantee::regrole, privilege_type, is_grantable)
    FROM part, aclexplode(coalesce(relacl, acldefault('r', relowner))) WHERE {protection}
    UNION ALL
    SELECT concat_ws(' ', 'security', relrowsecurity, relforcerowsecurity) FROM part WHERE {protection}
    UNION ALL
    SELECT concat_ws(' ', 'policy', polname, polcmd, polpermissive, polroles::regrole[],
                     pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
    FROM part JOIN pg_policy p ON p.polrelid = part.oid WHERE {protection}
) AS lines ORDER BY 1
";

/// What there is to compare.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// All of it.
    Everything,
    /// What CREATE TABLE … PARTITION OF gives too: neither names of indexes nor the parent's protection.
    Structure,
}

fn description(server: &Server, name: &str, compared: Compared) -> Vec<String> {
    let everything = compared == Compared::Everything;
    let query = DESCRIPTION
        .replace("{constraint name}", if everything { "conname" } else { "''" })
        .replace("{index name}", if everything { "ic.relname" } else { "''" })
        .replace("{protection}", if everything { "true" } else { "false" })
        .replace("{name}", name);
    server.all("postgres", &query)
}

/// All that a team may do to its event log.
const PECULIAR: &str = r#"
ALTER TABLE workflow_events ADD COLUMN node text COLLATE "C" DEFAULT 'n' || pg_backend_pid();
ALTER TABLE workflow_events ADD COLUMN size int GENERATED ALWAYS AS (length(type)) STORED;
ALTER TABLE workflow_events ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE workflow_events ADD CONSTRAINT type_is_given CHECK (type <> '');
CREATE INDEX by_node ON workflow_events (lower(node)) WHERE node IS NOT NULL;
CREATE UNIQUE INDEX by_created ON workflow_events (created_at, ts, id) INCLUDE (type);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.created_at := now(); RETURN NEW; END';
CREATE TRIGGER stamp BEFORE INSERT ON workflow_events FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER stamp_disabled BEFORE INSERT ON workflow_events FOR EACH ROW EXECUTE FUNCTION stamp();
ALTER TABLE workflow_events DISABLE TRIGGER stamp_disabled;
CREATE CONSTRAINT TRIGGER stamp_late AFTER UPDATE ON workflow_events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.type = 'late') EXECUTE FUNCTION stamp();
GRANT SELECT ON workflow_events TO pg_monitor WITH GRANT OPTION;
GRANT UPDATE (type) ON workflow_events TO pg_monitor;
ALTER TABLE workflow_events FORCE ROW LEVEL SECURITY;
CREATE POLICY no_secrets ON workflow_events AS RESTRICTIVE FOR SELECT TO authenticated, anon
    USING (type <> 'secret' AND NOT EXISTS (SELECT FROM workflow_runs r WHERE r.id = workflow_events.run_id
                                            AND r.status = 'failed'));
"#;

/// A server with the worker off, a log with all of this, and more statements of the test's own. The next three months
/// have no partition: one will be made by the worker, one by a call, one by CREATE TABLE.
fn with_peculiar_log(more: &str) -> Server {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("wal_level", "logical")
        .start();
    server.set_up("postgres");
    server.script("postgres", &fixture("meshhook_events_protection.sql"));
    server.run("postgres", PECULIAR);
    server.run("postgres", more);
    // So that the partitions that are there already don't differ.
    server.run("postgres", "SELECT setup_workflow_events()");
    server
}

/// Makes the partition of next month by the worker, that of the month after by a call, and that of the third month by
/// CREATE TABLE; their names.
fn make_three(server: &mut Server) -> [String; 3] {
    let names = [1, 2, 3].map(|ahead| server.drop_month("postgres", ahead));
    let [by_worker, by_call, by_hand] = &names;
    server.run("postgres", "SELECT create_workflow_events_partition(now() + interval '2 months')");
    let of_month = format!(
        "CREATE TABLE {by_hand} PARTITION OF workflow_events FOR VALUES FROM ('{}-01') TO ('{}-01')",
        by_hand.trim_start_matches("workflow_events_y").replace('m', "-"),
        server.month(4).trim_start_matches("workflow_events_y").replace('m', "-"),
    );
    server.run("postgres", &of_month);
    assert!(server.partitions("postgres").contains(by_call));
    server.turn_on();
    server.wait_for_partition("postgres", by_worker);
    server.wait_until_idle();
    names
}

/// The lines that only one of two partitions has.
fn differences(server: &Server, one: &str, other: &str, compared: Compared) -> Vec<String> {
    let [of_one, of_other] = [one, other].map(|name| description(server, name, compared));
    let only = |name: &str, lines: &[String], others: &[String]| -> Vec<String> {
        let lines = lines.iter().filter(|line| !others.contains(line));
        lines.map(|line| format!("{name}: {line}")).collect()
    };
    [only(one, &of_one, &of_other), only(other, &of_other, &of_one)].concat()
}

fn assert_same(server: &Server, [by_worker, by_call, by_hand]: &[String; 3]) {
    let none = Vec::<String>::new();
    assert_eq!(differences(server, by_worker, by_call, Compared::Everything), none);
    assert_eq!(differences(server, by_call, by_hand, Compared::Structure), none);
}

fn assert_peculiar(server: &Server, name: &str) {
    let lines = description(server, name, Compared::Everything);
    for part in
        ["publication supabase_realtime", "policy no_secrets", "security t t", "trigger stamp_late"]
    {
        assert!(lines.iter().any(|line| line.starts_with(part)), "no {part} in {lines:#?}");
    }
}

#[test]
fn it_does_not_matter_who_made_a_partition() {
    let mut server = with_peculiar_log("");
    let names = make_three(&mut server);
    assert_same(&server, &names);
    assert_peculiar(&server, &names[0]);
}

/// A partition made later has other column numbers than its parent, to which the parent's policies refer.
#[test]
fn a_dropped_column_of_the_parent_does_not_matter() {
    let mut server = with_peculiar_log(
        "ALTER TABLE workflow_events DROP COLUMN size; ALTER TABLE workflow_events ADD COLUMN late int",
    );
    let names = make_three(&mut server);
    assert_same(&server, &names);
    assert_peculiar(&server, &names[0]);
}

/// Without a restrictive policy of its parent a partition would show more than its parent.
#[test]
fn a_restrictive_policy_holds_for_a_partition_whatever_the_columns() {
    for more in ["SELECT", "ALTER TABLE workflow_events DROP COLUMN size"] {
        let mut server = with_peculiar_log(more);
        let [by_worker, by_call, _] = make_three(&mut server);
        let run = server.make_run("postgres");
        server.run(
            "postgres",
            &format!(
                "INSERT INTO workflow_events (run_id, ts, type, payload) \
                 SELECT '{run}', now() + n * interval '1 month', type, '{{}}' \
                 FROM generate_series(0, 2) n, unnest(ARRAY['secret', 'known']) type"
            ),
        );
        let owner: String = server.ask("SELECT owner::text FROM projects");
        let mut client = server.connect("postgres");
        let claims = format!("SET request.jwt.claims = '{{\"sub\": \"{owner}\"}}'");
        client.batch_execute(&format!("SET ROLE authenticated; {claims}")).unwrap();
        for table in ["workflow_events", &by_worker, &by_call] {
            let query = format!("SELECT DISTINCT type FROM {table}");
            let seen: Vec<String> =
                client.query(&query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
            assert!(!seen.contains(&"secret".to_owned()), "{table} after {more}: {seen:?}");
        }
    }
}

#[test]
fn a_replica_identity_of_the_parent_is_the_partitions() {
    for (identity, letter) in [("FULL", "f"), ("NOTHING", "n"), ("USING INDEX by_created", "i")] {
        let not_null = "ALTER TABLE workflow_events ALTER COLUMN created_at SET NOT NULL";
        let mut server = with_peculiar_log(&format!(
            "{not_null}; ALTER TABLE workflow_events REPLICA IDENTITY {identity}"
        ));
        let [by_worker, by_call, _] = make_three(&mut server);
        for name in [&by_worker, &by_call] {
            let query = format!("SELECT relreplident::text FROM pg_class WHERE relname = '{name}'");
            assert_eq!(server.ask::<String>(&query), letter, "{name} {identity}");
        }
        let differences = differences(&server, &by_worker, &by_call, Compared::Everything);
        assert_eq!(differences, Vec::<String>::new(), "{identity}");
    }
}

#[test]
fn a_tablespace_of_the_parent_is_the_partitions() {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("allow_in_place_tablespaces", "on")
        .start();
    server.set_up("postgres");
    server.run("postgres", "CREATE TABLESPACE fast LOCATION ''");
    server.run(
        "postgres",
        "ALTER TABLE workflow_events SET TABLESPACE fast; \
         ALTER INDEX workflow_events_type_idx SET TABLESPACE fast",
    );
    let mut server = server;
    let names = make_three(&mut server);
    assert_same(&server, &names);
    let query = format!(
        "SELECT spcname::text FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace \
         WHERE relname = '{}'",
        names[0]
    );
    assert_eq!(server.ask::<String>(&query), "fast");
}

#[test]
fn nobody_reads_past_the_parent_by_way_of_a_partition() {
    let mut server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
    server.script("postgres", &fixture("meshhook.sql"));
    server.run("postgres", "CREATE EXTENSION pg_meshhook_events; SELECT setup_workflow_events()");
    server.script("postgres", &fixture("meshhook_events_protection.sql"));
    server.run("postgres", "SELECT setup_workflow_events()");
    let [by_worker, by_call, _] = make_three(&mut server);
    let run = server.make_run("postgres");
    server.run(
        "postgres",
        &format!(
            "INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT '{run}', now() + n * interval '1 month', 'secret', '{{}}' FROM generate_series(0, 2) n"
        ),
    );
    let mut anon = server.connect("postgres");
    anon.batch_execute("SET ROLE anon").unwrap();
    let seen = |anon: &mut postgres::Client, table: &str| -> i64 {
        anon.query_one(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().get(0)
    };
    for table in ["workflow_events", &server.month(0), &by_worker, &by_call] {
        assert_eq!(seen(&mut anon, table), 0, "{table}");
    }
    // The rows are there, and their project's owner sees them through the parent.
    let owner: String = server.ask("SELECT owner::text FROM projects");
    let claims = format!("SET request.jwt.claims = '{{\"sub\": \"{owner}\"}}'");
    anon.batch_execute(&format!("SET ROLE authenticated; {claims}")).unwrap();
    assert_eq!(seen(&mut anon, "workflow_events"), 3);
    assert_eq!(seen(&mut anon, &by_worker), 1);
}

/// Runs MeshHook's own verification; its lines.
fn verify_meshhook(server: &Server) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/verify-meshhook");
    let psql = server.install().program("psql");
    let path = format!("{}:{}", psql.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let connection = server.command("psql");
    let mut command = Command::new(script);
    command.envs(connection.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = command.env("PATH", path).env("PGDATABASE", "postgres").output().unwrap();
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{lines}{}", String::from_utf8_lossy(&output.stderr));
    lines
}

#[test]
fn meshhooks_own_verification_passes() {
    let server = Server::preloaded().start();
    server.set_up("postgres");
    server.script("postgres", &fixture("meshhook_events_protection.sql"));
    let lines = verify_meshhook(&server);
    assert_eq!(lines.lines().filter(|line| line.starts_with("ok ")).count(), 14, "{lines}");
}

/// The bounds of the partitions in the order of time, as `from to`.
fn bounds(server: &Server) -> Vec<(String, String)> {
    let lines: Vec<String> = server.all(
        "postgres",
        r"SELECT substring(pg_get_expr(relpartbound, oid) FROM 'FROM \(''(.*)''\) TO') || '|' ||
                 substring(pg_get_expr(relpartbound, oid) FROM 'TO \(''(.*)''\)')
          FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1",
    );
    let pair =
        |line: String| line.split_once('|').map(|(from, to)| (from.to_owned(), to.to_owned()));
    lines.into_iter().map(|line| pair(line).unwrap()).collect()
}

#[test]
fn meshhooks_own_partitions_are_adopted() {
    for zone in ["UTC", "America/New_York"] {
        let server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
        server.script("postgres", &fixture("meshhook.sql"));
        let old = fixture("old_meshhook_partitioned.sql");
        server.script("postgres", &format!("\\set tz {zone}\n{old}"));
        server.script("postgres", &fixture("meshhook_events_protection.sql"));
        let run = server.make_run("postgres");
        let add = format!(
            "INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT '{run}', now() + n * interval '1 month', 't', '{{}}' FROM generate_series(-2, 3) n"
        );
        server.run("postgres", &add);
        let before = bounds(&server);
        assert_eq!(before.len(), 6);

        server
            .run("postgres", "CREATE EXTENSION pg_meshhook_events; SELECT setup_workflow_events()");
        assert!(bounds(&server).starts_with(&before), "{zone}: what was there stays as it is");
        let attached = "SELECT count(*) FROM pg_inherits h JOIN pg_index i ON i.indexrelid = h.inhrelid \
                        WHERE NOT i.indisunique";
        let partitions = bounds(&server).len() as i64;
        assert_eq!(server.ask::<i64>(attached), 3 * partitions, "{zone}");
        let valid = "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 'workflow_events'::regclass";
        assert!(server.ask::<bool>(valid), "{zone}");

        // Time goes on: more months are wanted.
        server.run("postgres", "UPDATE meshhook_events.policy SET premake = 9");
        server.run("postgres", "SELECT maintain_workflow_events_partitions()");
        let after = bounds(&server);
        assert!(after.len() >= 12, "{zone}: {after:?}");
        for pair in after.windows(2) {
            assert_eq!(pair[0].1, pair[1].0, "{zone}: a gap or an overlap in {after:?}");
        }
        let again: Vec<String> = server.all(
            "postgres",
            "SELECT concat_ws(' ', object_name, status, detail) FROM setup_workflow_events() \
             WHERE status IN ('made', 'repaired')",
        );
        assert_eq!(again, Vec::<String>::new(), "{zone}: the second call changes nothing");
        assert_eq!(bounds(&server), after);
        assert_eq!(server.ask::<i64>("SELECT count(*) FROM workflow_events"), 6);
        verify_meshhook(&server);
    }
}

#[test]
fn a_plain_table_is_refused_and_left_alone() {
    for form in ["current", "older"] {
        let server = Server::preloaded().start();
        server.script("postgres", &fixture("meshhook.sql"));
        let plain = fixture("plain_events.sql");
        server.script("postgres", &format!("\\set form {form}\n{plain}"));
        let run = server.make_run("postgres");
        server.run(
            "postgres",
            &format!(
                "INSERT INTO workflow_events (run_id, type, payload) \
                 SELECT '{run}', 't', '{{}}' FROM generate_series(1, 17)"
            ),
        );
        server.run("postgres", "CREATE EXTENSION pg_meshhook_events");
        let state = "SELECT string_agg(c::text, '; ' ORDER BY c.oid) \
                     || (SELECT count(*) FROM meshhook_events.policy) \
                     || (SELECT count(*) FROM meshhook_events.maintenance_log) \
                     FROM (SELECT oid, relname, relkind, relfilenode, relowner, relacl FROM pg_class \
                           WHERE relnamespace = 'public'::regnamespace) c";
        let before: String = server.ask(state);
        let error = server.connect("postgres").batch_execute("SELECT setup_workflow_events()");
        let error = error.expect_err(form);
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "42809", "{error}");
        assert!(error.detail().is_some_and(|detail| detail.contains("17 rows")), "{error:?}");
        assert_eq!(server.ask::<String>(state), before);
    }
}
