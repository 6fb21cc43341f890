//! A count on a standby whose backend is stopped in the middle of an index, until the entries of rows that nobody sees are
//! gone from it and their pages are visible to all again. A leaf that it holds meanwhile doesn't keep that from being replayed.

use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use process::{DEADLINE, Server, poll_until};

/// How many events there are, all in this month.
const EVENTS: i64 = 40_000;

/// How many counts are stopped in their middle.
const TIMES: usize = 10;

const COUNT: &str = "SELECT sum(row_count)::bigint FROM get_workflow_events_partition_stats()";

/// Events of a run each, so that they belong to all leaves of the index over runs, with so many bytes.
fn insert(count: i64, bytes: i32) -> String {
    format!(
        "INSERT INTO workflow_events (run_id, ts, type, payload) \
         SELECT gen_random_uuid(), date_trunc('month', now(), 'UTC') + n * interval '1 second', 't', \
                jsonb_build_object('long', repeat('x', {bytes})) FROM generate_series(1, {count}) n"
    )
}

/// A primary whose only complete indexes of this month are that over runs and a larger one, `gate`.
fn primary() -> Server {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("autovacuum", "off")
        .conf("max_standby_streaming_delay", "-1")
        .start();
    server.set_up("postgres");
    let month = server.month(0);
    server.run(
        "postgres",
        &format!(
            "ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_run_id_fkey; \
             ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_pkey; \
             DROP INDEX workflow_events_type_idx, workflow_events_run_ts_idx; \
             ALTER TABLE {month} ALTER payload SET STORAGE PLAIN; \
             CREATE INDEX gate ON {month} (run_id, ts, id, type); CREATE TABLE flushed (i int); {}",
            insert(EVENTS, 10)
        ),
    );
    server
}

/// Has the log written up to here, whoever has made it.
fn flush(primary: &Server) {
    primary.run("postgres", "INSERT INTO flushed VALUES (1)");
}

/// A count on the standby.
struct Counting {
    pid: Pid,
    thread: JoinHandle<(Client, i64)>,
}

impl Counting {
    fn begin(standby: &Server) -> Self {
        let mut client = standby.connect("postgres");
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let thread = std::thread::spawn(move || {
            let counted = client.query_one(COUNT, &[]).unwrap().get(0);
            (client, counted)
        });
        Self { pid: Pid::from_raw(pid), thread }
    }

    /// Waits until what it has locked is so, or it has ended.
    fn wait_until(&self, observer: &mut Client, condition: &str) {
        let sql = format!(
            "SELECT coalesce({condition}, false) FROM (SELECT bool_or(NOT granted) AS waits, \
                 bool_or(relation::regclass::text LIKE '%_run_id_idx') AS reads \
             FROM pg_locks WHERE pid = $1 AND locktype = 'relation') AS locks"
        );
        let came = poll_until(DEADLINE, || {
            let is_so = observer.query_one(&sql, &[&self.pid.as_raw()]).unwrap().get(0);
            (is_so || self.thread.is_finished()).then_some(())
        });
        assert!(came.is_some(), "not within {DEADLINE:?}: {condition}");
    }
}

/// Keeps the process of a count still until dropped.
struct Stopped<'a>(&'a Counting);

impl<'a> Stopped<'a> {
    fn new(counting: &'a Counting) -> Self {
        kill(counting.pid, Signal::SIGSTOP).unwrap();
        Self(counting)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = kill(self.0.pid, Signal::SIGCONT);
    }
}

/// Counts on the standby; `None` where the backend was not stopped in time.
fn count(primary: &Server, standby: &Server) -> Option<i64> {
    let month = primary.month(0);
    // All pages have room, and are visible to all.
    for step in [
        "ALTER TABLE month SET (fillfactor = 60)",
        "VACUUM FULL month",
        "VACUUM month",
        "ALTER TABLE month RESET (fillfactor)",
    ] {
        primary.run("postgres", &step.replace("month", &month));
    }
    // A lock on an index counts on the standby too: the count waits for it when it has copied the map.
    let mut aborted = primary.connect("postgres");
    aborted.batch_execute("BEGIN; REINDEX INDEX gate").unwrap();
    flush(primary);
    standby.catch_up_with(primary);
    let mut observer = standby.connect("postgres");
    let counting = Counting::begin(standby);
    counting.wait_until(&mut observer, "waits");
    // The rows that nobody sees.
    aborted.batch_execute(&insert(EVENTS / 12, 10)).unwrap();
    aborted.batch_execute("ROLLBACK").unwrap();
    flush(primary);
    counting.wait_until(&mut observer, "reads AND NOT waits");
    let stopped = Stopped::new(&counting);
    if counting.thread.is_finished() {
        return None;
    }
    // A scan finds their entries dead, and entries for which there is no room otherwise take their places: those of rows that
    // lie on other pages, and which nobody sees either. VACUUM need not touch the leaves for it.
    let scan = "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT sum(length(payload::text)) \
                FROM workflow_events WHERE run_id > '00000000-0000-0000-0000-000000000000'";
    primary.run("postgres", scan);
    let mut open = primary.connect("postgres");
    open.batch_execute(&format!("BEGIN; {}", insert(EVENTS / 8, 6000))).unwrap();
    primary.run("postgres", &format!("VACUUM (INDEX_CLEANUP on, TRUNCATE off) {month}"));
    flush(primary);
    let target: String = primary.ask("SELECT pg_current_wal_lsn()::text");
    // What is left in the leaf keeps VACUUM from being replayed, and so may a lock that the backend was stopped with, or a
    // row of a catalog that it may still see. It goes on then.
    let replayed = format!(
        "SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn OR EXISTS ( \
             SELECT FROM pg_stat_activity WHERE backend_type = 'startup' \
                 AND (wait_event_type IN ('BufferPin', 'LWLock') OR wait_event = 'RecoveryConflictSnapshot'))"
    );
    standby.wait_until("it has replayed", |standby| standby.ask(&replayed));
    drop(stopped);
    let (_, counted) = counting.thread.join().unwrap();
    Some(counted)
}

#[test]
fn entries_that_went_while_the_count_was_stopped_are_not_counted() {
    let primary = primary();
    let standby = primary.standby();
    let mut counted = Vec::new();
    let is_done = poll_until(DEADLINE, || {
        counted.extend(count(&primary, &standby));
        (counted.len() == TIMES).then_some(())
    });
    assert!(is_done.is_some(), "{counted:?}");
    assert_eq!(counted, [EVENTS; TIMES]);
}
