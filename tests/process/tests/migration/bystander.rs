//! A client that goes on with his work while something is in the way of a migration: how long his statements take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use process::{Server, poll_until};

use crate::stage::DATABASE;

/// The longest that a statement may take, whoever is in the way: many times what a step may wait for its locks.
const BOUND: Duration = Duration::from_secs(3);

/// What he does, of which `RUN` is the number of a run of his own. Each is a transaction.
const STATEMENTS: [&str; 8] = [
    "SELECT t.new_run(RUN)",
    "INSERT INTO workflow_events (run_id, type, payload) SELECT t.run(RUN), 'untold', to_jsonb(n) FROM generate_series(1, 3) n",
    "INSERT INTO workflow_events (run_id, ts, type, payload) VALUES (t.run(RUN), t.start(-5), 'untold', '0')",
    "SELECT count(*) FROM workflow_events WHERE run_id = t.run(RUN)",
    "UPDATE workflow_events SET payload = '1' WHERE run_id = t.run(RUN)",
    "UPDATE workflow_runs SET status = 'succeeded' WHERE id = t.run(RUN)",
    "DELETE FROM workflow_events WHERE run_id = t.run(RUN) AND ts < now() - interval '1 month'",
    "DELETE FROM workflow_runs WHERE id = t.run(RUN)",
];

pub struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Duration, &'static str)>,
}

impl Bystander {
    /// He works until he is asked.
    pub fn begin(server: &Server, number: i32) -> Self {
        let mut client = server.connect(DATABASE);
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut done, mut longest) = (0, (Duration::ZERO, ""));
            while !is_over.load(Relaxed) {
                for statement in STATEMENTS {
                    let sql = statement.replace("RUN", &(700_000 + number).to_string());
                    let begin = Instant::now();
                    client.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                    longest = longest.max((begin.elapsed(), statement));
                    done += 1;
                }
                // Others want the machine too.
                poll_until(Duration::from_millis(5), || None::<()>);
            }
            (done, longest.0, longest.1)
        });
        Self { stop, thread }
    }

    /// He has done his work, and none of it took long.
    pub fn end(self, case: &str) -> Duration {
        self.stop.store(true, Relaxed);
        let (done, longest, statement) = self.thread.join().expect("he has failed");
        println!("{case}: {done} statements, the longest took {longest:?}: {statement}");
        assert!(done > STATEMENTS.len(), "{case}: {done} statements");
        assert!(longest < BOUND, "{case}: {statement} took {longest:?}");
        longest
    }
}
