//! A client that writes to the log at random and knows what is in it: no statement of his may fail.

use std::io::Write;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use postgres::types::ToSql;
use postgres::{Client, Row, Statement};
use process::{Random, Server, poll_until};

use crate::model::*;
use crate::stage::DATABASE;

/// How many runs a writer has at most.
const RUNS: usize = 6;

/// How many events a writer has at most, about.
const EVENTS: usize = 900;

/// A time in a month in which the log has rows already: once it is partitioned, other months need not be there.
const INSTANT: &str = "(CASE WHEN $1::int < -100 THEN '2019-03-01 00:00+00'::timestamptz \
                        WHEN $1 > 100 THEN '2031-07-01 00:00+00' ELSE t.start($1) END + $2::bigint * interval '1 second')";

/// The months, as `INSTANT` takes them.
const MONTHS: [i32; 8] = [-101, -14, -5, -2, -1, 0, 1, 101];

/// What the clients of a trial share.
#[derive(Clone, Default)]
pub struct Shared {
    /// Whoever writes lets others through; whoever has it alone knows that nobody writes.
    pub gate: Arc<RwLock<()>>,
    /// What each writer has committed.
    pub models: Arc<Mutex<Vec<Model>>>,
}

pub struct Writer {
    number: usize,
    seed: u64,
    random: Random,
    client: Client,
    shared: Shared,
    model: Model,
    runs: Vec<i32>,
    last_run: i32,
    /// Whether some of his transactions see everything as it was at their beginning.
    keeps_snapshots: bool,
    /// Prepared once, and used before and after the table is another.
    of_run: Statement,
    whole_rows: Statement,
    /// The longest that a statement took, and which it was.
    pub longest: (Duration, String),
    pub transactions: usize,
}

impl Writer {
    pub fn new(
        server: &Server,
        number: usize,
        seed: u64,
        keeps_snapshots: bool,
        shared: &Shared,
    ) -> Self {
        let mut client = server.connect(DATABASE);
        client
            .batch_execute(&format!(
                "INSERT INTO t.truth VALUES ({number}, 0, 0); SET application_name = 'writer {number}'"
            ))
            .expect("it can be written");
        let of_run = format!(
            "SELECT {COLUMNS} FROM workflow_events WHERE run_id = t.run($1) ORDER BY ts, id"
        );
        let of_run = client.prepare(&of_run).expect("it can be prepared");
        let whole_rows = client
            .prepare("SELECT * FROM workflow_events WHERE run_id = t.run($1)")
            .expect("it can be prepared");
        shared.models.lock().expect("nobody panics with it").push(Model::default());
        Self {
            number,
            seed,
            random: Random(seed * 1000 + number as u64),
            client,
            shared: shared.clone(),
            model: Model::default(),
            runs: Vec::new(),
            last_run: i32::try_from(number + 1).expect("there are few") * 10_000,
            keeps_snapshots,
            of_run,
            whole_rows,
            longest: Default::default(),
            transactions: 0,
        }
    }

