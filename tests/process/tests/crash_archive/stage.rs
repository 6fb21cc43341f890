//! An event log with an old month, and where its rows are.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use postgres::Client;
use postgres::error::SqlState;
use postgres::types::FromSqlOwned;
use process::{DEADLINE, Server, poll_until};

pub const DATABASE: &str = "postgres";

/// How many months ago the old month is. A year is kept.
const OLD: i32 = -20;

/// A server whose worker does nothing unless it is woken, with an old month that is to be archived.
pub struct Stage {
    pub server: Server,
    /// Where files are archived to.
    pub directory: PathBuf,
    /// The name of the old partition.
    pub old: String,
    /// A digest of its rows, taken by us.
    rows: String,
    /// The product's digest of its rows.
    digest: String,
    session: RefCell<Option<Client>>,
}

impl Stage {
    /// The old month has so many events, with so much text in each.
    pub fn new(events: u32, text: u32) -> Self {
        let server = Server::with_patient_worker()
            .conf("autovacuum", "off")
            // What is small is soon there again after a crash.
            .conf("shared_buffers", "16MB")
            .conf("wal_buffers", "4MB")
            .conf("max_connections", "20")
            .conf("bgwriter_lru_maxpages", "0")
            .conf("checkpoint_timeout", "1h")
            .stops()
            .start();
        server.set_up(DATABASE);
        let directory = server.make_directory("archive");
        let old = server.month(OLD);
        for _ in 0..3 {
            server.make_run(DATABASE);
        }
        server.run(
            DATABASE,
            &format!(
                "UPDATE meshhook_events.policy SET retention = '12 months', archive = 'file', \
                     archive_directory = '{}'; \
                 CREATE TABLE kept (LIKE workflow_events); \
                 INSERT INTO kept (id, run_id, ts, type, payload, created_at) \
                 SELECT i, r.id, {month} + (i % 28) * interval '1 day', E'a \"type\",\\n', \
                        jsonb_build_object('text', repeat(i || ',', {text} / 5)), now() \
                 FROM generate_series(1, {events}) AS i \
                 JOIN (SELECT id, row_number() OVER () FROM workflow_runs) AS r (id, n) ON n = i % 3 + 1",
                directory.display(),
                month = month()
            ),
        );
        let (rows, digest, session) = (String::new(), String::new(), RefCell::new(None));
        let mut stage = Self { server, directory, old, rows, digest, session };
        stage.server.wait_until_idle();
        stage.prepare();
        stage.rows = stage.rows_of("kept").expect("it is there");
        let archive =
            format!("SELECT digest FROM archive_workflow_events_partition('{}')", stage.old);
        stage.digest = stage.ask(&archive);
        stage.assert_safe();
        stage
    }

    /// The old month is attached, and nothing has ever been archived.
    pub fn prepare(&self) {
        self.server.wait_until_idle();
        self.run(&format!(
            "BEGIN; \
                 DELETE FROM meshhook_events.retired_partition; \
                 DELETE FROM meshhook_events.hold; \
                 DELETE FROM meshhook_events.archived_partition; \
                 DELETE FROM meshhook_events.maintenance_log WHERE task <> 'create'; \
                 DROP TABLE IF EXISTS workflow_events_archive; \
                 DROP TABLE IF EXISTS {}; \
                 UPDATE workflow_runs SET status = 'succeeded', finished_at = now(); \
                 SELECT create_workflow_events_partition({}); \
                 INSERT INTO workflow_events OVERRIDING SYSTEM VALUE SELECT * FROM kept; \
                 COMMIT",
            self.old,
            month()
        ));
        for name in files(&self.directory) {
            fs::remove_file(self.directory.join(name)).unwrap();
        }
    }

    /// Changes the policy.
    pub fn policy(&self, set: &str) {
        self.run(&format!("UPDATE meshhook_events.policy SET {set}"));
    }

    /// Works with the session that is there between two crashes.
    fn with_session<T>(
        &self,
        work: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        let mut session = self.session.borrow_mut();
        work(session.get_or_insert_with(|| self.server.connect(DATABASE)))
    }

    /// The session has gone with a crash.
    pub fn forget_session(&self) {
        self.session.take();
    }

