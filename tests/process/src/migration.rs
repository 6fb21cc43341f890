//! Migrations that are under way: the calls that carry them on, how far they have come, and what they leave.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use postgres::error::DbError;
use postgres::{Client, Config, NoTls};

use crate::old_months::Notices;
use crate::poll::{DEADLINE, poll_until};
use crate::server::Server;

/// Migrates in the session that calls it.
pub const MIGRATE: &str = "CALL migrate_workflow_events(in_background => false)";

/// Undoes a migration in the session that calls it.
pub const UNDO: &str = "CALL undo_workflow_events_migration(in_background => false)";

/// What is kept of a migration, from `workflow_events_migration_progress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `migrate` or `undo`.
    pub direction: String,
    /// The phase, of which the last are `done` and `taken back`.
    pub phase: String,
    /// How many rows are copied, of so many.
    pub rows: (i64, i64),
    /// How many changes wait to be applied.
    pub queue_length: i64,
    /// Who is in the way.
    pub blocker: Option<String>,
    /// What went wrong last.
    pub message: Option<String>,
    /// What stops it.
    pub hint: Option<String>,
    /// Whether it has ended.
    pub is_over: bool,
}

/// A call in a session of its own, with what that is told.
#[derive(Debug)]
pub struct Call {
    /// The process id of the session's backend.
    pub pid: i32,
    /// Notices and warnings.
    pub notices: Notices,
    thread: JoinHandle<Result<(), postgres::Error>>,
}

impl Call {
    /// Whether it has come back.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until it comes back. An error is the server's, or `None` where the connection was cut.
    pub fn end(self) -> Result<(), Option<Box<DbError>>> {
        let came = poll_until(2 * DEADLINE, || self.is_over().then_some(()));
        assert!(came.is_some(), "the call of backend {} does not come back", self.pid);
        let answer = self.thread.join().expect("the thread only waits");
        answer.map_err(|error| error.as_db_error().cloned().map(Box::new))
    }
}

impl Server {
    /// A session that takes down what it is told.
    pub fn connect_and_listen(&self, database: &str, user: &str) -> (Client, Notices) {
        let notices = Notices::default();
        let config = self.conninfo(database, user).parse::<Config>();
        let mut config = config.expect("it is a connection string");
        let told = Arc::clone(&notices);
        config.notice_callback(move |notice| {
            told.lock().expect("nobody panics with it").push(notice);
        });
        let client = config.connect(NoTls);
        (client.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log())), notices)
    }

    /// Makes a call in a session of its own, which first does what `settings` say.
    pub fn call(&self, database: &str, user: &str, settings: &str, call: &str) -> Call {
        let (mut client, notices) = self.connect_and_listen(database, user);
        client.batch_execute(settings).unwrap_or_else(|error| panic!("{settings}: {error:?}"));
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).expect("it answers").get(0);
        let call = call.to_owned();
        // Apart from the settings: what commits on its way must be alone.
        let thread = thread::spawn(move || client.batch_execute(&call));
        Call { pid, notices, thread }
    }

    /// How far the migration of a database has come; `None` where there has been none.
    pub fn migration(&self, database: &str) -> Option<Progress> {
        progress(&mut self.connect(database))
    }

    /// Waits until the migration has come to a phase, and gives what is then known of it.
    pub fn wait_for_phase(&self, database: &str, phase: &str) -> Progress {
        let mut client = self.connect(database);
        let mut last = None;
        poll_until(DEADLINE, || {
            last = progress(&mut client);
            last.clone().filter(|progress| progress.phase == phase)
        })
        .unwrap_or_else(|| panic!("it has not come to {phase}: {last:?}\n{}", self.log()))
    }

    /// Waits until the migration has ended.
    pub fn wait_for_migration(&self, database: &str) -> Progress {
        let mut client = self.connect(database);
        let mut last = None;
        poll_until(2 * DEADLINE, || {
            last = progress(&mut client);
            last.clone().filter(|progress| progress.is_over)
        })
        .unwrap_or_else(|| panic!("it does not end: {last:?}\n{}", self.log()))
    }

    /// What a migration should not leave: tables beside the log, triggers that capture changes, changes that wait.
    pub fn migration_leftovers(&self, database: &str) -> Vec<String> {
        self.all(
            database,
            "SELECT 'relation ' || oid::regclass FROM pg_class c \
             WHERE relname LIKE 'workflow\\_events\\_%' AND relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace \
               AND NOT EXISTS (SELECT FROM pg_partition_tree('workflow_events') WHERE relid = c.oid) \
             UNION ALL \
             SELECT 'trigger on ' || tgrelid::regclass FROM pg_trigger WHERE tgname LIKE 'pg\\_meshhook%' \
             UNION ALL SELECT 'source' FROM meshhook_events.migration_source \
             UNION ALL SELECT 'queue' FROM meshhook_events.migration_queue",
        )
    }
}

/// How far the migration of a session's database has come.
pub fn progress(client: &mut Client) -> Option<Progress> {
    let query = "SELECT direction, phase, coalesce(rows_done, 0), coalesce(rows_total, 0), coalesce(queue_length, 0), blocker, \
                 message, hint, finished_at IS NOT NULL FROM workflow_events_migration_progress";
    let row = client.query_opt(query, &[]).unwrap_or_else(|error| panic!("{query}: {error:?}"))?;
    Some(Progress {
        direction: row.get(0),
        phase: row.get(1),
        rows: (row.get(2), row.get(3)),
        queue_length: row.get(4),
        blocker: row.get(5),
        message: row.get(6),
        hint: row.get(7),
        is_over: row.get(8),
    })
}
