//! The settings under `pg_meshhook_events.`: private statics, a reason for each default, typed getters.
//!
//! They are read at the edge (`api`, `worker`) and handed down as values.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::domain::migration::Pace;
use crate::domain::retry::Limits;
use crate::domain::schedule::Schedule;
use crate::pg::{guc, server, time_zone};

/// On, because whoever preloads the library wants its worker.
static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);

/// All, because a database without the extension costs next to nothing, and one that is forgotten in
/// a list stops taking events when its partitions run out.
static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"*"));

/// Two at night, as MeshHook's own document has it.
static SCHEDULE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"0 2 * * *"));

/// UTC, because then no clock change moves or repeats it.
static SCHEDULE_TIMEZONE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"UTC"));

/// A tenth of a second: what a person doesn't notice, and far more than an idle server needs.
static LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(100);

/// The bounds of `lock_timeout`, in milliseconds: without a limit, or with one of many seconds, the
/// promise that nobody waits for maintenance would be void.
const LOCK_TIMEOUT_BOUNDS_MS: (i32, i32) = (1, 10_000);

/// A dozen: each makes a client wait for a tenth of a second at most, and back-off comes near it only where
/// somebody is always in the way.
static ATTEMPTS_PER_HOUR: GucSetting<i32> = GucSetting::<i32>::new(12);

/// Two hours of failures at the cap: by then somebody has to look at it, and an hour more or less is nothing
/// beside months of partitions ahead.
static BREAKER_FAILURES: GucSetting<i32> = GucSetting::<i32>::new(24);

/// Ten thousand: some hundred milliseconds of work, so that a stop is soon heeded and little is done again after a crash.
static MIGRATION_BATCH_ROWS: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// No limit: nobody waits for the copying, and the sooner it ends, the fewer changes are to be carried over.
static MIGRATION_ROWS_PER_SECOND: GucSetting<i32> = GucSetting::<i32>::new(0);

/// None, for the same reason.
static MIGRATION_PAUSE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Defines the settings and reserves their prefix.
pub fn init() {
    GucRegistry::define_bool_guc(
        c"pg_meshhook_events.enabled",
        c"Maintains event logs in the background.",
        c"Needs pg_meshhook_events in shared_preload_libraries.",
        &ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    // SAFETY: the hooks have the types that the server calls, and are guarded against panics.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"pg_meshhook_events.databases",
            c"Names the databases that the background worker may maintain, separated by commas.",
            c"\"*\" stands for all that allow connections and are no templates.",
            &DATABASES,
            GucContext::Sighup,
            GucFlags::default(),
            Some(guc::check_databases),
            None,
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"pg_meshhook_events.schedule",
            c"Sets when the background worker maintains each database, in cron syntax.",
            c"Five fields: minute, hour, day of month, month, day of week.",
            &SCHEDULE,
            GucContext::Sighup,
            GucFlags::default(),
            Some(guc::check_schedule),
            None,
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"pg_meshhook_events.schedule_timezone",
            c"Sets the time zone in which pg_meshhook_events.schedule is read.",
            c"",
            &SCHEDULE_TIMEZONE,
            GucContext::Sighup,
            GucFlags::default(),
            Some(guc::check_time_zone),
            None,
            None,
        );
    }
    GucRegistry::define_int_guc(
        c"pg_meshhook_events.lock_timeout",
        c"Sets how long one step of maintenance may wait for its locks, all together.",
        c"No session waits longer than this because of maintenance.",
        &LOCK_TIMEOUT,
        LOCK_TIMEOUT_BOUNDS_MS.0,
        LOCK_TIMEOUT_BOUNDS_MS.1,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_meshhook_events.attempts_per_hour",
        c"Sets how many failing attempts the worker makes in an hour, for each database and task.",
        c"While somebody holds a lock for long, the worker looks without trying, and that doesn't count.",
        &ATTEMPTS_PER_HOUR,
        1,
        3_600,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_meshhook_events.breaker_failures",
        c"Sets after how many failures in a row the worker makes one attempt an hour.",
        c"A success ends that, and so does meshhook_events.wake_worker().",
        &BREAKER_FAILURES,
        1,
        1_000_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    init_migration();
    guc::reserve_prefix();
}

fn init_migration() {
    GucRegistry::define_int_guc(
        c"pg_meshhook_events.migration_batch_rows",
        c"Sets how many rows a migration copies in one transaction.",
        c"",
        &MIGRATION_BATCH_ROWS,
        1,
        1_000_000,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_meshhook_events.migration_rows_per_second",
        c"Limits how many rows a migration copies in a second.",
        c"0 means without limit.",
        &MIGRATION_ROWS_PER_SECOND,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_meshhook_events.migration_pause",
        c"Sets how long a migration waits between two batches.",
        c"",
        &MIGRATION_PAUSE,
        0,
        60_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
}

/// What a use case needs to know of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long one step may wait for its locks, all together, in milliseconds.
    pub lock_timeout_ms: i32,
    /// How fast a migration copies.
    pub migration_pace: Pace,
}

impl Settings {
    /// The settings as they are now.
    #[must_use]
    pub fn current() -> Self {
        Self {
            lock_timeout_ms: LOCK_TIMEOUT.get(),
            migration_pace: Pace {
                batch_rows: MIGRATION_BATCH_ROWS.get(),
                rows_per_second: MIGRATION_ROWS_PER_SECOND.get(),
                pause_ms: MIGRATION_PAUSE.get(),
            },
        }
    }
}

/// What the health check needs to know of the worker's settings.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Whether the worker is on.
    pub enabled: bool,
    /// Which databases it may maintain.
    pub databases: Databases,
    /// How many seconds lie between two scheduled times, as from now; `None` where there is none.
    pub interval_s: Option<i64>,
}

impl WorkerSettings {
    /// The settings as they are now.
    #[must_use]
    pub fn current() -> Self {
        let interval = || {
            let now = time_zone::civil_time(&schedule_time_zone(), server::now_us())?;
            let schedule = schedule()?;
            let next = schedule.next_after(now)?;
            Some(schedule.next_after(next)?.signed_duration_since(next).num_seconds())
        };
        Self { enabled: enabled(), databases: databases(), interval_s: interval() }
    }
}

/// How often at most the worker tries what fails.
#[must_use]
pub fn limits() -> Limits {
    let count = |setting: &GucSetting<i32>| u32::try_from(setting.get()).unwrap_or(1);
    Limits {
        attempts_per_hour: count(&ATTEMPTS_PER_HOUR),
        breaker_failures: count(&BREAKER_FAILURES),
    }
}

/// Whether the worker is on.
#[must_use]
pub fn enabled() -> bool {
    ENABLED.get()
}

/// Which databases the worker may maintain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Databases {
    /// All of them.
    All,
    /// Those of these names.
    Named(Vec<String>),
}

impl Databases {
    /// Whether the database of that name is one of them.
    #[must_use]
    pub fn includes(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|n| n == name),
        }
    }
}

/// Which databases the worker may maintain.
#[must_use]
pub fn databases() -> Databases {
    let names = guc::split_names(&text(&DATABASES)).unwrap_or_default();
    if names.iter().any(|name| name == "*") { Databases::All } else { Databases::Named(names) }
}

/// When the worker maintains; `None` where the value is not valid, which the check hook prevents.
#[must_use]
pub fn schedule() -> Option<Schedule> {
    Schedule::parse(&text(&SCHEDULE)).ok()
}

/// The time zone in which the schedule is read.
#[must_use]
pub fn schedule_time_zone() -> String {
    text(&SCHEDULE_TIMEZONE)
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}
