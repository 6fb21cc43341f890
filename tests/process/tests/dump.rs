//! Backup and restore, and the extension's own coming and going: no row, setting or partition is lost.

use std::process::Stdio;

use process::Server;

/// Runs one of the installation's programs on the server, which must succeed; its output.
fn run(server: &Server, program: &str, arguments: &[&str]) -> String {
    let output = server.command(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {messages}\n{}", server.log());
    assert_eq!(messages, "", "{program} {arguments:?}");
    String::from_utf8(output.stdout).expect("a dump is UTF-8")
}

/// A server whose database `source` has a log with rows, a policy of its own and a ledger, and whose worker serves these
/// databases.
fn with_source(served: &str) -> Server {
    let server = Server::preloaded().conf("pg_meshhook_events.databases", served).start();
    server.create_database("source");
    server.set_up("source");
    server.script("source", &process::fixture("meshhook_events_protection.sql"));
    server.run("source", "UPDATE meshhook_events.policy SET premake = 5, retention = '24 months'");
    server.run("source", "SELECT setup_workflow_events()");
    let run = server.make_run("source");
    let events = format!(
        "INSERT INTO workflow_events (run_id, ts, type, payload) \
         SELECT '{run}', now() + n * interval '1 month', 't', '{{}}' FROM generate_series(-2, 2) n"
    );
    server.run("source", &events);
    server.wait_until_idle();
    server
}

/// What a restored database must have in common with its source.
fn contents(server: &Server, database: &str) -> Vec<String> {
    let parts = [
        "SELECT 'policy ' || p FROM meshhook_events.policy p",
        "SELECT 'event ' || e || tableoid::regclass FROM workflow_events e ORDER BY 1",
        "SELECT 'partition ' || relname || pg_get_expr(relpartbound, oid) FROM pg_class \
         WHERE relispartition AND relkind = 'r' ORDER BY 1",
        "SELECT concat_ws(' ', 'index', h.inhrelid::regclass, h.inhparent::regclass) FROM pg_inherits h \
         JOIN pg_index ON indexrelid = inhrelid ORDER BY 1",
        "SELECT concat_ws(' ', 'policy of rows', tablename, policyname, qual, with_check) FROM pg_policies ORDER BY 1",
        "SELECT concat_ws(' ', 'function', p.oid::regprocedure, has_function_privilege('anon', p.oid, 'EXECUTE')) FROM pg_proc p \
         WHERE pronamespace IN ('public'::regnamespace, 'meshhook_events'::regnamespace) ORDER BY 1",
        "SELECT concat_ws(' ', 'member', pg_describe_object(classid, objid, objsubid)) FROM pg_depend \
         WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_meshhook_events') \
         ORDER BY 1",
    ];
    parts.into_iter().flat_map(|query| server.all::<String>(database, query)).collect()
}

/// The entries of the ledger up to one, as text.
fn ledger(server: &Server, database: &str, up_to: i64) -> Vec<String> {
    let query = format!(
        "SELECT l::text FROM meshhook_events.maintenance_log l WHERE id <= {up_to} ORDER BY id"
    );
    server.all(database, &query)
}

fn assert_restored(server: &Server, database: &str) {
    // The worker may have looked at the copy already, and found nothing to do.
    let last: i64 = server.ask_in("source", "SELECT max(id) FROM meshhook_events.maintenance_log");
    assert!(last > 0);
    assert_eq!(ledger(server, database, last), ledger(server, "source", last));
    let [copy, source] = [database, "source"].map(|database| contents(server, database));
    let missing: Vec<_> = source.iter().filter(|line| !copy.contains(line)).collect();
    let added: Vec<_> = copy.iter().filter(|line| !source.contains(line)).collect();
    assert!(
        missing.is_empty() && added.is_empty(),
        "missing: {missing:#?}
added: {added:#?}"
    );
    let failed = "SELECT concat_ws(' ', check_name, detail) FROM verify_workflow_events() WHERE status = 'failed'";
    assert_eq!(server.all::<String>(database, failed), Vec::<String>::new());
    // New entries and events have numbers of their own, and maintenance goes on.
    let missing = server.drop_month(database, 3);
    let attempt = server.pass(database);
    assert!(attempt.id > last, "{attempt:?}");
    assert_eq!(attempt.status, "ok", "{attempt:?}");
    assert!(server.partitions(database).contains(&missing));
    let next: i64 = server.ask_in(
        database,
        "INSERT INTO workflow_events (run_id, type, payload) SELECT id, 't', '{}' FROM workflow_runs RETURNING id",
    );
    // The health check's probes have taken a few numbers.
    assert!(next > 5, "{next}");
}

/// Restores a dump up to the statement that begins so, has the worker look, and restores the rest; what is wrong then.
fn restore_in_two_parts(next: &str) -> Option<String> {
    let mut server = with_source("copy");
    // A month has come since the dump was made: the worker would have something to do.
    server.drop_month("source", 5);
    let dump = run(&server, "pg_dump", &["source"]);
    let header = &dump[..dump.find("-- Name: ").expect("a dump has objects")];
    let middle = dump.find(next).unwrap_or_else(|| panic!("the dump has no {next}"));
    server.set_conf("pg_meshhook_events.enabled", "off");
    server.set_conf("log_min_messages", "debug1");
    server.restart();
    server.create_database("copy");
    server.script("copy", &dump[..middle]);
    server.turn_on();
    let oid: u32 = server.ask("SELECT oid FROM pg_database WHERE datname = 'copy'");
    let looked = format!("worker of database {oid} ended");
    server.wait_until("the worker has looked", |server| server.log().contains(&looked));
    server.wait_until_idle();
    let rest = server.psql("copy", &format!("{header}{}", &dump[middle..]));
    if !rest.success {
        return Some(rest.stderr);
    }
    // Row level security comes last in a dump, privileges after it: a partition made just before is closed by
    // the next pass. Setup copies the policies; privileges are named, not changed.
    server.pass("copy");
    let open = "SELECT c.relname::text FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid \
                WHERE inhparent = 'workflow_events'::regclass AND NOT c.relrowsecurity";
    let open: Vec<String> = server.all("copy", open);
    if !open.is_empty() {
        return Some(format!("open: {}", open.join(", ")));
    }
    server.run("copy", "SELECT count(*) FROM setup_workflow_events()");
    let amiss = "SELECT concat_ws(' ', check_name, detail) FROM verify_workflow_events() \
                 WHERE check_name IN ('indexes', 'protection', 'primary_key', 'foreign_key') \
                   AND status <> 'ok' AND (check_name, status) <> ('protection', 'warning')";
    let amiss: Vec<String> = server.all("copy", amiss);
    if !amiss.is_empty() {
        return Some(amiss.join("; "));
    }
    // Now that it is there, it is maintained.
    server.run("copy", "SELECT meshhook_events.wake_worker()");
    server.wait_for_partition("copy", &server.month(5));
    None
}

/// CREATE EXTENSION wakes the worker, and a restore may take hours: it looks at databases that are half restored.
#[test]
fn a_worker_that_looks_in_the_middle_of_a_restore_does_not_spoil_it() {
    let problems: Vec<_> = [
        "CREATE TABLE public.workflow_events_y",
        "ALTER TABLE ONLY public.workflow_events ATTACH PARTITION",
        "COPY meshhook_events.maintenance_log",
        "COPY meshhook_events.policy",
        "ALTER TABLE ONLY public.workflow_events\n    ADD CONSTRAINT workflow_events_pkey",
        "ALTER TABLE public.workflow_events ENABLE ROW LEVEL SECURITY",
    ]
    .into_iter()
    .filter_map(|next| Some(format!("before {next}: {}", restore_in_two_parts(next)?)))
    .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_plain_dump_brings_everything_back() {
    let server = with_source("*");
    let dump = run(&server, "pg_dump", &["source"]);
    server.create_database("copy");
    server.script("copy", &dump);
    assert_restored(&server, "copy");
}

#[test]
fn an_archive_brings_everything_back() {
    let server = with_source("*");
    let file = server.data().join("source.dump");
    let file = file.to_str().unwrap();
    run(&server, "pg_dump", &["--format=custom", "--file", file, "source"]);
    server.create_database("copy");
    run(&server, "pg_restore", &["--exit-on-error", "--dbname=copy", file]);
    assert_restored(&server, "copy");

    // Several of its processes at once find no other order.
    server.create_database("parallel");
    run(&server, "pg_restore", &["--exit-on-error", "--jobs=2", "--dbname=parallel", file]);
    assert_restored(&server, "parallel");
}

#[test]
fn dropping_the_extension_leaves_every_row_and_creating_it_again_adopts_the_table() {
    let server = with_source("*");
    let rows =
        "SELECT string_agg(e::text || tableoid::regclass, ', ' ORDER BY id) FROM workflow_events e";
    let (before, partitions) =
        (server.ask_in::<String>("source", rows), server.partitions("source"));
    server.run("source", "DROP EXTENSION pg_meshhook_events");
    assert_eq!(server.ask_in::<String>("source", rows), before);
    assert_eq!(server.partitions("source"), partitions);
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'meshhook_events'";
    assert_eq!(server.ask_in::<i64>("source", left), 0);

    server.drop_month("source", 3);
    server.run("source", "CREATE EXTENSION pg_meshhook_events");
    server.wait_for_partition("source", &server.month(3));
    let steps = "SELECT concat_ws(' ', object_name, status) FROM setup_workflow_events()";
    assert_eq!(server.all::<String>("source", steps), ["workflow_events kept"]);
    assert_eq!(server.ask_in::<String>("source", rows), before);
    let failed = "SELECT concat_ws(' ', check_name, detail) FROM verify_workflow_events() WHERE status = 'failed'";
    assert_eq!(server.all::<String>("source", failed), Vec::<String>::new());
}
