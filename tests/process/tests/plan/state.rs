//! What is there: partitions, tables, rows, the plan and the ledger, read with queries of our own.

use std::collections::{BTreeMap, BTreeSet};

use postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::model::{Bound, Plan, Range, Step};

/// A kind of relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Table,
    Partitioned,
    Foreign,
    Other,
}

/// A partition of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub name: String,
    pub kind: Kind,
    /// `None` for the DEFAULT partition.
    pub range: Option<Range>,
    /// As PostgreSQL writes it.
    pub bound: String,
    pub detach_pending: bool,
    /// Whether it belongs to the log's owner.
    pub is_owned: bool,
}

/// Any table, view or sequence of the two schemas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub schema: String,
    pub name: String,
    pub kind: Kind,
    /// The partition of the log that it is, or is a part of.
    pub partition: Option<u32>,
}

/// What the worker has noted about a table that it retires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub schema: String,
    pub name: String,
    pub range: Range,
    pub is_detached: bool,
}

/// All of it; the keys are OIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub log: u32,
    pub partitions: BTreeMap<u32, Partition>,
    pub relations: BTreeMap<u32, Relation>,
    /// The names that are taken in the log's schema.
    pub names: BTreeSet<String>,
    /// The marks in the rows of each table.
    pub rows: BTreeMap<u32, Vec<String>>,
    /// When the rows of the DEFAULT partition are.
    pub default_rows: Vec<String>,
    pub notes: BTreeMap<u32, Note>,
    /// The tables that a view shows, so that they can't be dropped.
    pub seen: BTreeSet<u32>,
}

const RELATIONS: &str = "\
    SELECT c.oid, n.nspname, c.relname, c.relkind, i.inhparent, i.inhdetachpending, \
           pg_get_expr(c.relpartbound, c.oid), c.relowner = 'postgres'::regrole \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid \
    WHERE n.nspname IN ('public', 'elsewhere')";

const NOTES: &str = "\
    SELECT relation, schema_name, partition_name, coalesce(range_start, '-infinity'), \
           coalesce(range_end, 'infinity'), state \
    FROM meshhook_events.retired_partition";

const SEEN: &str = "\
    SELECT DISTINCT d.refobjid FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid \
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> w.ev_class \
      AND w.ev_class IN (SELECT oid FROM pg_class WHERE relnamespace = 'elsewhere'::regnamespace)";

/// The rows of a query.
pub fn rows(client: &mut Client, sql: &str) -> Vec<SimpleQueryRow> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// A column that is not NULL.
pub fn text(row: &SimpleQueryRow, column: usize) -> String {
    row.get(column).unwrap_or_else(|| panic!("column {column} is NULL")).to_owned()
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|_| panic!("{text} is no OID"))
}

impl State {
    /// Reads it, in a session whose time zone is UTC.
    pub fn read(client: &mut Client) -> Self {
        let mut state = Self {
            log: 0,
            partitions: BTreeMap::new(),
            relations: BTreeMap::new(),
            names: BTreeSet::new(),
            rows: BTreeMap::new(),
            default_rows: Vec::new(),
            notes: BTreeMap::new(),
            seen: BTreeSet::new(),
        };
        let mut parents = BTreeMap::new();
        let found = rows(client, RELATIONS);
        let is_log = |row: &&SimpleQueryRow| {
            row.get(2) == Some("workflow_events") && row.get(1) == Some("public")
        };
        state.log = number(&text(found.iter().find(is_log).expect("there is a log"), 0));
        for row in found {
            let (oid, schema, name) = (number(&text(&row, 0)), text(&row, 1), text(&row, 2));
            if schema == "public" {
                state.names.insert(name.clone());
            }
            let kind = match row.get(3) {
                Some("r") => Kind::Table,
                Some("p") => Kind::Partitioned,
                Some("f") => Kind::Foreign,
                Some("v" | "S") => Kind::Other,
                _ => continue,
            };
            if let Some(parent) = row.get(4).map(number) {
                parents.insert(oid, parent);
                if parent == state.log {
                    let bound = text(&row, 6);
                    let partition = Partition {
                        name: name.clone(),
                        kind,
                        range: range_of(&bound),
                        bound,
                        detach_pending: row.get(5) == Some("t"),
                        is_owned: row.get(7) == Some("t"),
                    };
                    state.partitions.insert(oid, partition);
                }
            }
            state.relations.insert(oid, Relation { schema, name, kind, partition: None });
        }
        let partitions = &state.partitions;
        for (oid, relation) in &mut state.relations {
            let ancestors = std::iter::successors(Some(*oid), |oid| parents.get(oid).copied());
            relation.partition = ancestors.into_iter().find(|oid| partitions.contains_key(oid));
        }
        state.read_rows(client);
        state.read_notes(client);
        state.seen = rows(client, SEEN).iter().map(|row| number(&text(row, 0))).collect();
        state
    }

