//! Workers where a test wants them: waiting for a lock, or busy in code that the log's owner has planted.

use std::time::Duration;

use postgres::Client;

use crate::poll::{DEADLINE, poll_until};
use crate::server::{Builder, Server};

/// How long a worker is waited for before its lock's holder begins a new transaction. A worker doesn't try to lock what
/// a transaction older than a second holds.
const YOUNG: Duration = Duration::from_millis(900);

impl Server {
    /// As [`preloaded`](Self::preloaded), with a worker that waits for its locks for so long that a test can act
    /// meanwhile.
    pub fn with_patient_worker() -> Builder {
        Self::preloaded().conf("pg_meshhook_events.lock_timeout", "10s")
    }

    /// Makes a role and gives it the event log with its partitions, and the runs.
    pub fn give_log(&self, database: &str, role: &str) {
        let give = format!(
            "CREATE ROLE {role} LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO {role}; \
             ALTER TABLE workflow_runs OWNER TO {role}; \
             DO $$ DECLARE t regclass; BEGIN \
                 FOR t IN SELECT relid FROM pg_partition_tree('workflow_events') LOOP \
                     EXECUTE format('ALTER TABLE %s OWNER TO {role}', t); \
                 END LOOP; \
             END $$"
        );
        self.run(database, &give);
    }

    /// Brings the worker of a database to wait for a lock on `workflow_runs`, with next month's partition to make. Gives
    /// the session that holds the lock, and the worker's process id.
    pub fn make_worker_wait(&self, database: &str) -> (Client, i32) {
        let month = self.month(1);
        self.make_worker_wait_behind(database, |server| {
            server.run(database, &format!("DROP TABLE IF EXISTS {month}"));
            let mut holder = server.connect(database);
            let lock = "BEGIN; LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE";
            holder.batch_execute(lock).expect("nobody else holds it");
            holder
        })
    }

    /// Brings the worker of a database to wait for a lock that the session of `hold` holds, which is begun anew until
    /// that has come about.
    pub fn make_worker_wait_behind(
        &self,
        database: &str,
        hold: impl Fn(&Self) -> Client,
    ) -> (Client, i32) {
        let waiting = format!(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_meshhook_events worker' \
             AND datname = '{database}' AND wait_event_type = 'Lock'"
        );
        let made = poll_until(DEADLINE, || {
            let holder = hold(self);
            self.wake(database);
            let worker = poll_until(YOUNG, || self.all("postgres", &waiting).pop());
            worker.map(|worker| (holder, worker))
        });
        made.unwrap_or_else(|| panic!("no worker waits in {database}\n{}", self.log()))
    }

    /// Plants PL/pgSQL code in an index of the event log, in the place of what was planted before: it runs, as the log's
    /// owner, whenever a partition is made.
    pub fn plant(&self, database: &str, body: &str) {
        let code = format!(
            "DROP INDEX IF EXISTS planted; DROP SCHEMA IF EXISTS planted CASCADE; CREATE SCHEMA planted; \
             CREATE FUNCTION planted.code() RETURNS void LANGUAGE plpgsql AS 'BEGIN END'; \
             CREATE FUNCTION planted.bait(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS \
                 'BEGIN PERFORM planted.code(); RETURN x; END'; \
             GRANT USAGE ON SCHEMA planted TO PUBLIC; \
             CREATE INDEX planted ON workflow_events (planted.bait('x'::text)); \
             CREATE OR REPLACE FUNCTION planted.code() RETURNS void LANGUAGE plpgsql AS \
                 $planted$ BEGIN PERFORM set_config('application_name', 'planted', false); {body} END $planted$"
        );
        self.run(database, &code);
    }

    /// Plants PL/pgSQL code in event triggers: it runs in whoever drops this partition or detaches it, at the end of that.
    pub fn plant_on_retirement(&self, database: &str, partition: &str, body: &str) {
        let oid: u32 = self.ask_in(database, &format!("SELECT '{partition}'::regclass::oid"));
        let code = format!(
            "CREATE FUNCTION public.on_drop() RETURNS event_trigger LANGUAGE plpgsql AS $on_drop$ BEGIN \
                 IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() \
                            WHERE classid = 'pg_class'::regclass AND objid = {oid}) THEN {body} END IF; END $on_drop$; \
             CREATE EVENT TRIGGER on_drop ON sql_drop EXECUTE FUNCTION public.on_drop(); \
             CREATE FUNCTION public.on_alter() RETURNS event_trigger LANGUAGE plpgsql AS $on_alter$ BEGIN \
                 IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = {oid}) \
                     AND EXISTS (SELECT FROM pg_class WHERE oid = {oid}) THEN {body} END IF; END $on_alter$; \
             CREATE EVENT TRIGGER on_alter ON ddl_command_end WHEN tag IN ('ALTER TABLE') \
                 EXECUTE FUNCTION public.on_alter()"
        );
        self.run(database, &code);
    }

    /// Drops next month's partition, wakes the worker, and waits until it runs the planted code, which is then taken
    /// away, so that it runs this once. The worker's process id.
    pub fn make_worker_work(&self, database: &str) -> i32 {
        self.run(database, &format!("DROP TABLE IF EXISTS {}", self.month(1)));
        self.wake(database);
        let query = format!(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_meshhook_events worker' \
             AND datname = '{database}' AND application_name = 'planted'"
        );
        let worker = self.wait_for("a worker runs the planted code", |server| {
            server.all("postgres", &query).pop()
        });
        let harmless = "CREATE OR REPLACE FUNCTION planted.code() RETURNS void LANGUAGE plpgsql AS 'BEGIN END'";
        self.run(database, harmless);
        worker
    }
}
