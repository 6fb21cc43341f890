//! An event log with a worker that waits long enough for its locks to be met there, and what the log has to be like before
//! and afterwards.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use process::{Server, poll_until};

pub const DATABASE: &str = "postgres";

/// How many months ago the old partition was made. A year is kept.
const OLD: i32 = -20;

/// A server with an event log that has one event of now, and nothing to do for its worker.
pub fn server() -> Server {
    let server = Server::with_patient_worker().start();
    server.set_up(DATABASE);
    server.run(DATABASE, "UPDATE meshhook_events.policy SET retention = '12 months'");
    let run = server.make_run(DATABASE);
    let event = format!(
        "INSERT INTO workflow_events (run_id, type, payload) VALUES ('{run}', 'new', '{{}}')"
    );
    server.run(DATABASE, &event);
    server.look(DATABASE);
    server.wait_until_idle();
    server
}

/// The name of the old partition.
pub fn old(server: &Server) -> String {
    server.month(OLD)
}

/// Next month has no partition.
pub fn with_missing_month(server: &Server) {
    server.wait_until_idle();
    server.run(DATABASE, &format!("DROP TABLE IF EXISTS {}", server.month(1)));
}

/// There is a partition to be retired, with an event.
pub fn with_old_partition(server: &Server) {
    server.wait_until_idle();
    let month = format!("date_trunc('month', now()) + {OLD} * interval '1 month'");
    server.run(
        DATABASE,
        &format!(
            "SELECT create_workflow_events_partition({month}); \
             INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT id, {month} + interval '10 days', 'old', '{{}}' FROM workflow_runs \
             WHERE NOT EXISTS (SELECT FROM workflow_events WHERE type = 'old')"
        ),
    );
}

/// The worker has noted that it retires the old partition.
fn note(server: &Server, state: &str) {
    let old = old(server);
    server.run(
        DATABASE,
        &format!(
            "INSERT INTO meshhook_events.retired_partition \
             SELECT '{old}'::regclass, 'public', '{old}', d, d + interval '1 month', '{state}', now(), \
                    CASE '{state}' WHEN 'detached' THEN now() END \
             FROM (SELECT date_trunc('month', now()) + {OLD} * interval '1 month') AS month (d) \
             ON CONFLICT DO NOTHING"
        ),
    );
}

/// The old partition was left while it was being detached, by a user.
pub fn with_pending_detach(server: &Server) {
    with_old_partition(server);
    let mut reader = server.connect(DATABASE);
    reader.batch_execute("BEGIN; LOCK TABLE ONLY workflow_events IN ACCESS SHARE MODE").unwrap();
    let mut user = server.connect(DATABASE);
    user.batch_execute("SET lock_timeout = '10ms'").unwrap();
    let detach =
        format!("ALTER TABLE workflow_events DETACH PARTITION {} CONCURRENTLY", old(server));
    let error = user.batch_execute(&detach).expect_err("it waits for the reader");
    assert_eq!(error.code().unwrap().code(), "55P03", "{error:?}");
    reader.batch_execute("COMMIT").unwrap();
}

/// It was left so by the worker.
pub fn with_own_pending_detach(server: &Server) {
    with_pending_detach(server);
    note(server, "detaching");
}

/// The worker has detached the old partition, and not dropped it yet.
pub fn with_detached_table(server: &Server) {
    with_old_partition(server);
    note(server, "detached");
    server.run(DATABASE, &format!("ALTER TABLE workflow_events DETACH PARTITION {}", old(server)));
}

/// What a process waits for: the relation or the kind of lock, and the mode.
pub fn awaited(server: &Server, pid: i32) -> Option<String> {
    let query = format!(
        "SELECT coalesce(relation::regclass::text, locktype) || ' ' || mode FROM pg_locks \
         WHERE pid = {pid} AND NOT granted"
    );
    server.all(DATABASE, &query).pop()
}

/// What a process says that it does.
pub fn activity(server: &Server, pid: i32) -> String {
    let query = format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}");
    server.all(DATABASE, &query).pop().unwrap_or_default()
}

/// Brings a worker to wait for what a session holds that has just begun to. Gives both.
pub fn make_worker_wait(
    server: &Server,
    prepare: impl Fn(&Server),
    hold: impl Fn(&Server) -> String,
) -> (Client, i32) {
    server.make_worker_wait_behind(DATABASE, |server| {
        prepare(server);
        let sql = format!("BEGIN; {}", hold(server));
        let mut holder = server.connect(DATABASE);
        holder.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        holder
    })
}

/// Waits until a process waits for that.
pub fn wait_for_wait(server: &Server, pid: i32, what: &str) {
    let waits = poll_until(process::DEADLINE, || {
        (awaited(server, pid).as_deref() == Some(what)).then_some(())
    });
    assert!(waits.is_some(), "{:?} instead of {what}\n{}", awaited(server, pid), server.log());
}

/// Kills a process, and waits until the server has recovered from that.
pub fn crash(server: &Server, pid: i32) {
    let recoveries =
        || server.log().matches("all server processes terminated; reinitializing").count();
    let before = recoveries();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    server.wait_until("the crash is over", |server| {
        recoveries() > before && server.try_connect(DATABASE).is_ok()
    });
}

/// Tables that look like partitions of the log, are none, and that the worker knows nothing of.
pub fn orphans(server: &Server) -> Vec<String> {
    server.all(
        DATABASE,
        "SELECT relname::text FROM pg_class WHERE relname LIKE 'workflow\\_events\\_y%' AND relkind = 'r' \
         AND NOT relispartition AND oid NOT IN (SELECT relation FROM meshhook_events.retired_partition)",
    )
}

/// What is not yet as it is to be.
pub fn ailments(server: &Server) -> Vec<String> {
    let (month, old) = (server.month(1), old(server));
    let ailments = format!(
        "SELECT 'no partition {month}' WHERE NOT EXISTS \
             (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('{month}')) \
         UNION ALL SELECT '{old} is there' WHERE to_regclass('{old}') IS NOT NULL \
         UNION ALL SELECT 'a detach is pending' FROM pg_inherits WHERE inhdetachpending \
         UNION ALL SELECT 'noted: ' || partition_name FROM meshhook_events.retired_partition \
         UNION ALL SELECT 'running: ' || task FROM meshhook_events.maintenance_log WHERE status = 'running' \
         UNION ALL SELECT task || ' is ' || status FROM ( \
             SELECT DISTINCT ON (task) task, status FROM meshhook_events.maintenance_log \
             WHERE origin = 'worker' ORDER BY task, id DESC) AS last WHERE status <> 'ok'"
    );
    [server.all(DATABASE, &ailments), orphans(server)].concat()
}

/// Has the worker look until all is well.
pub fn heal(server: &Server) {
    heal_but(server, &[]);
    let events: Vec<String> = server.all(DATABASE, "SELECT type FROM workflow_events");
    assert_eq!(events, ["new"]);
}

/// Has the worker look until all is well but this. That an attempt has crashed keeps it from trying again for a while: so
/// that has been long ago.
pub fn heal_but(server: &Server, left: &[String]) {
    let healed = poll_until(process::DEADLINE, || {
        forget_crashes(server);
        server.look(DATABASE);
        (ailments(server) == left).then_some(())
    });
    assert!(healed.is_some(), "{:?}\n{}", ailments(server), server.log());
}

/// All attempts that have crashed did so long ago, so that the worker tries again at once.
pub fn forget_crashes(server: &Server) {
    server.run(
        DATABASE,
        "UPDATE meshhook_events.maintenance_log SET started_at = started_at - interval '2 days' \
         WHERE status IN ('running', 'crashed')",
    );
}
