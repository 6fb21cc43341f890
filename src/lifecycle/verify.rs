//! The health check: a finding a check, nothing changed.

use pgrx::{PgSqlErrorCode as Sqlstate, Uuid};

use crate::db::catalog::{self, RUNS};
use crate::db::ident::{Ident, Qualified};
use crate::db::ledger::{self, LastAttempt};
use crate::db::{calendar, query};
use crate::domain::instant::Instant;
use crate::domain::partition::Bound;
use crate::domain::plan;
use crate::error::{Error, Result};
use crate::lifecycle::context::{Context, LIBRARY_VERSION, require_privileges_of};
use crate::lifecycle::create::require_safe_owner;
use crate::lifecycle::inspect::{self, Finding, Status};
use crate::lifecycle::migrate;
use crate::lifecycle::{coverage, growth, seal_check};
use crate::pg::{board, identity, server, subtransaction};
use crate::settings::{Settings, WorkerSettings};

/// Where the probes are written: name of the check, days from now.
const PROBES: [(&str, i32); 4] = [
    ("event_60_days_ago", -60),
    ("event_30_days_ago", -30),
    ("event_now", 0),
    ("event_in_30_days", 30),
];

/// Runs every check. The probes insert and read back an event each in a subtransaction that is rolled
/// back; what remains of them is a few numbers of the id sequence.
///
/// # Errors
///
/// Where the extension is not installed, or the caller may not act as the table's owner.
pub fn event_log(
    settings: Settings,
    worker: &WorkerSettings,
    recompute: bool,
) -> Result<Vec<Finding>> {
    // What the catalogs say is compared as text: no setting of the caller's may change how it is written.
    identity::pinned(|| {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        event_log_pinned(settings, worker, recompute)
    })
}

fn event_log_pinned(
    settings: Settings,
    worker: &WorkerSettings,
    recompute: bool,
) -> Result<Vec<Finding>> {
    let extension = catalog::extension()?;
    let mut findings = vec![version(&extension.version), self::worker(worker)?];
    findings.extend(lock_timeout(settings));
    findings.extend(migrate::plan::finding(&extension)?);
    let context = match Context::load() {
        Ok(context) => context,
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            findings.push(Finding::bad("table", Status::Failed, error.to_string(), hint));
            return Ok(findings);
        }
    };
    require_privileges_of(context.table.owner, &context.table)?;
    let safe = require_safe_owner(&context.table).and_then(|()| require_safe_to_query(&context));
    if let Err(error) = &safe {
        let hint = error.hint().unwrap_or_default();
        findings.push(Finding::bad("owner", Status::Failed, error.to_string(), hint));
    }
    let detail = format!("{} is partitioned by range of ts", context.table.qualified());
    findings.push(Finding::ok("table", detail));
    findings.push(inspect::columns(&context)?);
    findings.extend(inspect::keys(&context)?);
    findings.push(inspect::coverage(&context)?);
    findings.extend(inspect::partitions(&context)?);
    findings.push(growth::finding(&context)?);
    findings.push(inspect::indexes(&context)?);
    findings.push(inspect::protection(&context)?);
    findings.push(inspect::retention(&context, settings)?);
    findings.push(seal_check::sealed(&context, recompute)?);
    for (check, days) in PROBES {
        findings.push(match &safe {
            Ok(()) => probe(&context, check, days)?,
            Err(_) => {
                let detail = "not tried: it would run another role's code as a superuser";
                Finding::bad(check, Status::Warning, detail, "See the check \"owner\".")
            }
        });
    }
    Ok(findings)
}

/// Whether the library and the SQL objects are of one version.
fn version(installed: &str) -> Finding {
    const CHECK: &str = "extension_version";
    if installed == LIBRARY_VERSION {
        return Finding::ok(CHECK, format!("library and SQL objects are {installed}"));
    }
    let detail = format!("the library is {LIBRARY_VERSION}, the SQL objects are {installed}");
    let hint = "ALTER EXTENSION pg_meshhook_events UPDATE; and restart the server where the library was \
                preloaded.";
    Finding::bad(CHECK, Status::Failed, detail, hint)
}

/// Whether maintenance gives up before a client looks for a deadlock; nothing where it does.
fn lock_timeout(settings: Settings) -> Option<Finding> {
    let (own_ms, server_ms) = (settings.lock_timeout_ms, server::deadlock_timeout_ms());
    (own_ms >= server_ms).then(|| {
        Finding::bad(
            "lock_timeout",
            Status::Warning,
            format!(
                "pg_meshhook_events.lock_timeout is {own_ms} ms, deadlock_timeout {server_ms} ms"
            ),
            "Set it lower: in a deadlock with maintenance a client could be the one that fails.",
        )
    })
}

