//! The tables of the stall comparison.

use std::fmt::Write as _;
use std::time::Duration;

use super::holders::Held;
use super::measure::{LEAD, Seen};
use super::methods::{Method, Step};
use super::{ALONE, Case, clients, cron, data};
use crate::report::{self, maximum, median};

const COLUMNS: [&str; 9] = [
    "open transaction",
    "method",
    "longest call of a client, ms: median",
    "most",
    "which",
    "ratio to our worker",
    "done after the start, s",
    "after the transaction's end, s",
    "tries",
];

/// Says what was measured, and how.
pub fn write_introduction(report: &mut String, alone: &[f64], cases: &[Case]) {
    let rounds: Vec<String> = cases
        .iter()
        .map(|case| format!("{}: {}", state(case.held, case.hold), case.rounds))
        .collect();
    let _ = writeln!(
        report,
        "## What clients feel while a partition is made or retired\n\n\
         MeshHook's schema with its foreign key to `workflow_runs`, row level security and {} monthly partitions; \
         {} events in each month that is not in the future. {} clients insert an event and update its run, one reads \
         a run and counts recent events, each every {} ms. Another transaction is opened; {} s later maintenance \
         begins, and is called again each second until its work is done (the worker is woken once and keeps its own \
         time; pg_cron's job is due at the minute). The transaction ends after the time given, or when the work is \
         done before that.\n\n\
         Each measurement has a fresh copy of the same database, one after the other, the methods in turn. pg_partman \
         is without its DEFAULT partition, which would make it lock more. After each, all rows were there that should \
         be.\n",
        data::NEWEST - data::OLDEST + 1,
        data::EVENTS_A_MONTH,
        clients::WRITERS,
        clients::PAUSE.as_millis(),
        LEAD.as_secs(),
    );
    if !rounds.is_empty() {
        let _ = writeln!(report, "Rounds: {}.\n", rounds.join("; "));
    }
    if !alone.is_empty() {
        let _ = writeln!(
            report,
            "Without any maintenance, the longest call in {} s took {:.0} ms (median of {}; at most {:.0} ms): \
             what is below that, and its ratio, is noise.\n",
            ALONE.as_secs(),
            median(alone.to_vec()),
            alone.len(),
            maximum(alone)
        );
    }
}

/// Writes the table of a step.
pub fn write(report: &mut String, step: Step, cases: &[Case], by_cron: Option<&Seen>) {
    if cases.is_empty() && by_cron.is_none() {
        return;
    }
    let title = match step {
        Step::Create => "Making the newest partition",
        Step::Retire => "Retiring the oldest partition",
    };
    let _ = writeln!(report, "### {title}\n");
    report::table(report, &COLUMNS);
    let mut failed = Vec::new();
    for case in cases {
        let state = state(case.held, case.hold);
        let ours = median(longest(case.seen(step, Method::Worker)));
        for method in Method::ALL {
            let seen = case.seen(step, method);
            report::row(report, &cells(&state, method.name(step), seen, ours));
            failed.extend(failures(&state, method.name(step), seen));
        }
    }
    if let Some(seen) = by_cron {
        let (state, name) =
            (state(Held::InsertOfRun, cron::HOLD), "pg_cron: MeshHook's function, each minute");
        let seen = std::slice::from_ref(seen);
        let same =
            cases.iter().find(|case| case.held == Held::InsertOfRun && case.hold == cron::HOLD);
        let ours = same.map_or(f64::NAN, |case| median(longest(case.seen(step, Method::Worker))));
        report::row(report, &cells(&state, name, seen, ours));
        failed.extend(failures(&state, name, seen));
    }
    report.push('\n');
    if !failed.is_empty() {
        let _ = writeln!(report, "Calls that failed: {}.\n", failed.join("; "));
    }
}

fn state(held: Held, hold: Duration) -> String {
    if held == Held::Nothing {
        held.name().to_owned()
    } else {
        format!("{}, {} s", held.name(), hold.as_secs())
    }
}

/// The longest calls, in milliseconds.
fn longest(seen: &[Seen]) -> Vec<f64> {
    seen.iter().map(|seen| seen.felt.longest.as_secs_f64() * 1e3).collect()
}

fn cells(state: &str, method: &str, seen: &[Seen], ours: f64) -> [String; COLUMNS.len()] {
    let calls = longest(seen);
    let worst = seen.iter().max_by_key(|seen| seen.felt.longest).map_or("", |seen| seen.felt.call);
    let ratio = median(calls.clone()) / ours;
    [
        state.to_owned(),
        method.to_owned(),
        format!("{:.0}", median(calls.clone())),
        format!("{:.0}", maximum(&calls)),
        worst.to_owned(),
        if ratio.is_nan() { "–".to_owned() } else { format!("{ratio:.1}") },
        format!("{:.2}", median(seen.iter().map(|seen| seen.after_start).collect())),
        after_end(state, seen),
        seen.iter().map(|seen| seen.tries).max().unwrap_or(0).to_string(),
    ]
}

/// How long after the open transaction's end the work was done.
fn after_end(state: &str, seen: &[Seen]) -> String {
    let after: Vec<f64> = seen.iter().filter_map(|seen| seen.after_end).collect();
    match (seen.len() - after.len(), after.is_empty()) {
        _ if state == Held::Nothing.name() => "–".to_owned(),
        (_, true) => "before".to_owned(),
        (0, false) => format!("{:.2}", median(after)),
        (before, false) => format!("{:.2}; {before} times before", median(after)),
    }
}

/// What failed otherwise than by a lock that was not to be had in time.
fn failures(state: &str, method: &str, seen: &[Seen]) -> Vec<String> {
    let calls = seen.iter().flat_map(|seen| &seen.errors);
    let of_clients = seen.iter().flat_map(|seen| &seen.felt.errors);
    calls
        .map(|code| format!("{method} ({state}): {code}"))
        .chain(of_clients.map(|error| format!("a client beside {method} ({state}): {error}")))
        .collect()
}
