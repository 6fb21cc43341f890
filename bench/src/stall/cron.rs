//! pg_cron as MeshHook uses it: its create function as a job of each minute, in a background worker.

use std::thread;
use std::time::{Duration, Instant};

use process::{Server, poll_until};

use super::data::{NEWEST, first_of_month};
use super::holders::Held;
use super::measure::{LEAD, Measurement, PATIENCE, Seen};
use super::methods::{Method, Step, Work};

const DATABASE: &str = "run_cron";

/// How long the transaction is open.
pub const HOLD: Duration = Duration::from_secs(60);

/// Opens a transaction shortly before a minute begins, and lets the job run into it.
pub fn measure(server: &Server) -> Seen {
    let mut measurement = Measurement::begin(server, Method::MeshHook, DATABASE, Step::Create);
    let second = |server: &Server| -> f64 {
        server.ask("SELECT extract(second FROM clock_timestamp())::float8")
    };
    // As much time before the minute as other transactions have before maintenance.
    thread::sleep(Duration::from_secs_f64((120.0 - LEAD.as_secs_f64() - second(server)) % 60.0));
    measurement.hold(Held::InsertOfRun, HOLD);
    measurement.record();
    let job: i64 = server.ask(&format!(
        "SELECT cron.schedule_in_database('bench', '* * * * *', \
         format('SELECT create_workflow_events_partition(%L)', {}), '{DATABASE}')",
        first_of_month(NEWEST)
    ));
    // The job is due at the minute; what job_run_details gives as the start of a run is later.
    let began = Instant::now() + Duration::from_secs_f64(60.0 - second(server));
    let mut watcher = server.connect(DATABASE);
    let reached = poll_until(HOLD + PATIENCE, || {
        measurement.goal.is_reached(&mut watcher).then(Instant::now)
    });
    let done =
        reached.unwrap_or_else(|| panic!("pg_cron has not made the partition\n{}", server.log()));
    drop(watcher);
    let tries = end_job(server, job);
    measurement.finish(Work { began, done, tries, errors: Vec::new() })
}

/// Ends the job, and says how many runs of it have ended.
fn end_job(server: &Server, job: i64) -> i64 {
    let runs = format!("FROM cron.job_run_details WHERE jobid = {job}");
    server.wait_until("pg_cron has noted the end of the job's first run", |server| {
        server.ask(&format!("SELECT EXISTS (SELECT {runs} AND end_time IS NOT NULL)"))
    });
    server.run("postgres", &format!("SELECT cron.unschedule({job})"));
    let failed: Vec<String> =
        server.all("postgres", &format!("SELECT return_message {runs} AND status = 'failed'"));
    assert!(failed.is_empty(), "pg_cron's job failed: {failed:?}");
    server.ask(&format!("SELECT count(*) {runs} AND end_time IS NOT NULL"))
}
