//! An event log with an old partition whose rows are as awkward as rows can be.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::error::DbError;
use process::Server;

/// The database.
pub const DATABASE: &str = "postgres";

/// How far back the old partition lies, in months.
pub const AHEAD: i32 = -20;

/// Rows with everything that a format could trip over, of which `RUN` is the run and `AT` an instant in the month.
const AWKWARD: &str = r#"
    ALTER TABLE workflow_events
        ADD COLUMN note text, ADD COLUMN "Odd, ""name""" text[], ADD COLUMN raw bytea, ADD COLUMN real float8,
        ADD COLUMN span interval, ADD COLUMN code char(5), ADD COLUMN flag boolean, ADD COLUMN amount numeric(30,10),
        ADD COLUMN during tstzrange, ADD COLUMN "Z" varchar(9);
    INSERT INTO workflow_events (run_id, ts, type, payload, note, "Odd, ""name""", raw, real, span, code, flag, amount, during, "Z")
    VALUES
        ('RUN', AT, '', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        ('RUN', AT, ' ', 'null', '', '{}', '', 0, '0', '', false, 0, 'empty', ''),
        ('RUN', AT, '\.', '"\\."', '\.', '{"\\.",NULL,""}', '\x00ff5c2e', 'NaN', '-1 mon +2 days -03:04:05.6', 'a', true,
         -12345678901234567890.0123456789, '[2025-01-01 00:00+00,)', '\N'),
        ('RUN', AT, E'a\nb\r\nc\r', '{"text": "a\nb\r\n\"quoted\", and \\ more"}', E'"\n"', ARRAY[E'\n', ',', '"'], '\x0a0d22',
         '-Infinity', '1 year', 'ab  c', NULL, 1e-10, '(,2025-02-01 00:00+00)', ','),
        ('RUN', AT, 'ärger 😀 漢字', '{"ключ": "значение 😀"}', E'\u0001\u007f\u00a0', ARRAY['ä'], '\xe4', 0.1, '1 us', 'ß', true,
         99999999999999999999, NULL, '"'),
        ('RUN', AT, 'NULL', '[]', 'NULL', ARRAY['NULL', NULL], '\x4e554c4c', 1e-300, '1 day', 'NULL', false, 'NaN', NULL, 'NULL');
    INSERT INTO workflow_events (run_id, ts, type, payload, note)
    SELECT 'RUN', AT + i * interval '1 hour', 'many', jsonb_build_object('n', i, 'text', repeat(md5(i::text), i)), repeat('"', i)
    FROM generate_series(1, 400) i
"#;

/// An event log with an old partition; a copy of its rows is kept in the table `kept`.
pub struct Stage {
    /// The server.
    pub server: Server,
    /// The partition's name.
    pub old: String,
    /// The run of its events.
    pub run: String,
}

impl Stage {
    /// With awkward rows.
    pub fn awkward() -> Self {
        Self::with(AWKWARD)
    }

    /// With so many plain rows.
    pub fn plain(rows: u32) -> Self {
        Self::with(&format!(
            "INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT 'RUN', AT + i * interval '1 second', 't', jsonb_build_object('n', i) FROM generate_series(1, {rows}) i"
        ))
    }

    /// With rows whose text has that many megabytes, though little is stored.
    pub fn large(megabytes: u32) -> Self {
        Self::with(&format!(
            "INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT 'RUN', AT + i * interval '1 second', 't', to_jsonb(repeat('x', 100000)) \
             FROM generate_series(1, {megabytes} * 10) i"
        ))
    }

    fn with(rows: &str) -> Self {
        let server = Server::with_worker_off();
        let run = server.make_run(DATABASE);
        let old = server.month(AHEAD);
        let at = format!("date_trunc('month', now(), 'UTC') + {AHEAD} * interval '1 month'");
        server.run(
            DATABASE,
            &format!("SELECT create_workflow_events_partition(({at})::timestamptz)"),
        );
        server.run(
            DATABASE,
            &rows.replace("RUN", &run).replace("AT", &format!("{at} + interval '1 hour'")),
        );
        server.run(DATABASE, &format!("CREATE TABLE kept AS SELECT * FROM {old}"));
        Self { server, old, run }
    }

    /// Has the policy ask for files of CSV in a directory.
    pub fn archive_to(&self, directory: &Path) {
        self.server.run(
            DATABASE,
            &format!(
                "UPDATE meshhook_events.policy SET archive = 'file', archive_format = 'csv', archive_directory = '{}'",
                directory.display()
            ),
        );
    }

    /// Has the policy ask for the archive table.
    pub fn archive_to_table(&self) {
        self.server.run(DATABASE, "UPDATE meshhook_events.policy SET archive = 'table'");
    }

    /// Archives the old partition: kind, location, rows, size and digest.
    pub fn archive(&self) -> (String, String, i64, i64, String) {
        let mut session = self.server.connect(DATABASE);
        let row = session
            .query_one("SELECT * FROM archive_workflow_events_partition($1)", &[&self.old])
            .unwrap_or_else(|error| panic!("{error:?}\n{}", self.server.log()));
        (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))
    }

    /// The error with which archiving fails.
    pub fn archive_fails(&self) -> DbError {
        fails(&self.server, &format!("SELECT archive_workflow_events_partition('{}')", self.old))
    }

    /// Drops the old partition.
    pub fn drop_old(&self) {
        self.server.run(DATABASE, &format!("DROP TABLE {}", self.old));
    }

    /// Restores the old partition, in one call or more: how far each came, and how many rows were left out at the end.
    pub fn restore(&self) -> (Vec<String>, i64) {
        let mut stages = Vec::new();
        loop {
            let mut session = self.server.connect(DATABASE);
            let row = session
                .query_one(
                    "SELECT status, left_out FROM restore_workflow_events_partition($1)",
                    &[&self.old],
                )
                .unwrap_or_else(|error| panic!("{error:?}\n{}", self.server.log()));
            stages.push(row.get(0));
            assert!(stages.len() < 4, "{stages:?}");
            if stages.last().is_some_and(|stage| stage == "restored") {
                return (stages, row.get(1));
            }
        }
    }

    /// Looks whether a table has the rows that the partition had.
    pub fn assert_same_rows(&self, table: &str) {
        let differing: i64 = self.server.ask(&format!(
            "SELECT (SELECT count(*) FROM (SELECT t::text FROM {table} t EXCEPT ALL SELECT k::text FROM kept k) x) \
                  + (SELECT count(*) FROM (SELECT k::text FROM kept k EXCEPT ALL SELECT t::text FROM {table} t) y)"
        ));
        assert_eq!(differing, 0);
    }

    /// Looks whether the partition is a part of the log as every other: indexes, foreign key, protection.
    pub fn assert_is_as_others(&self) {
        let old = &self.old;
        let indexes: Vec<String> = self.server.all(
            DATABASE,
            &format!(
                "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid \
                 WHERE indrelid = '{old}'::regclass AND indisvalid ORDER BY 1"
            ),
        );
        let expected =
            ["pkey", "run_id_idx", "run_ts_idx", "type_idx"].map(|end| format!("{old}_{end}"));
        assert_eq!(indexes, expected);
        let constraints: Vec<String> = self.server.all(
            DATABASE,
            &format!(
                "SELECT concat_ws(' ', contype, convalidated, conparentid <> 0) FROM pg_constraint \
                 WHERE conrelid = '{old}'::regclass AND contype <> 'n' ORDER BY 1"
            ),
        );
        assert_eq!(constraints, ["f t t", "p t t"]);
        let wrong: Vec<String> = self.server.all(
            DATABASE,
            "SELECT check_name || ': ' || detail FROM verify_workflow_events() WHERE status = 'failed' \
             OR check_name IN ('protection', 'indexes') AND status <> 'ok'",
        );
        assert_eq!(wrong, Vec::<String>::new());
    }

    /// The numbers of the archives that are noted.
    pub fn noted(&self) -> Vec<i64> {
        self.server.all(DATABASE, "SELECT id FROM meshhook_events.archived_partition ORDER BY id")
    }
}

/// The error with which statements fail.
pub fn fails(server: &Server, sql: &str) -> DbError {
    let error = server.connect(DATABASE).batch_execute(sql).expect_err(sql);
    error.as_db_error().unwrap_or_else(|| panic!("{error:?}\n{}", server.log())).clone()
}

/// The names in a directory, in order.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("the directory can be read")
        .map(|entry| {
            entry.expect("so can its entries").file_name().into_string().expect("a name is UTF-8")
        })
        .collect();
    names.sort();
    names
}

/// Kills a backend, as a crash would end it with the whole server, and waits until the server is back.
pub fn crash(server: &Server, backend: i32) {
    let mut witness = server.connect(DATABASE);
    kill(Pid::from_raw(backend), Signal::SIGKILL).unwrap();
    server.wait_until("the crash is noticed", |_| witness.batch_execute("SELECT 1").is_err());
    server.wait_until("the server is back", |server| {
        server
            .try_connect(DATABASE)
            .is_ok_and(|mut session| session.batch_execute("SELECT 1").is_ok())
    });
}
