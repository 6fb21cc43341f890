//! Reading a run's events gives what the plain SELECT gives, and runs nobody's code that this one wouldn't.

use postgres::Client;
use process::Server;

/// Two runs, three events of each, and the ids of the runs.
fn with_events() -> (Server, [String; 2]) {
    let server = Server::with_worker_off();
    let runs = [server.make_run("postgres"), {
        server.ask(
            "INSERT INTO workflow_runs (project_id, workflow_id) SELECT project_id, id FROM workflow_definitions \
             RETURNING id::text",
        )
    }];
    server.run(
        "postgres",
        "INSERT INTO workflow_events (run_id, ts, type, payload) \
         SELECT r.id, now() + n * interval '1 day', 't' || n, '{}' FROM workflow_runs r, generate_series(-1, 1) n",
    );
    server.run("postgres", "CREATE ROLE reader LOGIN; GRANT SELECT ON workflow_events TO reader");
    (server, runs)
}

fn texts(client: &mut Client, sql: &str) -> Vec<String> {
    let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.into_iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_policy_that_depends_on_the_callers_search_path_is_obeyed() {
    let (server, [shown, other]) = with_events();
    let script = format!(
        "CREATE SCHEMA north; CREATE TABLE north.mine (run_id uuid); INSERT INTO north.mine VALUES ('{shown}'); \
         CREATE SCHEMA south; CREATE TABLE south.mine (run_id uuid); INSERT INTO south.mine VALUES ('{other}'); \
         GRANT USAGE ON SCHEMA north, south TO reader; GRANT SELECT ON north.mine, south.mine TO reader; \
         CREATE FUNCTION is_mine(wanted uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS \
             'BEGIN RETURN EXISTS (SELECT FROM mine WHERE mine.run_id = wanted); END'; \
         ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY mine ON workflow_events FOR SELECT TO reader USING (is_mine(run_id))"
    );
    server.run("postgres", &script);
    let mut reader = server.connect_as("postgres", "reader");
    for (schema, seen, unseen) in [("north", &shown, &other), ("south", &other, &shown)] {
        reader.batch_execute(&format!("SET search_path = {schema}, public")).unwrap();
        for (run, count) in [(seen, 3), (unseen, 0)] {
            let plain = format!(
                "SELECT e::text FROM workflow_events e WHERE run_id = '{run}' ORDER BY ts, id"
            );
            let function = format!("SELECT e::text FROM get_workflow_run_events('{run}') e");
            let plain = texts(&mut reader, &plain);
            assert_eq!(plain.len(), count, "{schema}");
            assert_eq!(texts(&mut reader, &function), plain, "{schema}");
        }
    }
}

#[test]
fn operators_planted_in_the_callers_search_path_are_not_called() {
    let (server, [run, _]) = with_events();
    server.run(
        "postgres",
        "CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO reader; \
         CREATE FUNCTION trap.compare(uuid, uuid) RETURNS boolean LANGUAGE plpgsql AS \
             'BEGIN RAISE LOG $$sprung by %$$, current_user; RETURN false; END'; \
         CREATE OPERATOR trap.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = trap.compare); \
         CREATE FUNCTION trap.compare(timestamptz, timestamptz) RETURNS boolean LANGUAGE plpgsql AS \
             'BEGIN RAISE LOG $$sprung by %$$, current_user; RETURN false; END'; \
         CREATE OPERATOR trap.>= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.compare); \
         CREATE OPERATOR trap.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.compare); \
         CREATE TABLE trap.workflow_events (LIKE public.workflow_events); \
         CREATE DOMAIN trap.int8 AS text; CREATE DOMAIN trap.uuid AS text; CREATE DOMAIN trap.jsonb AS text",
    );
    let mut reader = server.connect_as("postgres", "reader");
    let calls = [
        format!("SELECT e.type FROM public.get_workflow_run_events('{run}') e"),
        format!(
            "SELECT e.type FROM public.get_workflow_run_events('{run}', now() - pg_catalog.make_interval(days => 2), \
             now() + pg_catalog.make_interval(days => 2)) e"
        ),
    ];
    reader.batch_execute("SET search_path = trap, pg_catalog").unwrap();
    for call in &calls {
        assert_eq!(texts(&mut reader, call), ["t-1", "t0", "t1"], "{call}");
    }
    assert!(!server.log().contains("sprung by"), "{}", server.log());
    // They would be called by whoever says "=" there.
    let unwary =
        format!("SELECT type FROM public.workflow_events WHERE run_id = '{run}'::pg_catalog.uuid");
    assert_eq!(texts(&mut reader, &unwary), Vec::<String>::new());
    assert!(server.log().contains("sprung by reader"), "{}", server.log());
}
