//! The launcher: finds out which databases are due, and starts a worker for each.

use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::{debug1, log, warning};

use super::{Assignment, LIBRARY};
use crate::domain::queue::Queue;
use crate::domain::schedule::{Schedule, Timetable};
use crate::pg::board::{self, WakeRequests};
use crate::pg::databases::{self, Database};
use crate::pg::process::{self, OnCancel};
use crate::pg::{server, time_zone};
use crate::settings;

/// The longest sleep: new databases and changes of the clock are noticed after this.
const POLL: Duration = Duration::from_secs(60);

/// The sleep while no worker can be started.
const NO_SLOT_RETRY: Duration = Duration::from_secs(1);

/// How often the log is told at most that no worker can be started.
const NO_SLOT_LOG: Duration = Duration::from_secs(600);

/// The longest name of a worker, in bytes (`BGW_MAXLEN` less the NUL).
const MAX_NAME_BYTES: usize = 95;

/// A worker that has not been seen to end.
struct Child {
    database: u32,
    handle: Handle,
}

/// How one finds out whether a worker has ended.
enum Handle {
    /// This launcher started it.
    Started(DynamicBackgroundWorker),
    /// A launcher before this one did; what is left is its process.
    Orphan(i32),
}

impl Child {
    fn has_ended(&self) -> bool {
        match &self.handle {
            Handle::Started(worker) => matches!(
                worker.pid(),
                Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied)
            ),
            Handle::Orphan(pid) => !process::is_worker_of(*pid, self.database),
        }
    }
}

/// What the launcher knows.
struct Launcher {
    started: Instant,
    queue: Queue,
    zone: String,
    timetable: Timetable,
    children: [Option<Child>; board::SLOTS],
    no_slot_logged: Option<Instant>,
}

/// Runs until the process is told to end.
pub fn run() {
    process::install_signal_handlers(OnCancel::Ignore);
    process::connect_to_no_database();
    process::report_application_name("pg_meshhook_events launcher");
    board::announce_launcher(server::process_id());
    log!("pg_meshhook_events launcher started");
    let mut launcher = Launcher::new();
    loop {
        let pause = launcher.step();
        process::sleep(pause);
    }
}

impl Launcher {
    fn new() -> Self {
        let zone = settings::schedule_time_zone();
        let mut launcher = Self {
            started: Instant::now(),
            queue: Queue::default(),
            timetable: Timetable::new(civil_now(&zone)),
            zone,
            children: Default::default(),
            no_slot_logged: None,
        };
        launcher.adopt_orphans();
        launcher
    }

    /// Takes over the workers of a launcher that was terminated, so that no database gets a second one,
    /// and none is forgotten that fails.
    fn adopt_orphans(&mut self) {
        for (slot, place) in self.children.iter_mut().enumerate() {
            if let Some((pid, database)) = board::running(slot) {
                self.queue.observe(&[database], Duration::ZERO);
                self.queue.started(database, Duration::ZERO);
                *place = Some(Child { database, handle: Handle::Orphan(pid) });
            }
        }
    }

    /// Does what is due now, and gives how long to sleep.
    fn step(&mut self) -> Duration {
        self.reap();
        if !settings::enabled() {
            process::report_activity(false, "pg_meshhook_events.enabled is off");
            return POLL;
        }
        let schedule = settings::schedule();
        self.note_schedule(schedule.as_ref());
        let databases = self.note_databases();
        let all_started = self.start_due(&databases);
        process::report_activity(
            false,
            &format!(
                "{} databases, {} workers",
                databases.len(),
                self.children.iter().flatten().count()
            ),
        );
        if !all_started {
            return NO_SLOT_RETRY;
        }
        let now = self.started.elapsed();
        let waits_for_slot = self.children.iter().all(Option::is_some);
        let next_due = if waits_for_slot { None } else { self.queue.until_next(now) };
        // Nobody tells us when an orphan ends.
        let has_orphan =
            self.children.iter().flatten().any(|c| matches!(c.handle, Handle::Orphan(_)));
        let look = if has_orphan { NO_SLOT_RETRY } else { POLL };
        let next_scheduled = schedule.and_then(|schedule| self.timetable.until_next(&schedule));
        [next_due, next_scheduled, Some(look)].into_iter().flatten().min().unwrap_or(look)
    }

