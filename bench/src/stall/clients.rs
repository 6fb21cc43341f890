//! The clients that are not to feel anything: three that write and one that reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use process::Server;

use super::data::{OWNER, RUNS, run};

/// How many clients write; one more reads.
pub const WRITERS: u32 = 3;

/// The pause between two rounds of a client.
pub const PAUSE: Duration = Duration::from_millis(20);

/// What the clients felt.
#[derive(Debug, Default)]
pub struct Felt {
    /// The longest call.
    pub longest: Duration,
    /// What that call was.
    pub call: &'static str,
    /// How many events were inserted since the start.
    pub inserted: u64,
    /// The SQLSTATEs of calls that failed.
    pub errors: Vec<String>,
}

/// Clients at work.
pub struct Clients {
    recording: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    inserted: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Felt>>,
}

impl Clients {
    /// Starts them, and waits until each has gone round once and has warm caches.
    pub fn start(server: &Server, database: &str) -> Self {
        let mut clients = Self {
            recording: Arc::default(),
            stop: Arc::default(),
            inserted: Arc::default(),
            threads: Vec::new(),
        };
        let ready = Arc::new(Barrier::new(WRITERS as usize + 2));
        for number in 0..=WRITERS {
            let worker = Worker {
                client: Client::connect(&server.conninfo(database, OWNER), NoTls)
                    .expect("a client connects"),
                number,
                recording: Arc::clone(&clients.recording),
                stop: Arc::clone(&clients.stop),
                inserted: Arc::clone(&clients.inserted),
                felt: Felt::default(),
            };
            let ready = Arc::clone(&ready);
            clients.threads.push(thread::spawn(move || worker.work(&ready)));
        }
        ready.wait();
        clients
    }

    /// From now on the longest call counts.
    pub fn record(&self) {
        self.recording.store(true, Ordering::SeqCst);
    }

    /// Ends them, each after the call that it is in.
    pub fn stop(self) -> Felt {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Felt::default();
        for thread in self.threads {
            let felt = thread.join().expect("a client ends");
            if felt.longest > all.longest {
                (all.longest, all.call) = (felt.longest, felt.call);
            }
            all.errors.extend(felt.errors);
        }
        all.inserted = self.inserted.load(Ordering::SeqCst);
        all
    }
}

struct Worker {
    client: Client,
    number: u32,
    recording: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    inserted: Arc<AtomicU64>,
    felt: Felt,
}

impl Worker {
    fn work(mut self, ready: &Barrier) -> Felt {
        let mut round = 0;
        while !self.stop.load(Ordering::SeqCst) {
            // No two clients write to the same run.
            let run = run(1 + (round * (WRITERS + 1) + self.number) % RUNS);
            if self.number < WRITERS {
                self.write(&run)
            } else {
                self.read(&run)
            }
            if round == 0 {
                ready.wait();
            }
            round += 1;
            thread::sleep(PAUSE);
        }
        self.felt
    }

    fn write(&mut self, run: &str) {
        let insert = format!(
            "INSERT INTO workflow_events (run_id, type, payload) VALUES ('{run}', 'bench', '{{}}')"
        );
        if self.call("insert an event", &insert) {
            self.inserted.fetch_add(1, Ordering::SeqCst);
        }
        self.call(
            "update a run",
            &format!("UPDATE workflow_runs SET status = 'running' WHERE id = '{run}'"),
        );
    }

    fn read(&mut self, run: &str) {
        let replay = format!(
            "SELECT id, ts, type, payload FROM workflow_events WHERE run_id = '{run}' ORDER BY ts, id"
        );
        self.call("read a run", &replay);
        self.call(
            "count events",
            "SELECT count(*) FROM workflow_events WHERE ts > now() - interval '1 hour'",
        );
    }

    /// Makes a call, notes how long it took, and gives whether it succeeded.
    fn call(&mut self, name: &'static str, statement: &str) -> bool {
        let began = Instant::now();
        let result = self.client.simple_query(statement);
        let took = began.elapsed();
        if self.recording.load(Ordering::SeqCst) && took > self.felt.longest {
            (self.felt.longest, self.felt.call) = (took, name);
        }
        match result {
            Ok(_) => true,
            Err(error) => {
                let code = error.code().unwrap_or_else(|| panic!("{statement}: {error}"));
                self.felt.errors.push(format!("{name}: {}", code.code()));
                false
            }
        }
    }
}