/// Whether the worker is there, and how it last went.
fn worker(settings: &WorkerSettings) -> Result<Finding> {
    const CHECK: &str = "worker";
    let off = |detail: &str, hint: &str| Ok(Finding::bad(CHECK, Status::Warning, detail, hint));
    if !board::exists() {
        return Ok(Finding::bad(
            CHECK,
            Status::Warning,
            "the library was not preloaded, so there is no background worker",
            "Add pg_meshhook_events to shared_preload_libraries and restart, or call \
             maintain_workflow_events_partitions() every day from a scheduler of your own.",
        ));
    }
    if !settings.enabled {
        return off(
            "pg_meshhook_events.enabled is off",
            "Turn it on and reload the configuration.",
        );
    }
    if !settings.databases.includes(&catalog::current_database()?) {
        return off(
            "pg_meshhook_events.databases does not name this database",
            "Add it there and reload the configuration.",
        );
    }
    if board::launcher_pid() == 0 {
        return Ok(Finding::bad(
            CHECK,
            Status::Warning,
            "the launcher has not started yet",
            "It starts when recovery has ended; on a standby it waits for the promotion.",
        ));
    }
    let Some(tasks) = ledger::last_attempts()? else {
        return Ok(Finding::ok(
            CHECK,
            "the launcher runs; the ledger is not readable for this role",
        ));
    };
    Ok(last_attempts(CHECK, &tasks, settings))
}

/// How the worker's tasks last went: the worst of them.
fn last_attempts(check: &'static str, tasks: &[LastAttempt], settings: &WorkerSettings) -> Finding {
    let succeeded = |last: &LastAttempt| last.succeeded_at.clone().unwrap_or("never".to_owned());
    let of = |last: &LastAttempt| {
        let times = match last.attempts {
            1 => String::new(),
            n => format!(", {n} times in a row since {}", last.since),
        };
        let message = last.message.clone().unwrap_or_default();
        let success = succeeded(last);
        let text = format!("task {}: {message}{times}; it last succeeded: {success}", last.task);
        let overdue = last
            .succeeded_s_ago
            .zip(settings.interval_s)
            .is_some_and(|(age, i)| age > 2 * i.max(HALF_DAY_S));
        match last.status.as_str() {
            "failed" | "crashed" => Finding::bad(
                check,
                Status::Failed,
                format!("the last attempt failed; {text}"),
                "See meshhook_events.maintenance_log. It tries again by itself.",
            ),
            "warning" => {
                Finding::bad(check, Status::Warning, text, "See meshhook_events.maintenance_log.")
            }
            _ if overdue => Finding::bad(
                check,
                Status::Warning,
                format!("task {} is overdue; it last succeeded: {success}", last.task),
                "See whether the launcher is among pg_stat_activity, and what the server log says.",
            ),
            _ => Finding::ok(check, format!("it last succeeded: {success}")),
        }
    };
    tasks.iter().map(of).max_by_key(|finding| finding.status).unwrap_or_else(|| {
        Finding::bad(
            check,
            Status::Warning,
            "the launcher runs, but it has not maintained this database yet",
            "It does so at the next time of pg_meshhook_events.schedule.",
        )
    })
}

/// How long the worker leaves its last entry as it is while nothing changes, in seconds.
const HALF_DAY_S: i64 = 12 * 3_600;

/// Refuses a superuser's event log beside a table of runs, or with partitions, of somebody who is none: a
/// query plans with their indexes, and runs the functions in them.
fn require_safe_to_query(context: &Context) -> Result<()> {
    let table = &context.table;
    if !identity::is_superuser(table.owner) {
        return Ok(());
    }
    let runs = catalog::find_table(table.schema_oid, RUNS)?.map(|oid| (oid, RUNS.to_owned()));
    let partitions = catalog::partitions(table)?.into_iter().map(|p| (p.oid.into(), p.name));
    for (oid, name) in runs.into_iter().chain(partitions) {
        if catalog::owner_of(oid)?.is_some_and(|(owner, _)| !identity::is_superuser(owner)) {
            return Err(Error::UnsafeOwner {
                table: catalog::EVENTS.to_owned(),
                owner: table.owner_name.clone(),
                referenced: name,
            });
        }
    }
    Ok(())
}

