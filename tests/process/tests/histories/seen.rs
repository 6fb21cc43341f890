//! What a server says is there, read with queries of our own, and compared with the model.

use std::collections::{BTreeMap, BTreeSet};

use postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use process::Month;

use crate::model::{Id, Model, Plan};

/// The events in each table, by the names of the tables; of each event its number, and its run's.
type Tables = BTreeMap<String, Vec<(Id, usize)>>;

/// The id of a run: its number.
pub fn run_id(run: usize) -> String {
    format!("00000000-0000-0000-0000-{run:012}")
}

/// The number of a run.
fn run_of(id: &str) -> usize {
    id[24..].parse().unwrap_or_else(|_| panic!("{id} is no run of ours"))
}

fn rows(client: &mut Client, sql: &str) -> Vec<SimpleQueryRow> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

fn text(row: &SimpleQueryRow, column: usize) -> String {
    row.get(column).unwrap_or_default().to_owned()
}

fn number(row: &SimpleQueryRow, column: usize) -> Id {
    let text = text(row, column);
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// The tables that are, were, or look like months; and which of them are in the log.
fn tables(client: &mut Client) -> (Tables, BTreeSet<String>) {
    let found = rows(
        client,
        r"SELECT c.relname, EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid
                     AND i.inhparent = 'workflow_events'::regclass AND NOT i.inhdetachpending)
          FROM pg_class c
          WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname LIKE 'workflow\_events\_y%'",
    );
    let (mut tables, mut attached) = (Tables::new(), BTreeSet::new());
    for row in &found {
        tables.insert(text(row, 0), Vec::new());
        if row.get(1) == Some("t") {
            attached.insert(text(row, 0));
        }
    }
    // What is in the log is asked of the log.
    let apart = tables.keys().filter(|name| !attached.contains(*name)).map(String::as_str);
    let of_table = |name: &str| format!("SELECT tableoid::regclass, id, run_id FROM {name}");
    let all: Vec<String> = apart.chain(["workflow_events"]).map(of_table).collect();
    for row in rows(client, &format!("{} ORDER BY 2", all.join(" UNION ALL "))) {
        let events = tables.get_mut(&text(&row, 0)).expect("it is one of them");
        events.push((number(&row, 1), run_of(&text(&row, 2))));
    }
    (tables, attached)
}

/// Every event that has to be there is there, once, in its table, and nothing else is; the log holds what its partitions hold.
pub fn compare(client: &mut Client, model: &Model) {
    let (tables, attached) = tables(client);
    let expected: Tables = model
        .tables
        .iter()
        .map(|(month, table)| {
            let events = table.events.iter().map(|(id, event)| (*id, event.run)).collect();
            (month.partition(), events)
        })
        .collect();
    let ids = |tables: &Tables| -> Vec<Id> {
        let mut ids: Vec<Id> = tables.values().flatten().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    };
    let (there, wanted) = (ids(&tables), ids(&expected));
    let lost: Vec<&Id> = wanted.iter().filter(|id| !there.contains(id)).collect();
    assert!(lost.is_empty(), "rows wrongly lost: {lost:?}");
    assert_eq!(there, wanted, "rows that were to go, or are there twice");
    assert_eq!(tables, expected, "in which tables they are");
    let in_log: BTreeSet<String> = model
        .tables
        .iter()
        .filter(|(_, table)| table.is_attached())
        .map(|(month, _)| month.partition())
        .collect();
    assert_eq!(attached, in_log, "the partitions of the log");
}

/// The archive has what was put there, once.
pub fn compare_archive(client: &mut Client, model: &Model) {
    let exists = "SELECT to_regclass('workflow_events_archive') IS NOT NULL";
    let mut ids: Vec<Id> = Vec::new();
    if rows(client, exists)[0].get(0) == Some("t") {
        let all = rows(client, "SELECT id FROM workflow_events_archive ORDER BY 1");
        ids.extend(all.iter().map(|row| number(row, 0)));
    }
    let mut expected: Vec<Id> =
        model.archive.values().flat_map(|events| events.keys().copied()).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected, "the archive");
}

/// Each run is replayed with all of its events in the log, in order; and the statistics count them.
pub fn compare_reads(client: &mut Client, model: &Model) {
    let mut replays: BTreeMap<usize, Vec<Id>> =
        model.runs.keys().map(|run| (*run, Vec::new())).collect();
    let all = "SELECT r.id, e.id FROM workflow_runs r CROSS JOIN LATERAL get_workflow_run_events(r.id) \
               WITH ORDINALITY e (id, run_id, ts, type, payload, created_at, place) ORDER BY r.id, e.place";
    for row in rows(client, all) {
        let replay = replays.get_mut(&run_of(&text(&row, 0))).expect("the model has it");
        replay.push(number(&row, 1));
    }
    let expected: BTreeMap<usize, Vec<Id>> =
        model.runs.keys().map(|run| (*run, model.replay(*run))).collect();
    assert_eq!(replays, expected, "the replays");
    let sql = "SELECT partition_name, row_count FROM get_workflow_events_partition_stats()";
    let counts: BTreeMap<String, Id> =
        rows(client, sql).iter().map(|row| (text(row, 0), number(row, 1))).collect();
    let attached = model.tables.iter().filter(|(_, table)| table.is_attached());
    let expected: BTreeMap<String, Id> =
        attached.map(|(month, table)| (month.partition(), table.events.len() as Id)).collect();
    assert_eq!(counts, expected, "the statistics");
}

/// What the plan says.
pub fn plan(client: &mut Client) -> Plan {
    let sql = "SELECT partition_name, action FROM plan_workflow_events_maintenance()";
    rows(client, sql).iter().map(|row| (text(row, 0), text(row, 1))).collect()
}

/// The names of months, as a set.
pub fn names(months: &BTreeSet<Month>) -> BTreeSet<String> {
    months.iter().map(|month| month.partition()).collect()
}
