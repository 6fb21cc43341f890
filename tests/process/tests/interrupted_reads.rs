//! Native reads that are cancelled, or whose session is terminated, in their middle: they end at once and leave nothing
//! behind.

use std::thread::JoinHandle;

use postgres::Client;
use postgres::error::DbError;
use process::{DEADLINE, Server, poll_until};

/// The run that has all events, in one partition.
const RUN: &str = "00000000-0000-0000-0000-000000000001";
const EVENTS: i64 = 100_000;

const TEMPORARY_FILES: &str = "SELECT count(*) FROM pg_ls_tmpdir()";

const CANCEL: &str = "pg_cancel_backend";
const TERMINATE: &str = "pg_terminate_backend";

/// How often each read has to be interrupted in its middle, each way.
const TIMES: usize = 3;

/// A log of two years and a half, of which this month has events, each at another instant, on many pages.
fn with_long_run() -> Server {
    let server = Server::with_nothing_going_on();
    server.run(
        "postgres",
        &format!(
            "SELECT create_workflow_events_partition((now() - n * interval '1 month')::timestamptz) \
             FROM generate_series(3, 24) n; \
             ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_run_id_fkey; \
             DROP INDEX workflow_events_run_id_idx, workflow_events_type_idx; \
             INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT '{RUN}', date_trunc('month', now(), 'UTC') + n * interval '1 second', 't', '{{}}' \
             FROM generate_series(1, {EVENTS}) n"
        ),
    );
    server.run("postgres", "VACUUM workflow_events");
    server
}

