//! The ways to make a partition and to retire one.

use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, NoTls};
use process::{Server, poll_until};

use super::WORKER_DATABASE;
use super::data::{NEWEST, OLDEST, OWNER, first_of_month, partition_from};

/// The pause before something that didn't succeed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the newest partition, which is missing.
    Create,
    /// Remove the oldest partition.
    Retire,
}

impl Step {
    pub const ALL: [Self; 2] = [Self::Create, Self::Retire];
}

/// By what it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    MeshHook,
    Partman,
    Function,
    Worker,
}

impl Method {
    pub const ALL: [Self; 4] = [Self::MeshHook, Self::Partman, Self::Function, Self::Worker];

    pub fn name(self, step: Step) -> &'static str {
        match (self, step) {
            (Self::MeshHook, Step::Create) => "MeshHook's function: `CREATE TABLE … PARTITION OF`",
            (Self::MeshHook, Step::Retire) => "`DROP TABLE` of the attached partition",
            (Self::Partman, Step::Create) => "pg_partman: `run_maintenance()`",
            (Self::Partman, Step::Retire) => "pg_partman: `run_maintenance()` with retention",
            (Self::Function, Step::Create) => "ours: `create_workflow_events_partition()`",
            (Self::Function, Step::Retire) => "ours: `drop_old_workflow_events_partitions()`",
            (Self::Worker, _) => "ours: the worker",
        }
    }

    /// The database to copy from.
    pub fn base(self) -> &'static str {
        match self {
            Self::MeshHook => "base_meshhook",
            Self::Partman => "base_partman",
            Self::Function | Self::Worker => "base_ours",
        }
    }

    /// The name of the copy.
    pub fn database(self) -> &'static str {
        match self {
            Self::MeshHook => "run_meshhook",
            Self::Partman => "run_partman",
            Self::Function => "run_function",
            Self::Worker => WORKER_DATABASE,
        }
    }

    /// Who calls it: pg_partman's own worker is a superuser.
    fn role(self) -> &'static str {
        if self == Self::Partman { "postgres" } else { OWNER }
    }

    /// The statement that does a step, where it is not the worker that does it.
    fn statement(self, step: Step, goal: &Goal) -> String {
        match (self, step) {
            (Self::MeshHook | Self::Function, Step::Create) => {
                format!("SELECT create_workflow_events_partition({})", first_of_month(NEWEST))
            }
            (Self::MeshHook, Step::Retire) => format!("DROP TABLE {}", goal.old_name),
            (Self::Partman, _) => "SELECT partman.run_maintenance()".to_owned(),
            (Self::Function, Step::Retire) => {
                format!("SELECT * FROM drop_old_workflow_events_partitions({})", -OLDEST - 1)
            }
            (Self::Worker, _) => unreachable!("the worker is woken"),
        }
    }

    /// Tells the tool in a fresh copy what will be wanted of it.
    pub fn configure(self, server: &Server, database: &str, step: Step) {
        if (self, step) == (Self::Partman, Step::Retire) {
            let retention = format!(
                "UPDATE partman.part_config SET retention = '{} months', retention_keep_table = false",
                -OLDEST - 1
            );
            server.run(database, &retention);
        }
    }

    /// Does a step, trying again as long as it takes.
    pub fn work(self, server: &Server, step: Step, goal: &Goal, deadline: Duration) -> Work {
        let mut watcher = server.connect(self.database());
        if self == Self::Worker {
            work_by_worker(server, step, goal, &mut watcher, deadline)
        } else {
            let client = Client::connect(&server.conninfo(self.database(), self.role()), NoTls);
            let client = client.expect("the caller connects");
            work_by_calls(client, &self.statement(step, goal), goal, &mut watcher, deadline)
        }
    }
}

/// How a step went.
#[derive(Debug)]
pub struct Work {
    pub began: Instant,
    pub done: Instant,
    pub tries: i64,
    /// The SQLSTATEs with which tries failed, but for those that say "not now".
    pub errors: Vec<String>,
}

