//! One server: its life from start to the removal of its directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use postgres::types::FromSqlOwned;
use postgres::{Client, NoTls};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::install::Install;
use crate::poll::{DEADLINE, poll_until};
use crate::stops::Stops;
use crate::{cluster, os};

/// The port of every server, which only names its socket: each server has a directory of its own.
pub const PORT: u16 = 5432;

/// How a server is told to stop, as in `pg_ctl stop -m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Waits for sessions to end by themselves.
    Smart,
    /// Ends sessions, then writes a checkpoint.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

impl Mode {
    fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::SIGTERM,
            Self::Fast => Signal::SIGINT,
            Self::Immediate => Signal::SIGQUIT,
        }
    }
}

/// What a run of psql gave.
#[derive(Clone, Debug)]
pub struct Psql {
    /// Whether every statement succeeded.
    pub success: bool,
    /// Rows without headers, columns separated by `|`.
    pub stdout: String,
    /// Errors and notices.
    pub stderr: String,
}

/// The settings of a server to be.
#[derive(Debug)]
pub struct Builder {
    settings: BTreeMap<String, String>,
    clock: bool,
    stops: bool,
}

impl Builder {
    /// Adds a line to `postgresql.conf`; the value is quoted here.
    #[must_use]
    pub fn conf(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Gives the server a wall clock of its own, see [`Server::move_clock`].
    #[must_use]
    pub fn clock(mut self) -> Self {
        self.clock = true;
        self
    }

    /// Lets a test hold the server's processes where it wants, see [`Server::stop_after`].
    #[must_use]
    pub fn stops(mut self) -> Self {
        self.stops = true;
        self
    }

    /// Makes the cluster without starting a server.
    pub fn create(self) -> Server {
        let mut server = Server::new(Install::from_env(), self.settings);
        assert!(!(self.clock && self.stops), "one library is preloaded");
        server.clock = self.clock.then(|| Clock::create(server.dir.path()));
        server.stops = self.stops.then(|| Stops::create(server.dir.path()));
        cluster::create(&server.install, &server.data());
        server.write_conf();
        server
    }

    /// Makes the cluster and starts its server.
    pub fn start(self) -> Server {
        let mut server = self.create();
        server.start();
        server
    }
}

/// A server with its cluster. Dropping it stops the server and removes everything, also when a test panics.
#[derive(Debug)]
pub struct Server {
    install: Install,
    settings: BTreeMap<String, String>,
    clock: Option<Clock>,
    stops: Option<Stops>,
    postmaster: Option<Child>,
    /// Children of a killed postmaster, which end by themselves if they behave.
    orphans: Vec<u32>,
    // Last, so that it is removed after everything else is gone.
    dir: TempDir,
}

impl Server {
    /// A server with the harness's own settings: one socket, no network, no fsync.
    pub fn builder() -> Builder {
        let settings = [("fsync", "off"), ("log_line_prefix", "%m [%p] %b ")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Builder { settings, clock: false, stops: false }
    }

    fn new(install: Install, mut settings: BTreeMap<String, String>) -> Self {
        let dir = os::temp_dir();
        let own = [
            ("listen_addresses", String::new()),
            ("port", PORT.to_string()),
            ("unix_socket_directories", dir.path().display().to_string()),
        ];
        settings.extend(own.map(|(key, value)| (key.to_owned(), value)));
        Self {
            install,
            settings,
            clock: None,
            stops: None,
            postmaster: None,
            orphans: Vec::new(),
            dir,
        }
    }

    pub(crate) fn own_clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    pub(crate) fn own_stops(&self) -> Option<&Stops> {
        self.stops.as_ref()
    }

    /// A server with the same settings, a place of its own and the real time, still without data.
    pub(crate) fn sibling(&self) -> Self {
        Self::new(self.install.clone(), self.settings.clone())
    }

    /// The installation that the server runs from.
    pub fn install(&self) -> &Install {
        &self.install
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn write_conf(&self) {
        cluster::write_conf(&self.data(), &self.settings);
    }

    /// Changes a setting in the file; it holds from the next [`reload`](Self::reload) or start.
    pub fn set_conf(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
        self.write_conf();
    }

    /// Starts the server and waits until it accepts sessions.
    pub fn start(&mut self) {
        self.try_start().unwrap_or_else(|log| panic!("the server did not start\n{log}"));
    }

    /// Starts the server, which may fail: then gives the server's log.
    pub fn try_start(&mut self) -> Result<(), String> {
        assert!(self.postmaster.is_none(), "the server has been started already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log can be opened");
        let mut command = os::command(self.install.program("postgres"));
        command.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.envs(self.clock.iter().flat_map(Clock::environment));
        command.envs(self.stops.iter().flat_map(Stops::environment));
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
        let outcome =
            poll_until(DEADLINE, || match child.try_wait().expect("a child can be asked after") {
                Some(status) => Some(Err(status)),
                None => self.try_connect("postgres").ok().map(|_| Ok(())),
            });
        match outcome {
            Some(Ok(())) => {
                self.postmaster = Some(child);
                Ok(())
            }
            Some(Err(status)) => Err(format!("the postmaster ended with {status}\n{}", self.log())),
            None => {
                self.postmaster = Some(child);
                Err(format!("the server accepts no session after {DEADLINE:?}\n{}", self.log()))
            }
        }
    }

    /// Stops the server, waits until it is gone, and gives how long that took.
    ///
    /// # Panics
    ///
    /// If it takes longer than [`DEADLINE`], or the postmaster says that it failed.
    pub fn stop(&mut self, mode: Mode) -> Duration {
        let begin = Instant::now();
        os::signal(self.pid(), mode.signal());
        let mut child = self.postmaster.take().expect("pid() has looked");
        match wait(&mut child, DEADLINE) {
            Some(status) => {
                assert!(status.success(), "the postmaster ended with {status}\n{}", self.log())
            }
            None => {
                let left = os::children(child.id());
                self.postmaster = Some(child);
                panic!("the server did not stop ({mode:?}); still there: {left:?}\n{}", self.log());
            }
        }
        begin.elapsed()
    }

    /// Stops the server fast, and starts it again.
    pub fn restart(&mut self) {
        self.stop(Mode::Fast);
        self.start();
    }

    /// Makes the server read its settings, and waits until new sessions have them.
    pub fn reload(&self) {
        const LOADED: &str = "SELECT extract(epoch FROM pg_conf_load_time())::float8";
        let before: f64 = self.ask(LOADED);
        os::signal(self.pid(), Signal::SIGHUP);
        // Earlier is another time too, where the clock has been put back.
        poll_until(DEADLINE, || (self.ask::<f64>(LOADED) != before).then_some(()))
            .unwrap_or_else(|| panic!("the server did not read its settings\n{}", self.log()));
    }

    /// Kills the postmaster as a crash of the machine would, waits until its children have noticed, and gives how
    /// long that took.
    ///
    /// # Panics
    ///
    /// If a child outlives it by more than [`DEADLINE`].
    pub fn kill_postmaster(&mut self) -> Duration {
        self.kill_postmaster_then(|_| {})
    }

    /// The same, with something done between the kill and the wait.
    pub fn kill_postmaster_then(&mut self, then: impl FnOnce(&Self)) -> Duration {
        let pid = self.pid();
        self.orphans = os::children(pid);
        let begin = Instant::now();
        os::signal(pid, Signal::SIGKILL);
        let mut child = self.postmaster.take().expect("pid() has looked");
        child.wait().expect("a child can be waited for");
        then(self);
        let gone = poll_until(DEADLINE, || {
            self.orphans.retain(|&pid| os::is_alive(pid));
            self.orphans.is_empty().then_some(())
        });
        assert!(
            gone.is_some(),
            "these outlive their postmaster: {:?}\n{}",
            self.orphans,
            self.log()
        );
        begin.elapsed()
    }

    /// The postmaster's process id.
    ///
    /// # Panics
    ///
    /// If the server has not been started.
    pub fn pid(&self) -> u32 {
        self.postmaster.as_ref().expect("the server has been started").id()
    }

    /// The process ids of the postmaster and its children.
    pub fn processes(&self) -> Vec<u32> {
        let pid = self.pid();
        [vec![pid], os::children(pid)].concat()
    }

    /// All that the server has written to its log.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How long its log is, in bytes.
    pub fn log_length(&self) -> u64 {
        fs::metadata(self.log_path()).map_or(0, |log| log.len())
    }

    /// What it has written to its log after the first `length` bytes.
    pub fn log_after(&self, length: u64) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut log) = File::open(self.log_path()) {
            log.seek(SeekFrom::Start(length)).expect("a file can be read from anywhere");
            log.read_to_end(&mut bytes).expect("the log can be read");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// The connection string of a database, for libpq and for us. Names may hold anything.
    pub fn conninfo(&self, database: &str, user: &str) -> String {
        let quoted = |name: &str| format!("'{}'", name.replace('\\', r"\\").replace('\'', r"\'"));
        format!(
            "host={} port={PORT} user={} dbname={}",
            self.dir.path().display(),
            quoted(user),
            quoted(database)
        )
    }

    /// A session of the superuser in a database.
    pub fn connect(&self, database: &str) -> Client {
        self.connect_as(database, "postgres")
    }

    /// A session of a user in a database.
    pub fn connect_as(&self, database: &str, user: &str) -> Client {
        Client::connect(&self.conninfo(database, user), NoTls).unwrap_or_else(|error| {
            panic!("{user} can't connect to {database}: {error}\n{}", self.log())
        })
    }

    /// A session of the superuser in a database, which may be refused.
    pub fn try_connect(&self, database: &str) -> Result<Client, postgres::Error> {
        Client::connect(&self.conninfo(database, "postgres"), NoTls)
    }

    /// The one value that a query gives, in the database `postgres`.
    pub fn ask<T: FromSqlOwned>(&self, query: &str) -> T {
        let row = self.connect("postgres").query_one(query, &[]);
        row.unwrap_or_else(|error| panic!("{query}: {error}\n{}", self.log())).get(0)
    }

    /// Runs SQL with the installation's psql, as the superuser, up to the first error.
    pub fn psql(&self, database: &str, sql: &str) -> Psql {
        let mut child = os::command(self.install.program("psql"))
            .args([
                "--no-psqlrc",
                "--quiet",
                "--no-align",
                "--tuples-only",
                "--set=ON_ERROR_STOP=1",
                "--dbname",
            ])
            .arg(self.conninfo(database, "postgres"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql can be started");
        let mut stdin = child.stdin.take().expect("it is piped");
        // Written beside the reading, as a long script and its answers would fill both pipes. psql that stops at an
        // error reads no further, which is no failure of ours.
        let sql = sql.to_owned();
        let writer = std::thread::spawn(move || drop(stdin.write_all(sql.as_bytes())));
        let output = child.wait_with_output().expect("psql can be waited for");
        writer.join().expect("the writer doesn't panic");
        Psql {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A command to run one of the installation's programs on this server as the cluster's owner: `pg_dump`, `pgbench`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = os::command(self.install.program(program));
        command
            .env("PGHOST", self.dir.path())
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", "postgres");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // No panics here: one on top of a test's own would end the program and leave other servers running.
        if let Some(mut child) = self.postmaster.take() {
            let children = os::children(child.id());
            os::signal(child.id(), Mode::Immediate.signal());
            if wait(&mut child, Duration::from_secs(10)).is_none() {
                os::signal(child.id(), Signal::SIGKILL);
                let _ = child.wait();
                self.orphans.extend(children);
            }
        }
        for &pid in self.orphans.iter().filter(|&&pid| os::is_alive(pid)) {
            os::signal(pid, Signal::SIGKILL);
        }
    }
}

/// Waits for a child for a while; `None` if it still runs.
fn wait(child: &mut Child, deadline: Duration) -> Option<std::process::ExitStatus> {
    poll_until(deadline, || child.try_wait().ok().flatten())
}