    /// Takes note of the workers that have ended. The server sets our latch when one does.
    fn reap(&mut self) {
        let now = self.started.elapsed();
        for (slot, child) in self.children.iter_mut().enumerate() {
            if let Some(child) = child.take_if(|child| child.has_ended()) {
                let jitter = (server::now_us() & 0xff) as u8;
                let limits = settings::limits();
                let ended = board::outcomes(slot);
                let failures = self.queue.ended(child.database, ended, now, limits, jitter);
                debug1!(
                    "worker of database {} ended, {failures} failures in a row",
                    child.database
                );
            }
        }
    }

    /// Makes every database due when a scheduled time has passed.
    fn note_schedule(&mut self, schedule: Option<&Schedule>) {
        let zone = settings::schedule_time_zone();
        let civil = civil_now(&zone);
        if zone != self.zone {
            self.zone = zone;
            self.timetable = Timetable::new(civil);
        }
        if schedule.is_some_and(|schedule| self.timetable.passed(schedule, civil)) {
            self.queue.all_due(self.started.elapsed(), settings::limits());
        }
    }

    /// Takes in which databases there are, and which asked to be looked at.
    fn note_databases(&mut self) -> Vec<Database> {
        let now = self.started.elapsed();
        let wanted = settings::databases();
        let mut databases = databases::connectable();
        databases.retain(|database| wanted.includes(&database.name));
        let oids: Vec<u32> = databases.iter().map(|database| database.oid).collect();
        self.queue.observe(&oids, now);
        match board::take_wake_requests() {
            WakeRequests::Databases(oids) => oids.iter().for_each(|oid| self.queue.wake(*oid, now)),
            WakeRequests::All => self.queue.wake_all(now),
        }
        databases
    }

    /// Starts workers for databases that are due, as many as there is room for; `false` where the
    /// server has no room for one.
    fn start_due(&mut self, databases: &[Database]) -> bool {
        while let Some(slot) = self.children.iter().position(Option::is_none) {
            let now = self.started.elapsed();
            let Some(oid) = self.queue.next(now) else {
                return true;
            };
            let name = databases.iter().find(|d| d.oid == oid).map_or("", |d| d.name.as_str());
            let (orders, last_words) = self.queue.orders(oid, now, settings::limits());
            board::prepare_slot(slot, orders, last_words);
            let Some(worker) = start(Assignment { database: oid, slot }, name) else {
                self.log_no_slot(name);
                return false;
            };
            self.queue.started(oid, now);
            if let Some(place) = self.children.get_mut(slot) {
                *place = Some(Child { database: oid, handle: Handle::Started(worker) });
            }
        }
        true
    }

    fn log_no_slot(&mut self, name: &str) {
        if self.no_slot_logged.is_none_or(|at| at.elapsed() >= NO_SLOT_LOG) {
            self.no_slot_logged = Some(Instant::now());
            warning!(
                "no background worker slot for database \"{name}\": raise max_worker_processes; \
                 trying again every second"
            );
        }
    }
}

/// Starts a worker; `None` where the server has no room for one.
fn start(assignment: Assignment, database: &str) -> Option<DynamicBackgroundWorker> {
    let name = format!("pg_meshhook_events worker for database {database}");
    BackgroundWorkerBuilder::new(cut(&name, MAX_NAME_BYTES))
        .set_type("pg_meshhook_events worker")
        .set_library(LIBRARY)
        .set_function("pg_meshhook_events_database_main")
        .enable_spi_access()
        .set_restart_time(None)
        .set_argument(Some(assignment.pack()))
        .set_notify_pid(server::process_id())
        .load_dynamic()
        .ok()
}

/// The longest beginning of `text` of at most `max` bytes that is whole characters.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// What a clock in that zone shows now; one in UTC where the zone is not known.
fn civil_now(zone: &str) -> chrono::NaiveDateTime {
    let now = server::now_us();
    time_zone::civil_time(zone, now)
        .or_else(|| time_zone::civil_time("UTC", now))
        .unwrap_or_default()
}
