//! A server with a plain event log that is to be migrated.

use std::time::{Duration, Instant};

use postgres::Client;
use postgres::error::DbError;
use process::{Builder, Call, DEADLINE, Form, MIGRATE, OWNER, Server, UNDO};

pub const DATABASE: &str = "postgres";

/// Settings that make each phase last: small batches, and pauses between them.
pub const SLOWLY: &str = "SET pg_meshhook_events.migration_batch_rows = 100; \
                          SET pg_meshhook_events.migration_rows_per_second = 3000";

/// What may be asked of a migration, its relations and their kinds.
const KIND: &str = "SELECT relkind::text FROM pg_class WHERE oid = 'workflow_events'::regclass";

pub struct Stage {
    pub server: Server,
    /// The rows as they were at the beginning.
    pub rows: String,
    /// The definition of the plain table at the beginning.
    pub plain: Vec<String>,
}

impl Stage {
    /// With the worker off.
    pub fn new(form: Form) -> Self {
        Self::of(form, Server::preloaded().conf("pg_meshhook_events.enabled", "off"))
    }

    /// On a server that is made like this.
    pub fn of(form: Form, builder: Builder) -> Self {
        let server = builder.conf("log_min_messages", "warning").start();
        server.set_up_plain(DATABASE, form);
        let rows = server.rows_of(DATABASE, "workflow_events");
        let plain = server.definition(DATABASE, "public.workflow_events");
        Self { server, rows, plain }
    }

    /// Begins a call of the owner's.
    pub fn begin(&self, settings: &str, call: &str) -> Call {
        self.server.call(DATABASE, OWNER, settings, call)
    }

    /// Makes a call of the owner's, which must succeed.
    pub fn call(&self, call: &str) {
        let answer = self.begin("", call).end();
        answer.unwrap_or_else(|error| panic!("{call}: {error:?}\n{}", self.server.log()));
    }

    pub fn migrate(&self) {
        self.call(MIGRATE);
        self.assert_is_partitioned();
    }

    pub fn undo(&self) {
        self.call(UNDO);
        self.assert_is_plain();
    }

    /// The error of a call that must fail.
    pub fn error_of(&self, call: &str) -> Box<DbError> {
        match self.begin("", call).end() {
            Err(Some(error)) => error,
            answer => panic!("{call}: {answer:?}\n{}", self.server.log()),
        }
    }

    pub fn is_partitioned(&self) -> bool {
        self.server.ask::<String>(KIND) == "p"
    }

    pub fn definition(&self) -> Vec<String> {
        self.server.definition(DATABASE, "public.workflow_events")
    }

    /// It has partitions, all checks are content, and nothing is left over.
    pub fn assert_is_partitioned(&self) {
        self.assert_is_over("p");
        let wrong: Vec<String> = self.server.all(
            DATABASE,
            "SELECT concat_ws(' ', check_name, status, detail) FROM verify_workflow_events() \
             WHERE status = 'failed' OR check_name IN ('protection', 'indexes') AND status <> 'ok'",
        );
        assert_eq!(wrong, Vec::<String>::new(), "{}", self.server.log());
    }

    /// It is the plain table that it was, and nothing is left over.
    pub fn assert_is_plain(&self) {
        self.assert_is_over("r");
        assert_same(&self.definition(), &self.plain, &[]);
    }

    fn assert_is_over(&self, kind: &str) {
        let progress = self.server.migration(DATABASE);
        let is_over = progress.as_ref().is_none_or(|progress| progress.is_over);
        assert!(is_over, "{progress:?}\n{}", self.server.log());
        assert_eq!(self.server.ask::<String>(KIND), kind, "{progress:?}\n{}", self.server.log());
        let left = self.server.migration_leftovers(DATABASE);
        assert_eq!(left, Vec::<String>::new(), "{progress:?}\n{}", self.server.log());
    }

    /// The rows are those of the beginning.
    pub fn assert_same_rows(&self) {
        let rows = self.server.rows_of(DATABASE, "workflow_events");
        assert_eq!(rows, self.rows, "{}", self.server.log());
    }

    /// An event of the first run, whose id is that which follows the greatest.
    pub fn assert_sequence_goes_on(&self) {
        let mut client = self.server.connect(DATABASE);
        let mut transaction = client.transaction().expect("it answers");
        let question = "SELECT (SELECT max(id) FROM workflow_events), \
                               last_value FROM workflow_events_id_seq";
        let row = transaction.query_one(question, &[]).expect("it answers");
        let (greatest, last): (i64, i64) = (row.get(0), row.get(1));
        assert!(last >= greatest, "{last} < {greatest}");
        let insert = "INSERT INTO workflow_events (run_id, type, payload) VALUES (t.run(1), 'next', '{}') RETURNING id";
        let id: i64 = transaction.query_one(insert, &[]).expect("it can be inserted").get(0);
        assert_eq!(id, last + 1);
        transaction.rollback().expect("it answers");
    }
}

/// A session with an open transaction that has done this, and its process id.
pub fn open(server: &Server, sql: &str) -> (Client, i32) {
    let mut session = server.connect(DATABASE);
    session
        .batch_execute(&format!("BEGIN; {sql}"))
        .unwrap_or_else(|error| panic!("{sql}: {error:?}\n{}", server.log()));
    let pid = session.query_one("SELECT pg_backend_pid()", &[]).expect("it answers").get(0);
    (session, pid)
}

/// Ends what a session holds. A session that is merely closed may hold it for a moment longer.
pub fn let_go(holder: Option<Client>) {
    if let Some(mut holder) = holder {
        // The server may be gone.
        let _ = holder.batch_execute("ROLLBACK");
    }
}

/// A session that locks a table from the moment at which the switch has been made; `None` where the table is gone by then.
pub fn lock_after_the_switch(server: &Server, table: &str, mode: &str) -> Option<Client> {
    let mut client = server.connect(DATABASE);
    let begin = Instant::now();
    let is_there = "SELECT to_regclass('workflow_events_old') IS NOT NULL";
    // Without a pause between two looks, and without a snapshot that is kept: it is there for a moment only.
    while !client.query_one(is_there, &[]).expect("it answers").get::<_, bool>(0) {
        let is_over = begin.elapsed() > Duration::from_secs(1)
            && server.migration(DATABASE).is_some_and(|progress| progress.is_over);
        if is_over {
            return None;
        }
        assert!(begin.elapsed() < DEADLINE, "it does not switch\n{}", server.log());
    }
    client.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN {mode} MODE")).ok()?;
    Some(client)
}

/// Two lists of lines are the same, but for these differences: lines of the second that are other lines in the first.
pub fn assert_same(found: &[String], expected: &[String], differences: &[(&str, &str)]) {
    let mut expected: Vec<String> = expected.to_vec();
    for (before, after) in differences {
        let mut is_there = false;
        for line in &mut expected {
            if line.contains(before) {
                *line = line.replace(before, after);
                is_there = true;
            }
        }
        assert!(is_there, "no line has {before}: {expected:#?}");
    }
    expected.sort();
    let missing: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
    let added: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
    assert!(missing.is_empty() && added.is_empty(), "missing: {missing:#?}\nadded: {added:#?}");
}