/// Inserts an event some days from now, reads it back through `get_workflow_run_events`, and takes
/// both back.
fn probe(context: &Context, check: &'static str, days: i32) -> Result<Finding> {
    if server::transaction_is_read_only() {
        let hint = "Call it in a transaction that may write, on the primary.";
        return Ok(Finding::bad(check, Status::Warning, "not tried: nothing can be written", hint));
    }
    let tried = identity::run_as(context.table.owner, || {
        identity::set_search_path(&Ident(&context.table.schema).to_string());
        subtransaction::try_out(|| {
            // A foreign key that is checked later could not be checked here.
            query::execute("SET CONSTRAINTS ALL IMMEDIATE", &[])?;
            write_and_read_back(context, days)
        })
    });
    Ok(match tried {
        Ok(Some(true)) => Finding::ok(check, "inserted and read back"),
        Ok(Some(false)) => Finding::bad(
            check,
            Status::Failed,
            "inserted, but not read back",
            "See whether a trigger or row level security keeps it away.",
        ),
        Ok(None) => Finding::bad(
            check,
            Status::Warning,
            "not tried: there is no run to write an event for",
            "Start a run, then call it again.",
        ),
        Err(Error::Server(failure)) if failure.message.starts_with("no partition of relation") => {
            not_held(context, check, days)?
        }
        Err(error) if error.sqlstate() == Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE => {
            let hint = "Somebody has the run or the partition locked; call it again.";
            Finding::bad(check, Status::Warning, format!("not tried: {error}"), hint)
        }
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            Finding::bad(check, Status::Failed, error.to_string(), hint)
        }
    })
}

/// The finding that no partition holds what is some days from now: a failure where the policy wants one.
fn not_held(context: &Context, check: &'static str, days: i32) -> Result<Finding> {
    let detail = "no partition holds that time";
    if days < 0 {
        let hint = format!(
            "SELECT create_workflow_events_partition(now() - interval '{} days');",
            days.unsigned_abs()
        );
        return Ok(Finding::bad(check, Status::Warning, detail, hint));
    }
    let policy = &context.policy;
    let (now, today) = calendar::now(&policy.time_zone)?;
    let then = Instant(now.0.saturating_add(i64::from(days) * DAY_US));
    // A day more, since they differ in length.
    let enough = plan::premake_for(policy.granularity, today, days.unsigned_abs() + 1);
    Ok(match enough {
        Some(premake) if Bound::At(then) >= coverage::of(context)?.wanted_until => {
            let detail = format!("{detail}: the policy makes fewer periods ahead");
            let hint = format!("UPDATE meshhook_events.policy SET premake = {premake};");
            Finding::bad(check, Status::Warning, detail, hint)
        }
        _ => {
            let hint =
                format!("SELECT create_workflow_events_partition(now() + interval '{days} days');");
            Finding::bad(check, Status::Failed, detail, hint)
        }
    })
}

/// A day, in microseconds.
const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// Whether an event that is inserted is read back; `None` where there is no run for it.
fn write_and_read_back(context: &Context, days: i32) -> Result<Option<bool>> {
    let Some(run) = some_run(context)? else {
        return Ok(None);
    };
    let events = context.table.qualified();
    let insert = format!(
        "INSERT INTO {events} (run_id, ts, type, payload) \
         VALUES ($1, pg_catalog.now() OPERATOR(pg_catalog.+) pg_catalog.make_interval(days => $2), \
                 'pg_meshhook_events.verify', '{{}}') RETURNING id"
    );
    let ids =
        query::execute_returning(&insert, &[run.into(), days.into()], |row| row.get::<i64>(1))?;
    let name = "get_workflow_run_events";
    let function = Qualified { schema: &context.extension.schema, name };
    let read = format!(
        "SELECT pg_catalog.count(*) FROM {function}($1, \
             pg_catalog.now() OPERATOR(pg_catalog.+) pg_catalog.make_interval(days => $2), \
             pg_catalog.now() OPERATOR(pg_catalog.+) pg_catalog.make_interval(days => $2)) WHERE id OPERATOR(pg_catalog.=) ANY ($3)"
    );
    let arguments = [run.into(), days.into(), ids.into()];
    query::read_one(&read, &arguments, |row| Ok(row.get::<i64>(1)? == 1))
}

/// A run that is there, or one made for the purpose where the table allows one without further values.
fn some_run(context: &Context) -> Result<Option<Uuid>> {
    let runs = Qualified { schema: &context.table.schema, name: RUNS };
    if catalog::find_table(context.table.schema_oid, RUNS)?.is_none() {
        return Ok(None);
    }
    let any = format!("SELECT id FROM {runs} LIMIT 1");
    if let Some(run) = query::read_one(&any, &[], |row| row.get(1))? {
        return Ok(Some(run));
    }
    let make =
        format!("INSERT INTO {runs} (id) VALUES (pg_catalog.gen_random_uuid()) RETURNING id");
    let made = subtransaction::run(|| query::execute_returning(&make, &[], |row| row.get(1)));
    Ok(made.ok().and_then(|runs| runs.into_iter().next()))
}
