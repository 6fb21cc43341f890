//! The table of the migrations.

use std::fmt::Write as _;

use super::AllSeen;
use super::clients::{ANY_ONE_IN, CLIENTS, PAUSE, REMOVES_ONE_IN};
use super::data::{Base, MONTHS};
use super::measure::{ALONE, LEAD, Seen, TAIL};
use super::methods::Method;
use crate::report::{self, maximum, median};

const COLUMNS: [&str; 12] = [
    "method",
    "longest call of a client, ms: median",
    "most",
    "which",
    "99.9th percentile, ms",
    "calls",
    "failed",
    "until the switch, s",
    "until done, s",
    "ratio to the document's",
    "peak of additional disk, MiB: data + `pg_wal`",
    "WAL written, MiB",
];

/// Says what was measured and how, and writes the table.
pub fn write(report: &mut String, base: &Base, seen: &AllSeen) {
    let _ = writeln!(
        report,
        "## What a migration into partitions costs\n\n\
         A plain table of {} events, {} MiB with indexes and TOAST, with MeshHook's indexes, foreign key and row level \
         security: the webhook bodies of `make demo` start {} runs, spread over {MONTHS} months to now. \
         `shared_buffers` is 2 GB. Each method has a fresh copy of the same database, after a checkpoint, one after the \
         other, another one first in each round; the way back begins where ours has ended. Rounds: {}; the figures are \
         medians.\n\n\
         Meanwhile {CLIENTS} clients, each with runs of its own, insert an event, read its run and update the payload of \
         one of its events, with prepared statements, and pause {} ms; once in {REMOVES_ONE_IN} rounds they delete a run \
         with its events instead. Once in {ANY_ONE_IN} times they take any run, otherwise one of the newest. They begin {} s \
         before the migration and end {} s after it; the calls counted are those that end after its start. A client that \
         waits makes no other call meanwhile: where there are few calls, their percentile is the longest.\n\n\
         The other methods are a maintenance window: one transaction that first locks `workflow_runs` against writers and \
         `workflow_events` against everybody, and makes the foreign key, the policies and the privileges again; then ANALYZE. The \
         document's has partitions, each with its indexes, for all months, and looks up the run of each event that it \
         inserts. `CREATE TABLE … AS` leaves a plain table: it is there for what a copy costs at the least. Ours are called by the \
         table's owner with `in_background => false` and the settings' defaults; what they do after the switch is to compare \
         the tables and to drop the old one.\n\n\
         Additional disk is what the data directory's files take more than before the migration, looked at each 0.1 s; \
         `max_wal_size` is 4 GB, and WAL files are not recycled. WAL is that of the clients too, who do more in a longer \
         time. After each, number and digest of all events were those of the copied database with what the clients had \
         done, and each client had always read as many events of a run as were there.\n\n\
         Aimed at: no call longer than 150 ms beside ours, and at most twice the document's time until all is done.\n",
        base.events,
        base.bytes >> 20,
        base.runs,
        seen[Method::Ours as usize].len(),
        PAUSE.as_millis(),
        LEAD.as_secs(),
        TAIL.as_secs(),
    );
    report::table(report, &COLUMNS);
    let document = middle(&seen[Method::Document as usize], |seen| seen.done);
    let mut failed = Vec::new();
    for method in Method::ALL {
        let seen = &seen[method as usize];
        report::row(report, &cells(method, seen, document));
        failed.extend(failures(method, seen));
    }
    report.push('\n');
    if !failed.is_empty() {
        let _ = writeln!(report, "Calls that failed: {}.\n", failed.join("; "));
    }
}

fn middle(seen: &[Seen], figure: impl Fn(&Seen) -> f64) -> f64 {
    median(seen.iter().map(figure).collect())
}

fn cells(method: Method, seen: &[Seen], document: f64) -> [String; COLUMNS.len()] {
    let longest: Vec<f64> = seen.iter().map(|seen| seen.longest).collect();
    let worst = seen.iter().max_by(|one, other| one.longest.total_cmp(&other.longest));
    let mib = |bytes: f64| format!("{:.0}", bytes / f64::from(1 << 20));
    let of_work = |cell: String| if method == Method::Alone { "–".to_owned() } else { cell };
    let done = middle(seen, |seen| seen.done);
    [
        match method {
            Method::Alone => format!("none, for {} s", ALONE.as_secs()),
            _ => method.name().to_owned(),
        },
        format!("{:.0}", median(longest.clone())),
        format!("{:.0}", maximum(&longest)),
        worst.map_or("", |seen| seen.call).to_owned(),
        format!("{:.1}", middle(seen, |seen| seen.p999)),
        format!("{:.0}", middle(seen, |seen| seen.calls as f64)),
        seen.iter().map(|seen| seen.errors.len()).sum::<usize>().to_string(),
        of_work(format!("{:.1}", middle(seen, |seen| seen.switched))),
        of_work(format!("{done:.1}")),
        of_work(format!("{:.2}", done / document)),
        format!(
            "{} + {}",
            mib(middle(seen, |seen| seen.data as f64)),
            mib(middle(seen, |seen| seen.wal as f64))
        ),
        mib(middle(seen, |seen| seen.written as f64)),
    ]
}

/// The calls that failed: how many of each kind.
fn failures(method: Method, seen: &[Seen]) -> Vec<String> {
    let mut errors: Vec<&String> = seen.iter().flat_map(|seen| &seen.errors).collect();
    errors.sort();
    errors
        .chunk_by(|one, other| one == other)
        .map(|same| format!("{} ({}, {} times)", same[0], method.name(), same.len()))
        .collect()
}