    /// Runs a statement, which must succeed; how long it took is noted.
    fn statement<T>(
        &mut self,
        sql: &str,
        run: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> T {
        let begin = Instant::now();
        let answer = run(&mut self.client);
        if begin.elapsed() > self.longest.0 {
            self.longest = (begin.elapsed(), sql.to_owned());
        }
        answer.unwrap_or_else(|error| {
            panic!("writer {} of seed {} fails: {sql}: {error:?}", self.number, self.seed)
        })
    }

    fn execute(&mut self, sql: &str) {
        self.statement(sql, |client| client.batch_execute(sql));
    }

    fn query(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.statement(sql, |client| client.query(sql, parameters))
    }

    /// A transaction of a few steps, which may come to nothing.
    pub fn transaction(&mut self) {
        let gate = Arc::clone(&self.shared.gate);
        let _open = gate.read().expect("nobody panics with it");
        let before = (self.model.clone(), self.runs.clone());
        let is_old = self.keeps_snapshots && self.random.one_in(4);
        self.execute(if is_old { "BEGIN ISOLATION LEVEL REPEATABLE READ" } else { "BEGIN" });
        if is_old {
            self.execute("SELECT FROM t.truth");
            self.pause(30);
        }
        for _ in 0..self.random.between(1, 5) {
            if self.random.one_in(8) {
                let inner = (self.model.clone(), self.runs.clone());
                self.execute("SAVEPOINT s");
                self.step();
                if self.random.one_in(2) {
                    self.execute("ROLLBACK TO s");
                    (self.model, self.runs) = inner;
                }
            } else {
                self.step();
            }
            if self.random.one_in(20) {
                self.pause(100);
            }
        }
        let truth = format!(
            "UPDATE t.truth SET events = {}, digest = {} WHERE writer = {}",
            self.model.events.len(),
            self.model.digest(),
            self.number
        );
        self.execute(&truth);
        if self.random.one_in(6) {
            self.execute("ROLLBACK");
            (self.model, self.runs) = before;
        } else {
            self.execute("COMMIT");
            self.shared.models.lock().expect("nobody panics with it")[self.number] =
                self.model.clone();
        }
        self.transactions += 1;
    }

    /// Leaves the machine to others for a while, of up to so many milliseconds.
    pub fn pause(&mut self, most: i32) {
        let pause = u64::try_from(self.random.between(0, most)).expect("it is positive");
        // Not on the server, where it would be a statement that is under way.
        poll_until(Duration::from_millis(pause), || None::<()>);
    }

    fn step(&mut self) {
        let Some(run) = self.random.pick_any(self.runs.clone()) else { return self.new_run() };
        let event = self.random.pick_any(self.model.events.keys().copied());
        let has_many = self.model.events.len() > EVENTS;
        match (self.random.between(1, 16), event) {
            (1, _) if self.runs.len() < RUNS => self.new_run(),
            (2, _) if has_many || self.random.one_in(4) => self.delete_run(run),
            (3..=5, _) => self.read(run),
            (6, _) => self.copy_in(run),
            (7 | 8, Some(id)) => self.change_payload(id),
            (9, Some(id)) => self.change_ts(id),
            (10, Some(id)) => self.change_id(id),
            (11, Some(id)) => self.delete(id),
            (12, _) => self.change_run(run),
            _ => self.insert(run),
        }
    }

    fn new_run(&mut self) {
        self.last_run += 1;
        let run = self.last_run;
        self.query("SELECT t.new_run($1)", &[&run]);
        self.runs.push(run);
    }

    /// With all of its events.
    fn delete_run(&mut self, run: i32) {
        self.query("DELETE FROM workflow_runs WHERE id = t.run($1)", &[&run]);
        self.runs.retain(|other| *other != run);
        self.model.events.retain(|_, event| event.run != run);
    }

    fn payload(&mut self) -> (i64, String) {
        let n = i64::from(self.random.between(0, 999_999));
        let text =
            "x".repeat(usize::try_from(self.random.between(0, 300)).expect("it is positive"));
        (n, format!(r#"{{"writer": {}, "n": {n}, "text": "{text}"}}"#, self.number))
    }

    /// A month, as `INSTANT` takes it, and a second in it.
    fn instant(&mut self) -> (i32, i64) {
        (*self.random.pick(&MONTHS), i64::from(self.random.between(0, 28 * 86_400 - 1)))
    }

    fn insert(&mut self, run: i32) {
        for _ in 0..self.random.between(1, 4) {
            let kind = usize::try_from(self.random.between(0, 2)).expect("it is positive");
            let (n, payload) = self.payload();
            let columns = format!("RETURNING {COLUMNS}");
            let rows = if self.random.one_in(2) {
                let sql = format!(
                    "INSERT INTO workflow_events (run_id, type, payload) VALUES (t.run($1), $2, $3::text::jsonb) {columns}"
                );
                self.query(&sql, &[&run, &TYPES[kind], &payload])
            } else {
                let (month, second) = self.instant();
                let sql = format!(
                    "INSERT INTO workflow_events (ts, run_id, type, payload) \
                     VALUES ({INSTANT}, t.run($3), $4, $5::text::jsonb) ON CONFLICT DO NOTHING {columns}"
                );
                self.query(&sql, &[&month, &second, &run, &TYPES[kind], &payload])
            };
            let (id, event) = from_row(&rows[0]);
            assert_eq!((event.run, event.kind, event.n), (run, kind, n));
            assert_eq!(self.model.events.insert(id, event), None, "event {id} comes twice");
        }
    }

    fn copy_in(&mut self, run: i32) {
        let ids =
            self.query("SELECT nextval('workflow_events_id_seq') FROM generate_series(1, 3)", &[]);
        let mut text = String::new();
        for row in ids {
            let id: i64 = row.get(0);
            let (n, payload) = self.payload();
            // The last second of 1 March 2019.
            let ts = 1_551_484_799_000_000;
            text += &format!("{id}\t{run:032}\t2019-03-01 23:59:59+00\t{}\t{payload}\n", TYPES[1]);
            self.model.events.insert(id, Event { run, ts, kind: 1, n });
        }
        let sql = "COPY workflow_events (id, run_id, ts, type, payload) FROM STDIN";
        self.statement(sql, |client| {
            let mut copy = client.copy_in(sql)?;
            copy.write_all(text.as_bytes()).expect("the server reads");
            copy.finish()
        });
    }

    fn change_payload(&mut self, id: i64) {
        let (n, payload) = self.payload();
        let sql = "UPDATE workflow_events SET payload = $2::text::jsonb WHERE id = $1";
        assert_eq!(self.statement(sql, |client| client.execute(sql, &[&id, &payload])), 1, "{id}");
        self.model.events.get_mut(&id).expect("it is there").n = n;
    }

    fn change_ts(&mut self, id: i64) {
        let (month, second) = self.instant();
        let sql =
            format!("UPDATE workflow_events SET ts = {INSTANT} WHERE id = $3 RETURNING {COLUMNS}");
        let rows = self.query(&sql, &[&month, &second, &id]);
        assert_eq!(rows.len(), 1, "{id}");
        self.model.events.insert(id, from_row(&rows[0]).1);
    }

    fn change_id(&mut self, id: i64) {
        let sql = "UPDATE workflow_events SET id = nextval('workflow_events_id_seq') WHERE id = $1 RETURNING id";
        let rows = self.query(sql, &[&id]);
        assert_eq!(rows.len(), 1, "{id}");
        let event = self.model.events.remove(&id).expect("it was there");
        self.model.events.insert(rows[0].get(0), event);
    }

    fn delete(&mut self, id: i64) {
        let sql = "DELETE FROM workflow_events WHERE id = $1";
        assert_eq!(self.statement(sql, |client| client.execute(sql, &[&id])), 1, "{id}");
        self.model.events.remove(&id);
    }

    /// All events of a run become another's.
    fn change_run(&mut self, run: i32) {
        let other = self.random.pick_any(self.runs.clone()).expect("there is one");
        let sql = "UPDATE workflow_events SET run_id = t.run($2) WHERE run_id = t.run($1)";
        self.statement(sql, |client| client.execute(sql, &[&run, &other]));
        for event in self.model.events.values_mut().filter(|event| event.run == run) {
            event.run = other;
        }
    }

    /// What the log says of a run is what was written, also before that is committed.
    fn read(&mut self, run: i32) {
        let of_run = self.of_run.clone();
        let rows = self.statement("the events of a run", |client| client.query(&of_run, &[&run]));
        let found: Vec<_> = rows.iter().map(from_row).collect();
        let expected = self.model.of_run(run);
        if found != expected {
            let seen = differences(&found, &expected);
            panic!("writer {} of seed {} sees of run {run}: {seen:#?}", self.number, self.seed);
        }
        let whole_rows = self.whole_rows.clone();
        let rows = self.statement("whole rows", |client| client.query(&whole_rows, &[&run]));
        assert_eq!(rows.len(), expected.len());
    }
}
