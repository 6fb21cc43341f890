//! Users of the REST interface: they see their own rows, before, during and after, wherever rows are.

use postgres::Client;
use postgres::error::SqlState;
use process::Server;

use crate::stage::DATABASE;

/// A session of the REST interface, as the user of that number; 0 is anybody.
pub fn session(server: &Server, user: i32) -> Client {
    let mut client = server.connect(DATABASE);
    let role = if user == 0 { "anon" } else { "authenticated" };
    let claims = "SELECT set_config('request.jwt.claims', json_build_object('sub', t.user_id($1))::text, false)";
    if user != 0 {
        client.execute(claims, &[&user]).expect("it may be set");
    }
    client.batch_execute(&format!("SET ROLE {role}")).expect("the superuser may");
    client
}

/// The tables and views that a role can read a column of and that hold events or numbers of them.
const READABLE: &str = "SELECT DISTINCT attrelid::regclass::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid \
     WHERE relnamespace IN ('public'::regnamespace, 'meshhook_events'::regnamespace) AND relkind IN ('r', 'p', 'v', 'm') \
       AND attname IN ('run_id', 'event_id', 'id') AND relname NOT IN ('projects', 'workflow_definitions', 'workflow_runs') \
       AND has_schema_privilege(relnamespace, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT') ORDER BY 1";

/// Each user sees exactly the events of the runs of his own, and nothing through any other relation that he can read.
pub fn assert_apart(server: &Server) {
    for user in 0..=2 {
        let mut client = session(server, user);
        let relations = client.query(READABLE, &[]).expect("it answers");
        let relations: Vec<String> = relations.into_iter().map(|row| row.get(0)).collect();
        assert!(relations.iter().any(|name| name == "workflow_events"), "{relations:?}");
        for relation in relations {
            // Whose they are is asked as the superuser: users can't see the runs of others.
            let seen = format!(
                "SELECT coalesce(array_agg(DISTINCT 2 - right(run_id::text, 1)::int % 2), '{{}}') FROM {relation}"
            );
            let has_run = "SELECT EXISTS (SELECT FROM pg_attribute \
                           WHERE attrelid = to_regclass($1::text) AND attname = 'run_id')";
            let has_run: bool = client.query_one(has_run, &[&relation]).expect("it answers").get(0);
            let question = if has_run {
                seen
            } else {
                // What has no run shows nothing at all.
                format!(
                    "SELECT array_agg(0) FILTER (WHERE true) FROM (SELECT FROM {relation} LIMIT 1) x"
                )
            };
            let row = match client.query_one(&question, &[]) {
                Ok(row) => row,
                // What is being made is not there for long.
                Err(error)
                    if error.code() == Some(&SqlState::UNDEFINED_TABLE)
                        && relation != "workflow_events" =>
                {
                    continue;
                }
                Err(error) => panic!("{question}: {error:?}\n{}", server.log()),
            };
            let owners: Vec<i32> = row.get::<_, Option<_>>(0).unwrap_or_default();
            // What is being filled may be empty yet.
            let must_see =
                user != 0 && ["workflow_events", "failed_events"].contains(&relation.as_str());
            let allowed: &[&[i32]] = match (user, must_see) {
                (0, _) => &[&[]],
                (_, true) => &[&[user]],
                (_, false) => &[&[], &[user]],
            };
            assert!(
                allowed.contains(&owners.as_slice()),
                "user {user} sees rows of {owners:?} in {relation}"
            );
        }
        assert_sees_his_own(server, &mut client, user);
    }
}

/// He sees all of his events, as many as the superuser sees of his runs.
fn assert_sees_his_own(server: &Server, client: &mut Client, user: i32) {
    let seen: String =
        client.query_one("SELECT t.rows_of('workflow_events')", &[]).expect("it answers").get(0);
    let own = format!(
        "SELECT t.rows_of('(SELECT * FROM workflow_events WHERE {user} > 0 \
                            AND 2 - right(run_id::text, 1)::int % 2 = {user})')"
    );
    assert_eq!(seen, server.ask_in::<String>(DATABASE, &own), "what user {user} sees");
}
