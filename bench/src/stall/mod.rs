//! What clients feel while a partition is made or retired, and another transaction is open.

mod clients;
mod cron;
mod data;
mod holders;
mod measure;
mod methods;
mod table;

use std::fmt::Write as _;
use std::time::Duration;

use process::Server;

use crate::options::Options;
use crate::report;
use holders::Held;
use measure::Seen;
use methods::{Method, Step};

/// The one database of the comparison in which the worker works.
pub const WORKER_DATABASE: &str = "run_worker";

/// How long the clients are watched without any maintenance.
const ALONE: Duration = Duration::from_secs(6);

/// Makes the databases to copy from, and names the versions of what is compared.
pub fn prepare(server: &Server, report: &mut String) {
    server.run("postgres", "CREATE EXTENSION pg_cron");
    data::prepare(server);
    for (name, database) in [
        ("pg_meshhook_events", "base_ours"),
        ("pg_partman", "base_partman"),
        ("pg_cron", "postgres"),
    ] {
        let _ = writeln!(report, "- {name} {}", report::extension(server, database, name));
    }
    report.push('\n');
}

/// A state of affairs in which every method is measured.
struct Case {
    held: Held,
    hold: Duration,
    rounds: usize,
    /// What was seen, for each step and method.
    seen: [[Vec<Seen>; Method::ALL.len()]; Step::ALL.len()],
}

impl Case {
    fn new(held: Held, hold: Duration, rounds: usize) -> Self {
        Self { held, hold, rounds, seen: Default::default() }
    }

    fn seen(&self, step: Step, method: Method) -> &[Seen] {
        &self.seen[step as usize][method as usize]
    }
}

/// Runs all combinations, the methods in turn within each, and writes a table for each step.
pub fn compare(server: &Server, options: &Options, report: &mut String) {
    let mut cases = vec![Case::new(Held::Nothing, Duration::ZERO, options.rounds())];
    for &hold in options.holds() {
        for held in [Held::InsertOfRun, Held::ReadOfEvents] {
            cases.push(Case::new(held, hold, options.rounds_of(hold)));
        }
    }
    let mut alone = Vec::new();
    if options.has("stall") {
        for round in 0..options.rounds() {
            alone.push(measure::clients_alone(server, ALONE).longest.as_secs_f64() * 1e3);
            run_round(server, round, &mut cases);
        }
    } else {
        cases.clear();
    }
    let by_cron = options.has("cron").then(|| cron::measure(server));

    table::write_introduction(report, &alone, &cases);
    table::write(report, Step::Create, &cases, by_cron.as_ref());
    table::write(report, Step::Retire, &cases, None);
}

fn run_round(server: &Server, round: usize, cases: &mut [Case]) {
    for step in Step::ALL {
        for case in cases.iter_mut().filter(|case| round < case.rounds) {
            for turn in 0..Method::ALL.len() {
                // Another one goes first in each round.
                let method = Method::ALL[(turn + round) % Method::ALL.len()];
                let seen = measure::one(server, method, step, case.held, case.hold);
                eprintln!("{step:?}, {:?} {:?}, {method:?}: {seen:?}", case.held, case.hold);
                case.seen[step as usize][method as usize].push(seen);
            }
        }
    }
}
