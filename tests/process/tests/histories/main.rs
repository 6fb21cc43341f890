//! Retention never breaks a replay, and loses no row that it was not to drop: random histories of an event log, lived through
//! on a server with its worker, and checked against a model after each step.
//!
//! `HISTORY_SEED` sets the seed, `HISTORIES` how many are lived through, and `HISTORY` picks a single one.

mod model;
mod seen;
mod steps;
mod trial;

use std::sync::Mutex;
use std::thread;

use process::{Again, Month, Random, Server, figure, setting};
use trial::{Tally, Trial};

/// How many histories are lived through.
const HISTORIES: u64 = 200;

/// How many databases work at the same time: they wait for the worker more than they compute.
const DATABASES: u64 = 4;

/// The time that the server's clock shows, and the month that it lies in.
const NOW: (&str, Month) = ("2029-03-15 12:00:00+00", Month::of(2029, 3));

#[test]
fn no_row_is_lost_and_every_run_that_goes_on_can_be_replayed() {
    let seed = setting("HISTORY_SEED").unwrap_or(1);
    let count = setting("HISTORIES").unwrap_or(HISTORIES);
    let only = setting("HISTORY");
    let server = server();
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for database in 0..DATABASES {
            let (server, tally) = (&server, &tally);
            scope.spawn(move || {
                let mine = |number: &u64| number % DATABASES == database;
                let wanted = |number: &u64| only.is_none_or(|only| only == *number);
                let last = only.unwrap_or(0).max(count);
                let mut trial = Trial::new(server, format!("db{database}"), NOW.1);
                for number in
                    (0..=last).filter(mine).filter(wanted).filter(|n| only.is_some() || *n < count)
                {
                    let _again = Again(format!("HISTORY_SEED={seed} HISTORY={number}"));
                    trial.history(&mut Random(seed << 32 | number));
                }
                tally.lock().expect("nobody panics with it").add(&mut trial.tally);
            });
        }
    });
    let mut tally = tally.into_inner().expect("nobody panics with it");
    println!("{tally:?}");
    // Had there been any, it would not have come so far.
    let case = "random histories of retention";
    for (what, number) in [
        ("histories", tally.histories),
        ("steps", tally.steps),
        ("partitions dropped", tally.dropped),
        ("partitions put back for a run", tally.restored),
        ("rows wrongly lost", 0),
        ("runs that could not be replayed", 0),
    ] {
        figure(case, what, number);
    }
    if only.is_none() {
        tally.assert_that_all_was_tried();
    }
}

/// A server with the databases, whose worker is on.
fn server() -> Server {
    let mut server = Server::preloaded()
        .clock()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("pg_meshhook_events.databases", "db0, db1, db2, db3")
        // A busy machine is no failure, and nobody is in the way.
        .conf("pg_meshhook_events.lock_timeout", "10s")
        .conf("autovacuum", "off")
        .start();
    server.set_clock(&format!("timestamptz '{}'", NOW.0));
    for database in (0..DATABASES).map(|number| format!("db{number}")) {
        server.create_database(&database);
        server.set_up(&database);
        server.make_run(&database);
    }
    server.turn_on_and_restart();
    server.wait_until_idle();
    server
}