    fn read_rows(&mut self, client: &mut Client) {
        let is_events = |relation: &Relation| {
            relation.kind == Kind::Table && !relation.name.starts_with("workflow_runs")
        };
        let tables = self.relations.iter().filter(|(_, relation)| is_events(relation));
        let query = |(oid, relation): (&u32, &Relation)| {
            let table = format!("{}.\"{}\"", relation.schema, relation.name);
            format!("SELECT {oid}, payload ->> 'mark', ts FROM {table}")
        };
        let queries: Vec<_> = tables.map(query).collect();
        if queries.is_empty() {
            return;
        }
        for row in rows(client, &format!("{} ORDER BY 1, 2", queries.join(" UNION ALL "))) {
            let oid = number(&text(&row, 0));
            self.rows.entry(oid).or_default().push(text(&row, 1));
            let of = self.relations[&oid].partition.and_then(|of| self.partitions.get(&of));
            if of.is_some_and(|partition| partition.range.is_none()) {
                self.default_rows.push(text(&row, 2));
            }
        }
    }

    fn read_notes(&mut self, client: &mut Client) {
        for row in rows(client, NOTES) {
            let note = Note {
                schema: text(&row, 1),
                name: text(&row, 2),
                range: Range(
                    Bound::from_column(&text(&row, 3)),
                    Bound::from_column(&text(&row, 4)),
                ),
                is_detached: text(&row, 5) == "detached",
            };
            self.notes.insert(number(&text(&row, 0)), note);
        }
    }

    /// The partition that a step of a plan is about.
    pub fn partition(&self, step: &Step) -> Option<u32> {
        let is_it = |partition: &Partition| {
            partition.name == step.partition
                && partition.range.as_ref().is_some_and(|Range(from, to)| {
                    from.as_column() == step.from && to.as_column() == step.to
                })
        };
        self.partitions.iter().find(|(_, partition)| is_it(partition)).map(|(oid, _)| *oid)
    }

    /// The detached table, noted as ours, that a step of a plan is about.
    pub fn detached(&self, step: &Step) -> Option<u32> {
        let is_it = |oid: &u32, note: &Note| {
            note.name == step.partition
                && note.range.0.as_column() == step.from
                && !self.partitions.contains_key(oid)
        };
        self.notes.iter().find(|(oid, note)| is_it(oid, note)).map(|(oid, _)| *oid)
    }
}

/// The range in a text such as `FOR VALUES FROM ('2030-01-01 00:00:00+00') TO (MAXVALUE)`; `None` for `DEFAULT`.
fn range_of(bound: &str) -> Option<Range> {
    if bound == "DEFAULT" {
        return None;
    }
    let ends = bound.strip_prefix("FOR VALUES FROM (").and_then(|rest| rest.strip_suffix(")"));
    let (lower, upper) = ends.and_then(|ends| ends.split_once(") TO (")).expect("it is a range");
    let end = |text: &str| match text {
        "MINVALUE" => Bound::Min,
        "MAXVALUE" => Bound::Max,
        _ => Bound::At(text.trim_matches('\'').to_owned()),
    };
    Some(Range(end(lower), end(upper)))
}

/// The plan as the product gives it.
pub fn read_plan(client: &mut Client) -> Plan {
    let mut plan = Plan::default();
    let sql = "SELECT action, partition_name, range_start, range_end, step, \
                      row_number() OVER (), locks IS NOT NULL, reason \
               FROM plan_workflow_events_maintenance()";
    let mut order = Vec::new();
    for row in rows(client, sql) {
        assert_eq!(row.get(4), row.get(5), "steps are numbered in order");
        let (action, partition) = (text(&row, 0), text(&row, 1));
        order.push(
            ["create", "finalize", "drop", "detach", "keep"].iter().position(|a| *a == action),
        );
        assert!(!text(&row, 7).is_empty(), "{action} {partition} has no reason");
        if action == "keep" {
            plan.kept.insert(partition);
            continue;
        }
        assert_eq!(row.get(6), Some("t"), "{action} {partition} names no locks");
        let step = Step { action, partition, from: text(&row, 2), to: text(&row, 3) };
        assert!(plan.steps.insert(step), "a step is listed twice");
    }
    assert!(order.is_sorted(), "steps are out of order: {order:?}");
    plan
}

/// What the ledger says of a task.
#[derive(Clone, Debug)]
pub struct Entry {
    pub status: String,
    pub created: Vec<String>,
    pub finalized: Vec<String>,
    pub detached: Vec<String>,
    pub dropped: Vec<String>,
    /// All of the details.
    pub details: String,
}

/// The last entry of a task, if there is one.
pub fn read_entry(client: &mut Client, origin: &str, task: &str) -> Option<Entry> {
    let list = |name: &str| {
        format!(
            "coalesce((SELECT string_agg(x, ',') FROM jsonb_array_elements_text(details -> '{name}') x), '')"
        )
    };
    let sql = format!(
        "SELECT status, {}, {}, {}, {}, details FROM meshhook_events.maintenance_log \
         WHERE origin = '{origin}' AND task = '{task}' ORDER BY id DESC LIMIT 1",
        list("created"),
        list("finalized"),
        list("detached"),
        list("dropped")
    );
    let names = |text: String| {
        let mut names: Vec<_> =
            text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        names.sort();
        names
    };
    rows(client, &sql).first().map(|row| Entry {
        status: text(row, 0),
        created: names(text(row, 1)),
        finalized: names(text(row, 2)),
        detached: names(text(row, 3)),
        dropped: names(text(row, 4)),
        details: row.get(5).unwrap_or_default().to_owned(),
    })
}
