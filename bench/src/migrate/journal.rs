//! What clients have done, and what the table must hold after it.

use std::collections::{HashMap, HashSet};

use process::Server;

use super::data::{BASE, DATABASE};

/// An event that a client has inserted, as the server gave it back.
#[derive(Debug)]
pub struct Added {
    pub id: i64,
    pub run: i64,
    pub ts: String,
    pub created_at: String,
    pub payload: String,
}

/// The type of events that clients insert.
pub const TYPE: &str = "bench";

/// What clients have done since the copy was made.
#[derive(Debug, Default)]
pub struct Journal {
    pub added: Vec<Added>,
    /// The payloads of events that were updated, by their ids.
    pub changed: HashMap<i64, String>,
    /// Runs that were removed, with their events.
    pub gone: HashSet<i64>,
}

/// An event, as a record whose hash is the same in every form of the table.
fn hash(payload: &str) -> String {
    format!(
        "count(*) || ' events, digest ' || coalesce(sum(hash_record_extended(\
         ROW(e.id, e.run_id, e.ts, e.type, {payload}, e.created_at), 0)::numeric), 0)"
    )
}

impl Journal {
    /// Adds what another client has done to other runs.
    pub fn extend(&mut self, other: Self) {
        self.added.extend(other.added);
        self.changed.extend(other.changed);
        self.gone.extend(other.gone);
    }

    /// Compares the migrated copy with what was copied and was done to it since.
    pub fn check(&self, server: &Server) {
        let found: String = server
            .ask_in(DATABASE, &format!("SELECT {} FROM workflow_events e", hash("e.payload")));
        assert_eq!(found, self.expected(server), "rows are lost, or are not as they should be");
        let runs: i64 = server.ask_in(DATABASE, "SELECT count(*) FROM workflow_runs");
        let before: i64 = server.ask_in(BASE, "SELECT count(*) FROM workflow_runs");
        assert_eq!(runs, before - self.gone.len() as i64, "runs are lost");
    }

    /// Number and digest of the events that must be there.
    fn expected(&self, server: &Server) -> String {
        let mut client = server.connect(BASE);
        client
            .batch_execute(
                "CREATE TEMPORARY TABLE added (id bigint, run bigint, ts text, created_at text, payload text);
                 CREATE TEMPORARY TABLE changed (id bigint PRIMARY KEY, payload text);
                 CREATE TEMPORARY TABLE gone (run_id uuid PRIMARY KEY);
                 SET TimeZone = 'UTC'",
            )
            .expect("tables are made");
        let added = |text: fn(&Added) -> &str| self.added.iter().map(text).collect::<Vec<_>>();
        let numbers = |number: fn(&Added) -> i64| self.added.iter().map(number).collect::<Vec<_>>();
        client
            .execute(
                "INSERT INTO added SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])",
                &[
                    &numbers(|event| event.id),
                    &numbers(|event| event.run),
                    &added(|event| &event.ts),
                    &added(|event| &event.created_at),
                    &added(|event| &event.payload),
                ],
            )
            .expect("what was added is noted");
        let (ids, payloads): (Vec<i64>, Vec<&str>) =
            self.changed.iter().map(|(id, payload)| (*id, payload.as_str())).unzip();
        client
            .execute(
                "INSERT INTO changed SELECT * FROM unnest($1::bigint[], $2::text[])",
                &[&ids, &payloads],
            )
            .expect("what was changed is noted");
        let gone: Vec<i64> = self.gone.iter().copied().collect();
        client
            .execute("INSERT INTO gone SELECT bench_run(n) FROM unnest($1::bigint[]) n", &[&gone])
            .expect("what is gone is noted");
        client
            .batch_execute("ANALYZE added; ANALYZE changed; ANALYZE gone")
            .expect("they are analysed");
        let query = format!(
            "SELECT {} FROM (
                 SELECT id, run_id, ts, type, payload, created_at FROM workflow_events
                 UNION ALL
                 SELECT id, bench_run(run), ts::timestamptz, '{TYPE}', payload::jsonb, created_at::timestamptz FROM added
             ) e LEFT JOIN changed c USING (id)
             WHERE NOT EXISTS (SELECT FROM gone g WHERE g.run_id = e.run_id)",
            hash("coalesce(c.payload::jsonb, e.payload)")
        );
        client.query_one(&query, &[]).unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
    }
}
