//! What the launcher and its workers have said in the server's log: when a pass has ended, and that they say little.

use std::time::{Duration, Instant};

use postgres::Client;

use crate::poll::{DEADLINE, poll_until};
use crate::server::Server;

/// The most lines that maintenance may write while something fails again and again, whatever it is.
pub const HANDFUL: usize = 6;

/// Asks for a pass, whatever the database's settings are.
const WAKE: &str = "BEGIN READ WRITE; SET LOCAL search_path = pg_catalog; \
                    SELECT meshhook_events.wake_worker(); COMMIT";

/// The levels of lines that an ordinary configuration writes.
const LEVELS: [&str; 7] =
    [" LOG: ", " WARNING: ", " ERROR: ", " FATAL: ", " PANIC: ", " INFO: ", " NOTICE: "];

impl Server {
    /// The lines above DEBUG that the launcher and the workers have written, without those that answer somebody who
    /// started or stopped them.
    pub fn maintenance_lines(&self) -> Vec<String> {
        let by_us = |line: &str| line.contains("] pg_meshhook_events ");
        let counts = |line: &str| LEVELS.iter().any(|level| line.contains(level));
        let asked_for = |line: &str| {
            line.ends_with("launcher started") || line.ends_with("due to administrator command")
        };
        let log = self.log();
        let lines = log.lines().filter(|line| by_us(line) && counts(line) && !asked_for(line));
        lines.map(str::to_owned).collect()
    }

    /// How many lines that are.
    ///
    /// # Panics
    ///
    /// If there are more than `most`.
    pub fn assert_quiet(&self, most: usize) -> usize {
        let lines = self.maintenance_lines();
        assert!(lines.len() <= most, "{} lines, not {most}:\n{}", lines.len(), lines.join("\n"));
        lines.len()
    }

    /// Terminates a backend, waits until it is gone, and gives how long that took.
    pub fn terminate(&self, pid: i32) -> Duration {
        let mut session = self.connect("postgres");
        let begin = Instant::now();
        let sent = session.query_one("SELECT pg_terminate_backend($1)", &[&pid]);
        assert!(sent.expect("the superuser may").get::<_, bool>(0), "there is no backend {pid}");
        let there = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
        // Without a pause between two looks: it would be longer than what is measured.
        while session.query_one(there, &[&pid]).expect("the server answers").get(0) {
            assert!(begin.elapsed() < DEADLINE, "backend {pid} does not end\n{}", self.log());
        }
        begin.elapsed()
    }

    /// How many passes over a database have ended, as the launcher says at DEBUG1.
    pub fn passes(&self, database: &str) -> usize {
        self.passes_after(0, self.oid_of(database))
    }

    /// The OID of a database.
    pub fn oid_of(&self, database: &str) -> u32 {
        self.ask(&format!("SELECT oid FROM pg_database WHERE datname = '{database}'"))
    }

    /// How many passes have ended after the first `length` bytes of the log; asks no session.
    pub fn passes_after(&self, length: u64, database: u32) -> usize {
        self.log_after(length).matches(&format!("worker of database {database} ended")).count()
    }

    /// Asks for a pass over a database; that it has begun is not waited for.
    pub fn wake(&self, database: &str) {
        self.run(database, WAKE);
    }

    /// Asks for a pass over a database, waits until one has ended that began after that, and gives how long it took.
    pub fn look(&self, database: &str) -> Duration {
        self.look_through(&mut self.connect(database), database)
    }

    /// The same through a session in that database, whose settings are the usual ones.
    pub fn look_through(&self, session: &mut Client, database: &str) -> Duration {
        let begin = Instant::now();
        let said = self.log_length();
        let row = session.query_one(
            "SELECT d.oid, EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid \
                                   AND a.backend_type = 'pg_meshhook_events worker') \
             FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()",
            &[],
        );
        let row = row.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()));
        let (oid, is_busy): (u32, bool) = (row.get(0), row.get(1));
        // One that runs already is followed by another.
        let more = if is_busy { 2 } else { 1 };
        session.batch_execute(WAKE).unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()));
        let seen = poll_until(DEADLINE, || (self.passes_after(said, oid) >= more).then_some(()));
        assert!(seen.is_some(), "no pass over {database} has ended\n{}", self.log());
        begin.elapsed()
    }
}