fn one(client: &mut Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// The relations that a session has locked, apart from catalogs, or waits for.
fn locks(observer: &mut Client, pid: i32, granted: bool) -> Vec<String> {
    let sql = "SELECT relation::regclass::text FROM pg_locks \
               WHERE pid = $1 AND granted = $2 AND locktype = 'relation' AND relation >= 16384 ORDER BY 1";
    let rows = observer.query(sql, &[&pid, &granted]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// A read, of which it can be seen afterwards whether it came to its end.
struct Read {
    /// The query that makes it, and gives how many events there are.
    sql: String,
    /// What is locked while it is made.
    locked: String,
    /// The relation of which it reads so many pages each time that it comes to its end.
    pages_of: String,
}

impl Read {
    fn count(locked: &str, pages_of: &str) -> Self {
        let sql = "SELECT sum(row_count)::bigint FROM get_workflow_events_partition_stats()";
        Self { sql: sql.to_owned(), locked: locked.to_owned(), pages_of: pages_of.to_owned() }
    }

    fn replay(locked: &str, pages_of: &str) -> Self {
        let sql = format!("SELECT count(*) FROM get_workflow_run_events('{RUN}')");
        Self { sql, ..Self::count(locked, pages_of) }
    }

    /// How many pages have been read until now.
    fn pages(&self, client: &mut Client) -> i64 {
        client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
        one(client, &format!("SELECT pg_stat_get_blocks_fetched('{}'::regclass)", self.pages_of))
    }

    /// How many pages are read each time, if it isn't the first time in the session.
    fn pages_each_time(&self, client: &mut Client) -> i64 {
        one(client, &self.sql);
        let before = self.pages(client);
        one(client, &self.sql);
        self.pages(client) - before
    }
}

/// A session that runs statements by itself.
struct Running {
    pid: i32,
    thread: JoinHandle<(Client, Result<(), postgres::Error>)>,
}

impl Running {
    fn begin(mut client: Client, sql: String) -> Self {
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let thread = std::thread::spawn(move || {
            let result = client.batch_execute(&sql);
            (client, result)
        });
        Self { pid, thread }
    }

    /// The session, and the error with which the statements ended.
    fn end(self, server: &Server) -> (Client, postgres::Error) {
        let answered = poll_until(DEADLINE, || self.thread.is_finished().then_some(()));
        assert!(answered.is_some(), "the session does not end\n{}", server.log());
        let (client, result) = self.thread.join().unwrap();
        (client, result.expect_err("it was interrupted"))
    }
}

/// Runs `again` in a subtransaction, has it cancelled by `cancel`, and asserts that the session goes on as if nothing had
/// been. Gives the session and the error.
fn cancelled(
    server: &Server,
    mut client: Client,
    read: &Read,
    (again, expected): (&str, i64),
    cancel: impl FnOnce(&mut Client, i32),
) -> (Client, DbError) {
    let mut observer = server.connect("postgres");
    client.batch_execute("BEGIN; SAVEPOINT s").unwrap();
    let running = Running::begin(client, again.to_owned());
    let pid = running.pid;
    cancel(&mut observer, pid);
    let (mut client, error) = running.end(server);
    let error =
        error.as_db_error().unwrap_or_else(|| panic!("{error:?}\n{}", server.log())).clone();
    assert_eq!(error.code().code(), "57014");
    client.batch_execute("ROLLBACK TO s").unwrap();
    assert_eq!(locks(&mut observer, pid, true), Vec::<String>::new());
    assert_eq!(one(&mut client, &read.sql), expected);
    // What isn't given back until here would be a WARNING.
    client.batch_execute("COMMIT").unwrap();
    let held = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND backend_xmin IS NOT NULL";
    let held: i64 = observer.query_one(held, &[&pid]).unwrap().get(0);
    assert_eq!(held, 0, "a snapshot is left");
    assert_eq!(locks(&mut observer, pid, true), Vec::<String>::new());
    assert_eq!(one(&mut observer, TEMPORARY_FILES), 0);
    (client, error)
}

/// Has the session that runs `again` terminated by `terminate`, and asserts that nothing of it is left.
fn terminated(
    server: &Server,
    client: Client,
    again: &str,
    terminate: impl FnOnce(&mut Client, i32),
) {
    let mut observer = server.connect("postgres");
    let running = Running::begin(client, again.to_owned());
    let pid = running.pid;
    terminate(&mut observer, pid);
    // What the server says last may not be read any more.
    drop(running.end(server));
    let said = format!(
        "[{pid}] client backend FATAL:  terminating connection due to administrator command"
    );
    assert!(server.log().contains(&said), "{}", server.log());
    server.wait_until("the backend is gone", |_| {
        let there = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        observer.query_one(there, &[&pid]).unwrap().get::<_, i64>(0) == 0
    });
    assert_eq!(locks(&mut observer, pid, true), Vec::<String>::new());
    assert_eq!(one(&mut observer, TEMPORARY_FILES), 0);
}

/// Nothing was complained of, nobody died, and no page is pinned: VACUUM waits for each page of the indexes, and for pages
/// with rows to be frozen.
fn assert_nothing_is_left(server: &Server) {
    let mut client = server.connect("postgres");
    client.batch_execute(&format!("SET statement_timeout = '{}s'", DEADLINE.as_secs())).unwrap();
    client
        .batch_execute("DELETE FROM workflow_events WHERE id % 997 = (SELECT min(id) % 997 FROM workflow_events)")
        .unwrap();
    client.batch_execute("VACUUM (FREEZE, INDEX_CLEANUP on) workflow_events").unwrap();
    let log = server.log();
    let complaints = [" WARNING: ", " PANIC: ", "was terminated by"];
    for complaint in complaints {
        assert!(!log.contains(complaint), "{complaint}\n{log}");
    }
}

/// Calls `function` for a session that is seen to have locked something, after so many looks more.
fn interrupt(
    server: &Server,
    observer: &mut Client,
    pid: i32,
    (function, locked): (&str, &str),
    looks: usize,
) {
    let there = "FROM pg_locks WHERE pid = $1 AND relation = $2::text::regclass LIMIT 1";
    let (look, call) = (format!("SELECT true {there}"), format!("SELECT {function}(pid) {there}"));
    let mut seen = 0;
    let sent = poll_until(DEADLINE, || {
        let sql = if seen < looks { &look } else { &call };
        let row = observer.query_opt(sql, &[&pid, &locked]).unwrap()?;
        seen += 1;
        (seen > looks).then(|| row.get::<_, bool>(0))
    });
    assert_eq!(sent, Some(true), "{locked} is not locked\n{}", server.log());
}

/// Makes the read again and again, and interrupts it a bit earlier or later each time, until it was so in
/// its middle [`TIMES`] times: that shows in the pages that were read.
fn interrupt_in_the_middle(server: &Server, read: &Read) {
    let again = format!("DO $$ BEGIN LOOP PERFORM ({}); END LOOP; END $$", read.sql);
    let expected = server.ask(&read.sql);
    for function in [CANCEL, TERMINATE] {
        let (mut tries, mut hits) = (0, 0);
        let mut client = server.connect("postgres");
        let is_done = poll_until(DEADLINE, || {
            let each = read.pages_each_time(&mut client);
            let before = read.pages(&mut client);
            let session = std::mem::replace(&mut client, server.connect("postgres"));
            let interrupt = |observer: &mut Client, pid: i32| {
                interrupt(server, observer, pid, (function, &read.locked), tries % 5);
            };
            let after = if function == CANCEL {
                (client, _) = cancelled(server, session, read, (&again, expected), interrupt);
                read.pages(&mut client)
            } else {
                terminated(server, session, &again, interrupt);
                read.pages(&mut client)
            };
            tries += 1;
            hits += usize::from((each / 10..each * 9 / 10).contains(&((after - before) % each)));
            (hits == TIMES).then_some(())
        });
        assert!(
            is_done.is_some(),
            "{function}: {hits} of {tries} were in the middle\n{}",
            server.log()
        );
        println!("{function}, {}: {hits} of {tries} were in the middle", read.locked);
    }
    assert_nothing_is_left(server);
}

#[test]
fn reads_are_interrupted_in_their_middle() {
    let server = with_long_run();
    let month = server.month(0);
    let smallest: String = server.ask(&format!(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = '{month}'::regclass \
         ORDER BY pg_relation_size(indexrelid) LIMIT 1"
    ));
    let run_index = format!("{month}_run_ts_idx");
    interrupt_in_the_middle(&server, &Read::replay(&run_index, &month));
    // A count by an index, and one without.
    interrupt_in_the_middle(&server, &Read::count(&smallest, &smallest));
    server.run(
        "postgres",
        "DROP INDEX workflow_events_run_ts_idx; ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_pkey; \
         DELETE FROM workflow_events WHERE id % 20 = 0",
    );
    interrupt_in_the_middle(&server, &Read::count(&month, &month));
}

#[test]
fn reads_are_interrupted_while_they_wait_for_an_index() {
    let server = with_long_run();
    // A replay asks the indexes of partitions in turn; a count doesn't ask those of partitions that are empty.
    let index = |ahead| format!("{}_run_ts_idx", server.month(ahead));
    let reads = [Read::replay(&index(-5), ""), Read::count(&index(0), "")];
    for (read, function) in reads.iter().flat_map(|read| [(read, CANCEL), (read, TERMINATE)]) {
        let client = server.connect("postgres");
        let mut holder = server.connect("postgres");
        holder.batch_execute(&format!("BEGIN; REINDEX INDEX {}", read.locked)).unwrap();
        let interrupt = |observer: &mut Client, pid: i32| {
            server.wait_until("the read waits", |_| {
                locks(observer, pid, false) == [read.locked.clone()]
            });
            let sent = observer.query_one(&format!("SELECT {function}($1)"), &[&pid]);
            assert!(sent.unwrap().get::<_, bool>(0));
            server.wait_until("it waits no more", |_| locks(observer, pid, false).is_empty());
            holder.batch_execute("ROLLBACK").unwrap();
        };
        if function == CANCEL {
            let once = (read.sql.as_str(), EVENTS);
            let (_, error) = cancelled(&server, client, read, once, interrupt);
            // In a query there would be one.
            assert_eq!(error.where_(), None);
        } else {
            terminated(&server, client, &read.sql, interrupt);
        }
    }
    assert_nothing_is_left(&server);
}
