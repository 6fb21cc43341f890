//! One measurement: a fresh copy, clients at work, a transaction open, and one step of maintenance.

use std::thread;
use std::time::{Duration, Instant};

use process::Server;

use super::clients::{Clients, Felt};
use super::data::{self, OLDEST, RUNS};
use super::holders::{Held, Holder};
use super::methods::{Goal, Method, Step, Work};

/// How long a transaction has been open when maintenance begins.
pub const LEAD: Duration = Duration::from_secs(2);

/// How long the clients go on after the step is done.
const TAIL: Duration = Duration::from_millis(300);

/// How long a step may take beside what the transaction takes.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What a measurement showed.
#[derive(Debug)]
pub struct Seen {
    pub felt: Felt,
    /// Seconds from the start of maintenance until the step was done.
    pub after_start: f64,
    /// Seconds from the end of the open transaction until then; none where it was done before.
    pub after_end: Option<f64>,
    pub tries: i64,
    pub errors: Vec<String>,
}

/// A measurement under way.
pub struct Measurement<'a> {
    server: &'a Server,
    database: &'a str,
    step: Step,
    pub goal: Goal,
    seeds: String,
    clients: Clients,
    holder: Option<(Held, Holder)>,
}

impl<'a> Measurement<'a> {
    /// Makes the copy and lets the clients loose in it.
    pub fn begin(server: &'a Server, method: Method, database: &'a str, step: Step) -> Self {
        data::copy(server, method, database, step);
        method.configure(server, database, step);
        let goal = Goal::of(server, database, step);
        let seeds = data::sum_of_seeds(server, database, kept_from(step));
        let clients = Clients::start(server, database);
        Self { server, database, step, goal, seeds, clients, holder: None }
    }

    /// Opens a transaction.
    pub fn hold(&mut self, held: Held, hold: Duration) {
        if held != Held::Nothing {
            self.holder = Some((held, Holder::open(self.server, self.database, held, hold)));
        }
    }

    /// From now on the longest call counts.
    pub fn record(&self) {
        self.clients.record();
    }

    /// Ends it all, checks that nothing is amiss, and removes the copy.
    pub fn finish(self, work: Work) -> Seen {
        thread::sleep(TAIL);
        let held = self.holder.as_ref().map_or(Held::Nothing, |(held, _)| *held);
        let ended: Option<Instant> = self.holder.map(|(_, holder)| holder.end());
        let felt = self.clients.stop();
        let mut watcher = self.server.connect(self.database);
        assert!(self.goal.is_reached(&mut watcher), "what was done is undone");
        drop(watcher);
        let seeds = data::sum_of_seeds(self.server, self.database, kept_from(self.step));
        assert_eq!(seeds, self.seeds, "rows are lost from {}", self.database);
        let events: i64 = self
            .server
            .ask_in(self.database, "SELECT count(*) FROM workflow_events WHERE type = 'bench'");
        assert_eq!(
            events, felt.inserted as i64,
            "events that clients wrote are lost from {}",
            self.database
        );
        let runs: i64 = self.server.ask_in(self.database, "SELECT count(*) FROM workflow_runs");
        assert_eq!(
            runs,
            i64::from(RUNS) + held.runs_added(),
            "runs are lost from {}",
            self.database
        );
        data::remove(self.server, self.database);
        Seen {
            felt,
            after_start: (work.done - work.began).as_secs_f64(),
            after_end: ended
                .and_then(|ended| work.done.checked_duration_since(ended))
                .map(|after| after.as_secs_f64()),
            tries: work.tries,
            errors: work.errors,
        }
    }
}

/// The first month whose rows must all be there afterwards.
fn kept_from(step: Step) -> i32 {
    match step {
        Step::Create => OLDEST,
        Step::Retire => OLDEST + 1,
    }
}

/// Measures one method.
pub fn one(server: &Server, method: Method, step: Step, held: Held, hold: Duration) -> Seen {
    let mut measurement = Measurement::begin(server, method, method.database(), step);
    measurement.hold(held, hold);
    // The state that is measured: a transaction, and clients, that have been there for a while.
    thread::sleep(LEAD);
    measurement.record();
    let work = method.work(server, step, &measurement.goal, hold + PATIENCE);
    measurement.finish(work)
}

/// What the clients feel of each other alone.
pub fn clients_alone(server: &Server, time: Duration) -> Felt {
    let database = Method::MeshHook.database();
    data::copy(server, Method::MeshHook, database, Step::Retire);
    let clients = Clients::start(server, database);
    thread::sleep(LEAD);
    clients.record();
    thread::sleep(time);
    let felt = clients.stop();
    data::remove(server, database);
    felt
}
