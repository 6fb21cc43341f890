//! What a writer's rows are, in plain Rust: each writer has runs of his own, so he knows them all.

use std::collections::BTreeMap;

/// The types of events.
pub const TYPES: [&str; 3] = ["run.started", "node.done", "node.failed"];

/// An event but for its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of its run.
    pub run: i32,
    /// Microseconds since 1970.
    pub ts: i64,
    /// Which of [`TYPES`] it has.
    pub kind: usize,
    /// The number in its payload.
    pub n: i64,
}

/// The events of a writer by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub events: BTreeMap<i64, Event>,
}

/// The table in which writers say, in each of their transactions, what their rows are after it.
pub const TRUTH: &str =
    "CREATE TABLE t.truth (writer int PRIMARY KEY, events bigint NOT NULL, digest bigint NOT NULL)";

/// What [`Model::digest`] adds up, in SQL: of an event `e` with the columns of the table.
pub const DIGEST: &str = "id % 9973 * ((payload ->> 'n')::bigint % 99991) \
    + right(run_id::text, 6)::bigint % 997 * (floor(extract(epoch FROM ts))::bigint % 99989) \
    + id % 9973 * (floor(extract(epoch FROM ts))::bigint % 99989)";

impl Model {
    /// A sum over all events that is another when any of them is.
    pub fn digest(&self) -> i64 {
        self.events
            .iter()
            .map(|(id, event)| {
                let (id, seconds) = (id % 9973, event.ts.div_euclid(1_000_000) % 99_989);
                id * (event.n % 99_991) + i64::from(event.run) % 997 * seconds + id * seconds
            })
            .sum()
    }

    /// The events of a run in the order of the log, with their ids.
    pub fn of_run(&self, run: i32) -> Vec<(i64, Event)> {
        let mut events: Vec<(i64, Event)> = self
            .events
            .iter()
            .filter(|(_, event)| event.run == run)
            .map(|(id, event)| (*id, event.clone()))
            .collect();
        events.sort_by_key(|(id, event)| (event.ts, *id));
        events
    }
}

/// What the columns of a query give: id, the run's number, microseconds, type, number.
pub const COLUMNS: &str = "id, right(run_id::text, 6)::int, (extract(epoch FROM ts) * 1000000)::bigint, type, \
                           (payload ->> 'n')::bigint";

/// An event from such a row.
pub fn from_row(row: &postgres::Row) -> (i64, Event) {
    let kind: &str = row.get(3);
    let kind = TYPES.iter().position(|known| *known == kind).expect("a writer has written it");
    (row.get(0), Event { run: row.get(1), ts: row.get(2), kind, n: row.get(4) })
}

/// How two lists of events in the order of their ids differ: a few lines.
pub fn differences(found: &[(i64, Event)], expected: &[(i64, Event)]) -> Vec<String> {
    let by_id =
        |events: &[(i64, Event)]| -> BTreeMap<i64, Event> { events.iter().cloned().collect() };
    let (there, wanted) = (by_id(found), by_id(expected));
    let mut lines: Vec<String> = Vec::new();
    if there.len() != found.len() {
        lines.push(format!("{} ids are there twice", found.len() - there.len()));
    }
    for (id, event) in &wanted {
        match there.get(id) {
            None => lines.push(format!("{id} is missing: {event:?}")),
            Some(other) if other != event => {
                lines.push(format!("{id} is {other:?}, not {event:?}"))
            }
            Some(_) => {}
        }
    }
    lines.extend(
        there
            .iter()
            .filter(|(id, _)| !wanted.contains_key(id))
            .map(|(id, event)| format!("{id} is too much: {event:?}")),
    );
    lines.truncate(12);
    lines
}
