//! The clients that go on while the table is migrated, and note what they have done.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postgres::{Client, Error, Statement};
use process::{OWNER, Random, Server};

use super::data::{Base, DATABASE};
use super::journal::{Added, Journal, TYPE};

/// How many there are. No two write to the same run.
pub const CLIENTS: i64 = 4;

/// The pause between two rounds of a client.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Once in so many rounds a client removes a run.
pub const REMOVES_ONE_IN: i32 = 50;

/// Once in so many rounds it takes any run; otherwise one of the newest.
pub const ANY_ONE_IN: i32 = 10;

/// How many runs are the newest: one in a hundred, but so many at least.
const NEWEST_AT_LEAST: i64 = 2_000;

const INSERT: &str = "INSERT INTO workflow_events (run_id, type, payload) VALUES (bench_run($1), $2, $3::text::jsonb) \
                      RETURNING id, ts::text, created_at::text, payload::text";
const SELECT: &str = "SELECT id, ts::text, type, payload::text FROM workflow_events \
                      WHERE run_id = bench_run($1) ORDER BY workflow_events.ts, id";
const UPDATE: &str = "UPDATE workflow_events SET payload = payload || jsonb_build_object('seen', $3::int) \
                      WHERE id = $1 AND ts = $2::text::timestamptz RETURNING payload::text";
const DELETE: &str = "DELETE FROM workflow_runs WHERE id = bench_run($1)";

/// What the clients felt.
#[derive(Debug, Default)]
pub struct Felt {
    /// How long each call took, in milliseconds, from the shortest on.
    pub calls: Vec<f64>,
    /// What the longest call was.
    pub longest: &'static str,
    /// The SQLSTATEs of calls that failed.
    pub errors: Vec<String>,
}

