//! Clients write all the time while a table becomes partitions and a plain table again: none of them fails, and at any
//! instant the table is what a model in plain Rust says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use process::{Form, MIGRATE, Server, UNDO, figure, ms};

use crate::model::TRUTH;
use crate::observer::Observer;
use crate::stage::*;
use crate::writer::{Shared, Writer};

/// How often the log is compared with the models at least, in each direction.
const COMPARISONS: usize = 50;

/// Whether the others should stop; it says so itself when it goes because of a panic.
#[derive(Clone, Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}

/// What the clients do.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// How long a writer rests between two transactions at most, in milliseconds.
    pause: i32,
    /// Whether there are transactions that see everything as it was at their beginning. Where changes come faster than the
    /// switch takes, such a one may miss the last of them.
    keeps_snapshots: bool,
}

const BUSY: Load = Load { pause: 0, keeps_snapshots: false };
const LESS_BUSY: Load = Load { pause: 150, keeps_snapshots: true };

/// Lives through a migration and its undoing, with writers. `by_worker`: the worker does it.
fn live_through(form: Form, by_worker: bool, load: Load, seed: u64) {
    println!("{form:?}, by the worker: {by_worker}, {load:?}, seed {seed}");
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", if by_worker { "on" } else { "off" })
        .conf("pg_meshhook_events.migration_batch_rows", "200")
        .conf("pg_meshhook_events.migration_rows_per_second", "700");
    let stage = Stage::of(form, server);
    stage.server.run(DATABASE, TRUTH);
    let (shared, stop) = (Shared::default(), Stop::default());
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let mut writer =
                    Writer::new(&stage.server, number, seed, load.keeps_snapshots, &shared);
                let stop = stop.clone();
                scope.spawn(move || {
                    while !stop.0.load(Relaxed) {
                        writer.transaction();
                        writer.pause(load.pause);
                    }
                    (writer.longest, writer.transactions)
                })
            })
            .collect();
        let mut observer = Observer::new(&stage.server, seed, &shared);
        let is_over = stop.clone();
        let _stop_at_panic = stop.clone();
        for call in [MIGRATE, UNDO] {
            let seen_before = observer.seen_in.len();
            let call = if by_worker { call.replace("false", "true") } else { call.to_owned() };
            let under_way = stage.begin("", &call);
            let begun = |progress: process::Progress| by_worker && !progress.is_over;
            while !is_over.0.load(Relaxed)
                && (!under_way.is_over()
                    || observer.seen_in.len() < seen_before + COMPARISONS
                    || stage.server.migration(DATABASE).is_some_and(begun))
            {
                observer.compare();
                observer.look(load.keeps_snapshots);
            }
            let answer = under_way.end();
            assert!(answer.is_ok(), "seed {seed}: {answer:?}\n{}", stage.server.log());
            let progress = stage.server.migration(DATABASE).expect("it is known");
            assert_eq!(progress.phase, "done", "seed {seed}: {progress:?}");
            assert_eq!(stage.is_partitioned(), call.contains(" migrate"), "seed {seed}");
        }
        stop.0.store(true, Relaxed);
        for writer in writers {
            let (longest, transactions) = writer.join().expect("a writer has failed");
            println!("{transactions} transactions, the longest statement: {longest:?}");
            figure("migration: a writer beside it", "longest statement", ms(longest.0));
            assert!(transactions > 50, "{transactions}");
        }
        observer.compare();
        let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
        for phase in &observer.seen_in {
            *phases.entry(phase).or_default() += 1;
        }
        println!(
            "{} snapshots; compared in {phases:?}; the longest query: {:?}",
            observer.snapshots, observer.longest
        );
        for phase in ["migrate copying", "undo copying"] {
            assert!(phases.get(phase).is_some_and(|times| *times > 5), "{phases:?}");
        }
    });
    stage.assert_is_plain();
    stage.assert_sequence_goes_on();
}

#[test]
fn a_current_table_is_what_the_model_says() {
    live_through(Form::Current, false, BUSY, 1);
}

#[test]
fn an_older_table_is_what_the_model_says() {
    live_through(Form::Older, false, LESS_BUSY, 2);
}

#[test]
fn a_table_that_the_worker_moves_is_what_the_model_says() {
    live_through(Form::Current, true, LESS_BUSY, 3);
}