/// By what one sees that a step is done.
#[derive(Debug)]
pub struct Goal {
    query: String,
    /// The name of the oldest partition.
    pub old_name: String,
}

impl Goal {
    pub fn of(server: &Server, database: &str, step: Step) -> Self {
        let old_name = server.ask_in(database, &partition_from(OLDEST, "c.oid::regclass::text"));
        let query = match step {
            Step::Create => format!("SELECT EXISTS ({})", partition_from(NEWEST, "1")),
            // Gone, not only detached.
            Step::Retire => {
                let oid: u32 = server.ask_in(database, &partition_from(OLDEST, "c.oid"));
                format!("SELECT NOT EXISTS (SELECT FROM pg_class WHERE oid = {oid})")
            }
        };
        Self { query, old_name }
    }

    pub fn is_reached(&self, watcher: &mut Client) -> bool {
        watcher.query_one(&self.query, &[]).expect("the goal can be looked at").get(0)
    }
}

/// Calls a function until what it is for is done.
fn work_by_calls(
    mut client: Client,
    statement: &str,
    goal: &Goal,
    watcher: &mut Client,
    deadline: Duration,
) -> Work {
    let mut errors = Vec::new();
    let began = Instant::now();
    for tries in 1.. {
        let result = client.simple_query(statement);
        let done = Instant::now();
        match result {
            Ok(_) => {}
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {}
            Err(error) => {
                let code = error.code().unwrap_or_else(|| panic!("{statement}: {error}"));
                errors.push(code.code().to_owned());
            }
        }
        if goal.is_reached(watcher) {
            return Work { began, done, tries, errors };
        }
        assert!(
            began.elapsed() < deadline,
            "{statement}: not done after {tries} tries, errors {errors:?}"
        );
        thread::sleep(RETRY);
    }
    unreachable!("the deadline comes first")
}

/// Lets the worker, wakes it, and watches.
fn work_by_worker(
    server: &Server,
    step: Step,
    goal: &Goal,
    watcher: &mut Client,
    deadline: Duration,
) -> Work {
    let policy = match step {
        Step::Create => "automatic_creation = true".to_owned(),
        Step::Retire => {
            format!("automatic_retention = true, retention = interval '{} months'", -OLDEST - 1)
        }
    };
    let before: String = server.ask("SELECT clock_timestamp()::text");
    let began = Instant::now();
    server.run(
        WORKER_DATABASE,
        &format!(
            "UPDATE meshhook_events.policy SET {policy}; SELECT meshhook_events.wake_worker()"
        ),
    );
    let reached = poll_until(deadline, || goal.is_reached(watcher).then(Instant::now));
    let done =
        reached.unwrap_or_else(|| panic!("the worker has not done {step:?}\n{}", server.log()));
    Work { began, done, tries: tries_of_worker(server, step, &before), errors: Vec::new() }
}

/// How often the worker has tried, by its ledger.
fn tries_of_worker(server: &Server, step: Step, since: &str) -> i64 {
    server.wait_until("the worker has closed its entries", |server| {
        server.ask_in(
            WORKER_DATABASE,
            "SELECT NOT EXISTS (SELECT FROM meshhook_events.maintenance_log WHERE status = 'running')",
        )
    });
    // With one entry for the tries that ended alike, or with an entry for each.
    let merges: bool = server.ask_in(
        WORKER_DATABASE,
        "SELECT EXISTS (SELECT FROM pg_attribute \
         WHERE attrelid = 'meshhook_events.maintenance_log'::regclass AND attname = 'attempts')",
    );
    let task = match step {
        Step::Create => "create",
        Step::Retire => "retire",
    };
    let tries = if merges {
        format!(
            "SELECT coalesce(sum(attempts), 0)::bigint FROM meshhook_events.maintenance_log \
             WHERE origin = 'worker' AND task = '{task}' AND started_at >= '{since}'"
        )
    } else {
        format!(
            "SELECT count(*) FROM meshhook_events.maintenance_log \
             WHERE origin = 'worker' AND started_at >= '{since}'"
        )
    };
    server.ask_in(WORKER_DATABASE, &tries)
}