/// A call: how many milliseconds it took, and what it was.
type Call = (f64, &'static str);

/// What one client has done.
#[derive(Default)]
struct Done {
    calls: Vec<Call>,
    errors: Vec<String>,
    journal: Journal,
}

/// Clients at work.
pub struct Clients {
    recording: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Done>>,
}

impl Clients {
    /// Starts them, and waits until each has gone round once. What was done before is in the journal.
    pub fn start(server: &Server, base: &Base, seed: u64, journal: &Journal) -> Self {
        let (recording, stop) = (Arc::default(), Arc::default());
        let ready = Arc::new(Barrier::new(CLIENTS as usize + 1));
        let threads = (0..CLIENTS).map(|number| {
            let mut client = server.connect_as(DATABASE, OWNER);
            let statements = [INSERT, SELECT, UPDATE, DELETE]
                .map(|sql| client.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}")));
            let gone = journal.gone.clone();
            let worker = Worker {
                client,
                statements,
                number,
                runs: base.runs,
                random: Random(seed * 100 + number as u64),
                recording: Arc::clone(&recording),
                done: Done { journal: Journal { gone, ..Journal::default() }, ..Done::default() },
                known: HashMap::new(),
            };
            let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
            thread::spawn(move || worker.work(&stop, &ready))
        });
        let threads = threads.collect();
        ready.wait();
        Self { recording, stop, threads }
    }

    /// From now on calls are counted.
    pub fn record(&self) {
        self.recording.store(true, Ordering::SeqCst);
    }

    /// Ends them, each after the call that it is in, and adds what they have done to the journal.
    pub fn stop(self, journal: &mut Journal) -> Felt {
        self.stop.store(true, Ordering::SeqCst);
        let (mut calls, mut felt) = (Vec::new(), Felt::default());
        for thread in self.threads {
            let done = thread.join().expect("a client ends");
            calls.extend(done.calls);
            felt.errors.extend(done.errors);
            journal.extend(done.journal);
        }
        calls.sort_by(|one, other| one.0.total_cmp(&other.0));
        felt.longest = calls.last().map_or("", |(_, name)| name);
        felt.calls = calls.into_iter().map(|(ms, _)| ms).collect();
        felt
    }
}

struct Worker {
    client: Client,
    statements: [Statement; 4],
    number: i64,
    runs: i64,
    random: Random,
    recording: Arc<AtomicBool>,
    done: Done,
    /// How many events runs have that were read before.
    known: HashMap<i64, usize>,
}

impl Worker {
    fn work(mut self, stop: &AtomicBool, ready: &Barrier) -> Done {
        self.client.batch_execute("SET TimeZone = 'UTC'").expect("the zone is set");
        let mut is_first = true;
        while !stop.load(Ordering::SeqCst) {
            let run = self.pick();
            if !is_first && self.random.one_in(REMOVES_ONE_IN) {
                self.remove(run);
            } else {
                self.go_on(run);
            }
            if is_first {
                ready.wait();
            }
            is_first = false;
            thread::sleep(PAUSE);
        }
        self.done
    }

    /// A run of this client's own that is there.
    fn pick(&mut self) -> i64 {
        let newest = (self.runs / 100).max(NEWEST_AT_LEAST).min(self.runs);
        loop {
            let among = if self.random.one_in(ANY_ONE_IN) { self.runs } else { newest };
            let among = i32::try_from(among).expect("there are fewer runs");
            let run = self.runs - i64::from(self.random.between(0, among - 1));
            let own = run - run % CLIENTS + self.number;
            if (1..=self.runs).contains(&own) && !self.done.journal.gone.contains(&own) {
                return own;
            }
        }
    }

    /// Adds an event to a run, reads the run, and changes one of its events.
    fn go_on(&mut self, run: i64) {
        let payload = format!(
            "{{\"node\": \"client-{}\", \"call\": {}}}",
            self.number,
            self.done.calls.len()
        );
        let added = self.call("insert an event", |client, [insert, ..]| {
            client.query(insert, &[&run, &TYPE, &payload])
        });
        if let Some(row) = added.as_ref().map(|rows| &rows[0]) {
            let (id, ts, created_at) = (row.get(0), row.get(1), row.get(2));
            self.done.journal.added.push(Added { id, run, ts, created_at, payload: row.get(3) });
            self.known.entry(run).and_modify(|events| *events += 1);
        }
        let read = self.call("read a run", |client, [_, select, ..]| client.query(select, &[&run]));
        let Some(events) = read else { return };
        let known = *self.known.entry(run).or_insert(events.len());
        assert_eq!(events.len(), known, "a client sees another number of events in run {run}");
        if events.is_empty() {
            return;
        }
        let event = self.random.pick(&events);
        let (id, ts): (i64, String) = (event.get(0), event.get(1));
        let seen = self.random.between(1, 1_000_000);
        let changed = self.call("update a payload", |client, [_, _, update, _]| {
            client.query(update, &[&id, &ts, &seen])
        });
        if let Some(rows) = changed {
            assert_eq!(rows.len(), 1, "event {id} of run {run} is not to be updated");
            self.done.journal.changed.insert(id, rows[0].get(0));
        }
    }

    fn remove(&mut self, run: i64) {
        let removed =
            self.call("delete a run", |client, [.., delete]| client.execute(delete, &[&run]));
        if let Some(runs) = removed {
            assert_eq!(runs, 1, "run {run} is not to be removed");
            self.done.journal.gone.insert(run);
        }
    }

    /// Makes a call, notes how long it took, and gives its answer unless it failed.
    fn call<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&mut Client, &[Statement; 4]) -> Result<T, Error>,
    ) -> Option<T> {
        let began = Instant::now();
        let result = call(&mut self.client, &self.statements);
        let ms = began.elapsed().as_secs_f64() * 1e3;
        if self.recording.load(Ordering::SeqCst) {
            self.done.calls.push((ms, name));
        }
        match result {
            Ok(answer) => Some(answer),
            Err(error) => {
                let code = error.code().unwrap_or_else(|| panic!("{name}: {error}"));
                self.done.errors.push(format!("{name}: {}", code.code()));
                None
            }
        }
    }
}
