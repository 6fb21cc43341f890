//! One measurement: a copy of the same events, clients at work, and a migration.

use std::thread;
use std::time::{Duration, Instant};

use process::Server;

use super::AllSeen;
use super::clients::{Clients, Felt};
use super::data::{self, Base, DATABASE};
use super::journal::Journal;
use super::methods::Method;
use super::watch::{Watch, Watched};

/// How long the clients have been at work when the migration begins.
pub const LEAD: Duration = Duration::from_secs(2);

/// How long they go on when it is done.
pub const TAIL: Duration = Duration::from_secs(1);

/// How long they are watched without a migration.
pub const ALONE: Duration = Duration::from_secs(20);

/// What a measurement showed.
#[derive(Debug)]
pub struct Seen {
    /// The longest call of a client, in milliseconds, and what it was.
    pub longest: f64,
    pub call: &'static str,
    /// The 99.9th percentile of the calls, in milliseconds.
    pub p999: f64,
    pub calls: usize,
    /// The SQLSTATEs of calls that failed.
    pub errors: Vec<String>,
    /// Seconds from the start until the new table was in its place, and until all was done.
    pub switched: f64,
    pub done: f64,
    /// Bytes that were taken more than in the beginning, at the most.
    pub data: u64,
    pub wal: u64,
    /// Bytes of WAL that were written, those of the clients included.
    pub written: i64,
}

/// Measures each method once, another one first in each round.
pub fn round(server: &Server, base: &Base, round: usize, seen: &mut AllSeen) {
    for turn in 0..Method::FRESH.len() {
        let method = Method::FRESH[(turn + round) % Method::FRESH.len()];
        data::copy(server);
        let mut journal = Journal::default();
        let mut measure = |method: Method| {
            let one = one(server, base, method, round as u64, &mut journal);
            eprintln!("{method:?}: {one:?}");
            seen[method as usize].push(one);
        };
        measure(method);
        if method == Method::Ours {
            server.run("postgres", "CHECKPOINT");
            measure(Method::Undo);
        }
        data::remove(server);
    }
}

fn one(server: &Server, base: &Base, method: Method, seed: u64, journal: &mut Journal) -> Seen {
    let clients = Clients::start(server, base, 10 * seed + method as u64, journal);
    thread::sleep(LEAD);
    let watch = Watch::start(server, method.direction());
    let from: String = server.ask("SELECT pg_current_wal_lsn()::text");
    clients.record();
    let began = Instant::now();
    let (switched, done) = if method == Method::Alone {
        thread::sleep(ALONE);
        (None, Instant::now())
    } else {
        method.work(server)
    };
    let written: i64 = server.ask(&format!("SELECT (pg_current_wal_lsn() - '{from}')::bigint"));
    let watched = watch.end();
    thread::sleep(TAIL);
    let felt = clients.stop(journal);
    check_form(server, method);
    journal.check(server);
    let switched = switched.or(watched.switched).unwrap_or(done).min(done);
    seen(felt, watched, written, (switched - began).as_secs_f64(), (done - began).as_secs_f64())
}

fn seen(felt: Felt, watched: Watched, written: i64, switched: f64, done: f64) -> Seen {
    let calls = felt.calls.len();
    let place = (calls * 999).div_ceil(1_000).saturating_sub(1);
    Seen {
        longest: felt.calls.last().copied().unwrap_or(f64::NAN),
        call: felt.longest,
        p999: felt.calls.get(place).copied().unwrap_or(f64::NAN),
        calls,
        errors: felt.errors,
        switched,
        done,
        data: watched.data,
        wal: watched.wal,
        written,
    }
}

/// Looks whether the table is what the method is to leave, with its foreign key and without the other table.
fn check_form(server: &Server, method: Method) {
    let form: String = server.ask_in(
        DATABASE,
        "SELECT concat_ws(' ', c.relkind, \
             (SELECT count(*) FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.convalidated), \
             (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid), \
             (SELECT count(*) FROM pg_class o WHERE o.relkind IN ('r', 'p') AND NOT o.relispartition \
                  AND o.relname LIKE 'workflow\\_events%')) \
         FROM pg_class c WHERE c.oid = 'public.workflow_events'::regclass",
    );
    let kind = if method.partitions() { 'p' } else { 'r' };
    assert_eq!(form, format!("{kind} 1 4 1"), "{method:?} has left another table");
}
