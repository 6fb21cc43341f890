//! Event logs on a server: making one, looking at it, and following the background worker that keeps it.

use std::fs;
use std::path::Path;

use postgres::types::FromSqlOwned;

use crate::poll::{DEADLINE, poll_until};
use crate::server::{Builder, Server};

/// A schedule whose times are years apart, so that none comes during a test.
pub const SELDOM: &str = "0 0 29 2 *";

/// How the worker's attempt went, from the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The number of its entry.
    pub id: i64,
    /// `create`, `retire` or `seal`.
    pub task: String,
    /// How many attempts in a row have ended like this.
    pub tries: i32,
    /// `running`, `ok`, `warning`, `failed` or `crashed`.
    pub status: String,
    /// The SQLSTATE of the first failure.
    pub sqlstate: Option<String>,
    /// The details, as JSON.
    pub details: String,
}

/// The text of a file of `tests/fixtures`.
pub fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Server {
    /// A server with the extension preloaded and its schedule out of the way: the worker looks at a database at its
    /// start, and when it is woken. The launcher says at DEBUG1 when a pass has ended.
    pub fn preloaded() -> Builder {
        Self::builder()
            .conf("shared_preload_libraries", "pg_meshhook_events")
            .conf("pg_meshhook_events.schedule", SELDOM)
            .conf("log_min_messages", "debug1")
    }

    /// Such a server whose database `postgres` has an event log, with nothing left to do for its worker.
    pub fn with_idle_worker() -> Self {
        let mut server = Self::with_worker_off();
        server.turn_on_and_restart();
        server.wait_until("the worker has looked at the log", |server| {
            let attempts = server.attempts("postgres");
            attempts.first().is_some_and(|attempt| attempt.status != "running")
        });
        server.wait_until_idle();
        server
    }

    /// Such a server whose database `postgres` has an event log, with the worker turned off.
    pub fn with_worker_off() -> Self {
        let server = Self::preloaded().conf("pg_meshhook_events.enabled", "off").start();
        server.set_up("postgres");
        server
    }

    /// The same, and nothing else works there by itself either: what a test leaves in pages stays.
    pub fn with_nothing_going_on() -> Self {
        let builder = Self::preloaded().conf("pg_meshhook_events.enabled", "off");
        let server = builder.conf("autovacuum", "off").start();
        server.set_up("postgres");
        server
    }

    /// Turns the worker on by a restart, which also forgets who has asked for it before.
    pub fn turn_on_and_restart(&mut self) {
        self.set_conf("pg_meshhook_events.enabled", "on");
        self.restart();
    }

    /// Turns the worker on by a reload.
    pub fn turn_on(&mut self) {
        self.set_conf("pg_meshhook_events.enabled", "on");
        self.reload();
    }

    /// Makes a database.
    pub fn create_database(&self, name: &str) {
        self.run("postgres", &format!("CREATE DATABASE \"{name}\""));
    }

    /// Makes MeshHook's schema, the extension and the event log in a database. What is retired there is not parked, and nothing
    /// is sealed there unless a test asks for it: which months are closed depends on the day.
    pub fn set_up(&self, database: &str) {
        self.script(database, &fixture("meshhook.sql"));
        self.run(
            database,
            "CREATE EXTENSION pg_meshhook_events; SELECT setup_workflow_events(); \
             UPDATE meshhook_events.policy SET grace = '0', seal_after = NULL",
        );
    }

    /// Makes a run that has finished, with the project and workflow that it needs, and gives its id: retention needn't keep
    /// its events.
    pub fn make_run(&self, database: &str) -> String {
        self.ask_in(
            database,
            "WITH project AS (INSERT INTO projects (owner, name) VALUES (gen_random_uuid(), 'shop') RETURNING id), \
             workflow AS (INSERT INTO workflow_definitions (project_id, slug, definition) \
                 SELECT id, 'orders', '{}' FROM project RETURNING id, project_id) \
             INSERT INTO workflow_runs (project_id, workflow_id, status, finished_at) \
                 SELECT project_id, id, 'succeeded', now() FROM workflow RETURNING id::text",
        )
    }

    /// Runs a script with psql, which must succeed.
    pub fn script(&self, database: &str, sql: &str) -> String {
        let psql = self.psql(database, sql);
        assert!(psql.success, "{}\n{}", psql.stderr, self.log());
        psql.stdout
    }

    /// Runs statements as the superuser, which must succeed.
    pub fn run(&self, database: &str, sql: &str) {
        self.connect(database)
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}\n{}", self.log()));
    }

    /// The first column of a query.
    pub fn all<T: FromSqlOwned>(&self, database: &str, query: &str) -> Vec<T> {
        let rows = self.connect(database).query(query, &[]);
        let rows = rows.unwrap_or_else(|error| panic!("{query}: {error:?}\n{}", self.log()));
        rows.into_iter().map(|row| row.get(0)).collect()
    }

    /// The one value that a query gives in a database.
    pub fn ask_in<T: FromSqlOwned>(&self, database: &str, query: &str) -> T {
        let mut values = self.all(database, query);
        assert_eq!(values.len(), 1, "{query} gives that many rows");
        values.remove(0)
    }

    /// The name of the partition for the month that lies `ahead` of the current one.
    pub fn month(&self, ahead: i32) -> String {
        self.ask(&format!(
            "SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + {ahead} * interval '1 month', \
             '\"workflow_events_y\"YYYY\"m\"MM')"
        ))
    }

    /// The names of the partitions in a database, in order.
    pub fn partitions(&self, database: &str) -> Vec<String> {
        self.all(
            database,
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE i.inhparent = 'workflow_events'::regclass ORDER BY 1",
        )
    }

    /// Drops the partition of the month that lies `ahead`, and gives its name.
    pub fn drop_month(&self, database: &str, ahead: i32) -> String {
        let name = self.month(ahead);
        self.run(database, &format!("DROP TABLE {name}"));
        name
    }

    /// Waits until the log of a database has a partition of that name.
    pub fn wait_for_partition(&self, database: &str, name: &str) {
        self.wait_until(&format!("{database} has {name}"), |server| {
            server.partitions(database).iter().any(|partition| partition == name)
        });
    }

    /// The worker's attempts in a database, the latest first.
    pub fn attempts(&self, database: &str) -> Vec<Attempt> {
        let rows = self.connect(database).query(
            "SELECT id, task, status, sqlstate, coalesce(details::text, ''), attempts \
             FROM meshhook_events.maintenance_log \
             WHERE origin = 'worker' ORDER BY id DESC",
            &[],
        );
        let rows = rows.unwrap_or_else(|error| panic!("the ledger: {error:?}\n{}", self.log()));
        rows.into_iter()
            .map(|row| Attempt {
                id: row.get(0),
                task: row.get(1),
                status: row.get(2),
                sqlstate: row.get(3),
                details: row.get(4),
                tries: row.get(5),
            })
            .collect()
    }

    /// The worker's attempts at a task in a database, the latest first.
    pub fn attempts_at(&self, database: &str, task: &str) -> Vec<Attempt> {
        let mut attempts = self.attempts(database);
        attempts.retain(|attempt| attempt.task == task);
        attempts
    }

    /// Wakes the worker for a database, waits until a pass has ended that began after that, and gives the last attempt
    /// that has ended. A pass that finds nothing to do is none.
    pub fn pass(&self, database: &str) -> Attempt {
        self.look(database);
        let ended = |attempt: &Attempt| attempt.status != "running";
        let attempt = self.attempts(database).into_iter().find(ended);
        attempt.unwrap_or_else(|| panic!("no attempt in {database}\n{}", self.log()))
    }

    /// The launcher's process id, if it is there.
    pub fn launcher(&self) -> Option<i32> {
        let pids =
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_meshhook_events launcher'";
        self.all("postgres", pids).pop()
    }

    /// What the launcher says in `pg_stat_activity`.
    pub fn launcher_activity(&self) -> Option<String> {
        let query =
            "SELECT query FROM pg_stat_activity WHERE backend_type = 'pg_meshhook_events launcher'";
        self.all("postgres", query).pop()
    }

    /// The process ids of the workers, of one database or all.
    pub fn workers(&self, database: Option<&str>) -> Vec<i32> {
        let rows = self.connect("postgres").query(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_meshhook_events worker' \
             AND ($1::text IS NULL OR datname = $1)",
            &[&database],
        );
        let rows =
            rows.unwrap_or_else(|error| panic!("pg_stat_activity: {error:?}\n{}", self.log()));
        rows.into_iter().map(|row| row.get(0)).collect()
    }

    /// Waits until the launcher runs, has looked around, and no worker is left.
    pub fn wait_until_idle(&self) {
        self.wait_until("the launcher is idle", |server| {
            let idle =
                server.launcher_activity().is_some_and(|activity| activity.ends_with(" 0 workers"));
            idle && server.workers(None).is_empty()
        });
    }

    /// Waits until a worker of that database waits for a lock, and gives its process id.
    pub fn wait_for_waiting_worker(&self, database: &str) -> i32 {
        let query = format!(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_meshhook_events worker' \
             AND datname = '{database}' AND wait_event_type = 'Lock'"
        );
        self.wait_for("a worker waits for a lock", |server| server.all("postgres", &query).pop())
    }

    /// Waits until something is so.
    pub fn wait_until(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        self.wait_for(what, |server| so(server).then_some(()));
    }

    /// Waits until `look` finds something, and gives it.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        poll_until(DEADLINE, || look(self))
            .unwrap_or_else(|| panic!("not within {DEADLINE:?}: {what}\n{}", self.log()))
    }
}
