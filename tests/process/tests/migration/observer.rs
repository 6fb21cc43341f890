//! Whoever looks at the log while it is written and moved: in each snapshot it is what the writers said in it, and when
//! nobody writes it is what their models are.

use std::time::{Duration, Instant};

use postgres::{Client, Row};
use process::{Random, Server, poll_until, progress};

use crate::model::*;
use crate::stage::DATABASE;
use crate::writer::Shared;

/// What the writers say, and what the log has of each: `writer`, the numbers of events, whether all is as it was said.
fn truth() -> String {
    format!(
        "SELECT writer, t.events, coalesce(e.events, 0) AS seen, t.digest = coalesce(e.digest, 0) AS is_same FROM t.truth t \
         FULL JOIN (SELECT (payload ->> 'writer')::int AS writer, count(*) AS events, sum({DIGEST}) AS digest \
                    FROM workflow_events WHERE payload ? 'writer' GROUP BY 1) e USING (writer)"
    )
}

pub struct Observer {
    client: Client,
    shared: Shared,
    random: Random,
    /// The digest of the rows that no writer changes.
    fixture: String,
    /// The phases in which the log was compared with the models, once for each comparison.
    pub seen_in: Vec<String>,
    pub snapshots: usize,
    /// The longest that a query took.
    pub longest: Duration,
}

impl Observer {
    pub fn new(server: &Server, seed: u64, shared: &Shared) -> Self {
        let mut client = server.connect(DATABASE);
        client.batch_execute("SET application_name = 'observer'").expect("it may be set");
        let fixture = fixture_rows(&mut client);
        let random = Random(seed);
        Self {
            client,
            shared: shared.clone(),
            random,
            fixture,
            seen_in: Vec::new(),
            snapshots: 0,
            longest: Duration::ZERO,
        }
    }

    fn query(&mut self, sql: &str) -> Vec<Row> {
        let begin = Instant::now();
        let rows = self.client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        self.longest = self.longest.max(begin.elapsed());
        rows
    }

    /// The log in one snapshot; in one that is taken now and asked a while later, where that is wanted.
    pub fn look(&mut self, keeps_snapshots: bool) {
        let isolation = if keeps_snapshots { "REPEATABLE READ" } else { "READ COMMITTED" };
        self.client
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT FROM t.truth"))
            .expect("it can be read");
        // Idle, or busy elsewhere.
        let pause = self.random.between(0, 80);
        if self.random.one_in(2) {
            let sleep = format!("SELECT pg_sleep({pause} / 1000.0)");
            self.client.batch_execute(&sleep).expect("it can sleep");
        } else {
            let pause = u64::try_from(pause).expect("it is positive");
            poll_until(Duration::from_millis(pause), || None::<()>);
        }
        let rows = self.query(&truth());
        for row in rows {
            let (writer, said, seen): (Option<i32>, Option<i64>, i64) =
                (row.get(0), row.get(1), row.get(2));
            assert!(
                said == Some(seen) && row.get::<_, Option<bool>>(3) == Some(true),
                "of writer {writer:?} there are {seen} events, and said to be {said:?}; {:?}",
                progress(&mut self.client)
            );
        }
        self.client.batch_execute("COMMIT").expect("it answers");
        self.snapshots += 1;
        // There is a while without a snapshot too.
        poll_until(Duration::from_millis(40), || None::<()>);
    }

    /// The log while nobody writes.
    pub fn compare(&mut self) {
        let gate = std::sync::Arc::clone(&self.shared.gate);
        let _alone = gate.write().expect("nobody panics with it");
        let phase = |client: &mut Client| {
            progress(client)
                .map_or_else(|| "none".to_owned(), |p| format!("{} {}", p.direction, p.phase))
        };
        let before = phase(&mut self.client);
        let all =
            format!("SELECT {COLUMNS} FROM workflow_events WHERE payload ? 'writer' ORDER BY id");
        let rows = self.query(&all);
        let found: Vec<_> = rows.iter().map(from_row).collect();
        let models = self.shared.models.lock().expect("nobody panics with it");
        let mut expected: Vec<_> = models.iter().flat_map(|model| model.events.clone()).collect();
        expected.sort_by_key(|(id, _)| *id);
        if found != expected {
            let seen = differences(&found, &expected);
            panic!(
                "between {before:?} and {:?} the log differs: {seen:#?}",
                phase(&mut self.client)
            );
        }
        assert_eq!(fixture_rows(&mut self.client), self.fixture, "{before:?}");
        self.seen_in.push(before);
    }
}

fn fixture_rows(client: &mut Client) -> String {
    let rows = "SELECT t.rows_of('(SELECT * FROM workflow_events WHERE NOT payload ? ''writer'')')";
    client.query_one(rows, &[]).expect("it can be read").get(0)
}