    /// Runs statements, which must succeed, in one transaction.
    pub fn run(&self, sql: &str) {
        self.with_session(|session| session.batch_execute(sql))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}\n{}", self.server.log()));
    }

    /// The first column of a query.
    pub fn all<T: FromSqlOwned>(&self, query: &str) -> Vec<T> {
        let rows = self
            .with_session(|session| session.query(query, &[]))
            .unwrap_or_else(|error| panic!("{query}: {error:?}\n{}", self.server.log()));
        rows.into_iter().map(|row| row.get(0)).collect()
    }

    /// The one value that a query gives.
    pub fn ask<T: FromSqlOwned>(&self, query: &str) -> T {
        self.all(query).pop().unwrap_or_else(|| panic!("{query} gives nothing"))
    }

    /// What the notes say of the old month: `detaching`, `detached`, `closing`.
    pub fn noted(&self) -> Option<String> {
        self.all("SELECT state FROM meshhook_events.retired_partition").pop()
    }

    /// Calls the function that retires, until the old month has come that far.
    pub fn retire_until(&self, state: Option<&str>) {
        for _ in 0..3 {
            if self.is_attached() || self.noted().as_deref() != state {
                self.run("SELECT drop_old_workflow_events_partitions(12)");
            }
        }
        assert_eq!(self.noted().as_deref(), state);
    }

    pub fn exists(&self) -> bool {
        self.ask(&format!("SELECT to_regclass('{}') IS NOT NULL", self.old))
    }

    pub fn is_attached(&self) -> bool {
        let attached =
            "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('OLD'))";
        self.ask(&attached.replace("OLD", &self.old))
    }

    /// A digest of the rows of a table; `None` where there is none.
    fn rows_of(&self, table: &str) -> Option<String> {
        let query = format!(
            "SELECT count(*) || ' ' || md5(string_agg(t::text, '|' ORDER BY id)) FROM {table} AS t"
        );
        match self.with_session(|session| session.query_one(&query, &[])) {
            Ok(row) => Some(row.get(0)),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => None,
            Err(error) => panic!("{query}: {error:?}\n{}", self.server.log()),
        }
    }

    /// The old month's rows are all in its partition, attached or not.
    pub fn has_partition(&self) -> bool {
        self.rows_of(&self.old).as_ref() == Some(&self.rows)
    }

    /// They can be seen in the log.
    pub fn is_whole(&self) -> bool {
        let slice =
            format!("(SELECT * FROM workflow_events WHERE ts < {} + interval '1 month')", month());
        self.rows_of(&slice).as_ref() == Some(&self.rows)
    }

    /// They are all in the archive that is noted last, which is noted with their digest.
    pub fn has_archive(&self) -> bool {
        let noted = "SELECT ARRAY[kind, location, partition_name, row_count::text, digest] \
                     FROM meshhook_events.archived_partition ORDER BY id DESC LIMIT 1";
        let Some(noted) = self.all::<Vec<String>>(noted).pop() else { return false };
        let [kind, location, noted @ ..] = noted.as_slice() else { panic!("{noted:?}") };
        let count = self.rows.split_once(' ').unwrap().0;
        assert_eq!(noted, [&self.old, count, &self.digest]);
        let found = if kind == "csv" {
            self.run(&format!(
                "CREATE TABLE back (LIKE kept); COPY back FROM '{location}' CSV HEADER"
            ));
            let found = self.rows_of("back");
            self.run("DROP TABLE back");
            found
        } else {
            self.rows_of("workflow_events_archive")
        };
        assert_eq!(found.as_ref(), Some(&self.rows), "{location}");
        true
    }

    /// All rows are in the partition, or in an archive that is whole.
    pub fn assert_safe(&self) {
        // In this order, whatever a worker does meanwhile.
        let is_there = self.has_partition();
        assert!(
            is_there || self.has_archive(),
            "rows are lost: {:?}, {:?}\n{}",
            self.rows_of(&self.old),
            self.noted(),
            self.server.log()
        );
    }

    /// The partition is gone, the archive is whole, and nothing else is left.
    pub fn assert_archived(&self) {
        assert!(!self.exists(), "it is still there\n{}", self.server.log());
        assert!(self.has_archive(), "there is no archive\n{}", self.server.log());
        assert_eq!(self.noted(), None);
        let kind: Vec<String> = self.all("SELECT kind FROM meshhook_events.archived_partition");
        match kind.last().map(String::as_str) {
            Some("csv") => assert_eq!(files(&self.directory), [format!("{}.csv", self.old)]),
            _ => assert_eq!(files(&self.directory), Vec::<String>::new()),
        }
    }

    /// Has the worker look until it has come about. That an attempt has crashed keeps it from trying again for a while: so
    /// that has been long ago.
    pub fn look_until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let come = poll_until(DEADLINE, || {
            self.run(
                "UPDATE meshhook_events.maintenance_log SET started_at = started_at - interval '2 days' \
                 WHERE status IN ('running', 'crashed')",
            );
            self.server.look(DATABASE);
            so(self).then_some(())
        });
        assert!(
            come.is_some(),
            "not so: {what}; {:?}\n{}",
            self.server.attempts(DATABASE),
            self.server.log()
        );
    }

    /// A crash just after the detach, before that was noted, leaves the worker in doubt about whose doing it was: it keeps
    /// the month, and says so, until a user has attached it.
    pub fn settle_doubt(&self) {
        // After the crash it has looked by itself.
        self.server.wait_until_idle();
        if self.is_attached() || self.noted().as_deref() != Some("detaching") {
            return;
        }
        self.server.look(DATABASE);
        assert!(self.has_partition());
        let kept =
            "SELECT partition_name FROM plan_workflow_events_maintenance() WHERE action = 'keep'";
        assert_eq!(self.all::<String>(kept), [self.old.as_str()]);
        self.run(&format!(
            "DO $$ BEGIN EXECUTE format('ALTER TABLE workflow_events ATTACH PARTITION {} \
                 FOR VALUES FROM (%L) TO (%L)', {m}, {m} + interval '1 month'); END $$",
            self.old,
            m = month()
        ));
    }

    /// Has the worker look until nothing is left to do.
    pub fn heal(&self) {
        self.settle_doubt();
        self.look_until("nothing is left to do", |stage| {
            let statuses = "SELECT count(*) FROM ( \
                    SELECT DISTINCT ON (task) status FROM meshhook_events.maintenance_log \
                    WHERE origin = 'worker' ORDER BY task, id DESC) AS last WHERE status <> 'ok'";
            stage.ask::<i64>(statuses) == 0
        });
    }
}

/// When the old month begins, in SQL.
pub fn month() -> String {
    format!("(date_trunc('month', now(), 'UTC') + {OLD} * interval '1 month')")
}

/// The names in a directory.
pub fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
