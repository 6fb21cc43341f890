//! Event logs with months that a retention of a year wants to drop, and the runs whose events they hold.

use std::sync::{Arc, Mutex};

use postgres::error::DbError;
use postgres::{Client, Config, NoTls};

use crate::server::Server;

/// What makes such months: runs have numbers, months are counted from the current one.
const TOOLS: &str = r"
CREATE SCHEMA t;
CREATE FUNCTION t.run(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$SELECT lpad(n::text, 32, '0')::uuid$$;
CREATE FUNCTION t.start(month int) RETURNS timestamptz LANGUAGE sql STABLE AS
$$SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + month * interval '1 month') AT TIME ZONE 'UTC'$$;
-- An event of a run in a month, an hour of it for each number, so that the lowest number has the oldest.
CREATE FUNCTION t.event(month int, n int) RETURNS void LANGUAGE sql AS
$$INSERT INTO workflow_events (run_id, ts, type, payload)
  VALUES (t.run(n), t.start(month) + n * interval '1 hour', 't', '{}')$$;
CREATE FUNCTION t.new_run(n int) RETURNS void LANGUAGE sql AS
$$INSERT INTO workflow_runs (id, project_id, workflow_id)
  SELECT t.run(n), project_id, id FROM workflow_definitions LIMIT 1 ON CONFLICT DO NOTHING$$;
CREATE FUNCTION t.add(month int, variadic runs int[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM create_workflow_events_partition(t.start(month));
    PERFORM t.new_run(n), t.event(month, n) FROM unnest(runs) n;
END $$;
CREATE FUNCTION t.finish(variadic runs int[]) RETURNS void LANGUAGE sql AS
$$UPDATE workflow_runs SET status = 'succeeded', finished_at = now() WHERE id IN (SELECT t.run(n) FROM unnest(runs) n)$$;
CREATE FUNCTION t.reopen(variadic runs int[]) RETURNS void LANGUAGE sql AS
$$UPDATE workflow_runs SET status = 'running', finished_at = NULL WHERE id IN (SELECT t.run(n) FROM unnest(runs) n)$$;
";

/// What a session is told beside its answers.
pub type Notices = Arc<Mutex<Vec<DbError>>>;

impl Server {
    /// Makes MeshHook's schema and the event log in a database, with tools to fill it: `t.add(month, runs…)` makes a month
    /// with an event of each run, which go on until `t.finish(runs…)`, and again after `t.reopen(runs…)`.
    pub fn set_up_months(&self, database: &str) {
        self.set_up(database);
        self.make_run(database);
        self.run(database, TOOLS);
    }

    /// A session of the superuser in the database `postgres` that takes down what it is told.
    pub fn connect_with_notices(&self) -> (Client, Notices) {
        let notices = Notices::default();
        let config = self.conninfo("postgres", "postgres").parse::<Config>();
        let mut config = config.expect("it is a connection string");
        let told = Arc::clone(&notices);
        config.notice_callback(move |notice| {
            told.lock().expect("nobody panics with it").push(notice);
        });
        (config.connect(NoTls).expect("the superuser can connect"), notices)
    }

    /// Where the month's table is: `attached`, `parked`, `aside` where nothing is known of it, or `gone`.
    pub fn place_of(&self, database: &str, month: &str) -> String {
        self.ask_in(
            database,
            &format!(
                "SELECT coalesce((SELECT CASE WHEN c.relispartition THEN 'attached' \
                     WHEN EXISTS (SELECT FROM meshhook_events.retired_partition r \
                                  WHERE r.relation = c.oid AND r.state <> 'detaching') THEN 'parked' ELSE 'aside' END \
                 FROM pg_class c WHERE c.oid = to_regclass('{month}')), 'gone')"
            ),
        )
    }

    /// The plan for a month: what is done with it, and why.
    pub fn planned_for(&self, database: &str, month: &str) -> Vec<(String, String)> {
        let sql = format!(
            "SELECT action || '|' || reason FROM plan_workflow_events_maintenance() WHERE partition_name = '{month}'"
        );
        let split = |row: String| {
            let (action, reason) = row.split_once('|').expect("it is put between them");
            (action.to_owned(), reason.to_owned())
        };
        self.all(database, &sql).into_iter().map(split).collect()
    }
}
