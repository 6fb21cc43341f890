//! Random event logs: partitions of any kind, what only looks like one, and a policy.

use std::fmt::Write as _;

use process::{Month, Random};

use crate::model::{Bound, Policy, Range, Zone};

/// A partition that is left in the middle of being detached.
#[derive(Clone, Debug)]
pub struct Detaching {
    /// Its qualified name.
    pub partition: String,
    /// Where it was the worker that began: notes that.
    pub note: Option<String>,
}

/// A partition to be made.
#[derive(Clone, Debug)]
struct Piece {
    range: Range,
    schema: &'static str,
    name: String,
    is_foreign: bool,
    /// How many partitions it has itself; an ordinary table where that is none.
    leaves: i32,
    /// Whether it has a row.
    is_marked: bool,
    /// Whether a view shows it.
    is_seen: bool,
    /// Whether it belongs to another role than the log.
    is_of_others: bool,
}

/// An event log and what lies beside it, as SQL.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// Makes the log with all partitions but the DEFAULT one.
    pub log: String,
    pub detaching: Option<Detaching>,
    /// Makes the rest.
    pub rest: String,
    pub policy: Policy,
}

/// The run that all events belong to.
const RUN: &str = "00000000-0000-0000-0000-000000000001";

/// Makes the indexes of a log: one that any has to have, and the others.
const INDEXES: [&str; 2] = [
    "CREATE INDEX workflow_events_run_id_idx ON workflow_events (run_id);",
    "CREATE INDEX workflow_events_run_ts_idx ON workflow_events (run_id, ts); \
     CREATE INDEX workflow_events_type_idx ON workflow_events (type);",
];

/// Makes what every database needs once.
pub const FOUNDATION: &str = "\
    CREATE EXTENSION pg_meshhook_events; \
    CREATE TABLE workflow_runs (id uuid PRIMARY KEY); \
    INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-000000000001'); \
    CREATE FOREIGN DATA WRAPPER dummy; \
    CREATE SERVER dummy FOREIGN DATA WRAPPER dummy; \
    CREATE SCHEMA elsewhere";

/// Takes away whatever a catalog has left, the policy first: the worker keeps out of a log without one.
pub const CLEAR: &str = "\
    DELETE FROM meshhook_events.policy; \
    DELETE FROM meshhook_events.maintenance_log; \
    DELETE FROM meshhook_events.retired_partition; \
    DROP TABLE IF EXISTS workflow_events CASCADE; \
    DO $clear$ DECLARE r record; BEGIN \
        FOR r IN SELECT c.oid, c.relkind, c.oid::regclass::text AS name FROM pg_class c \
                 WHERE c.relnamespace IN ('public'::regnamespace, 'elsewhere'::regnamespace) \
                   AND c.relkind IN ('r', 'p', 'f', 'v', 'S') AND c.relname NOT IN ('workflow_runs', 'workflow_events_partition_info', 'workflow_events_migration_progress') LOOP \
            IF EXISTS (SELECT FROM pg_class c WHERE c.oid = r.oid) THEN \
                EXECUTE 'DROP ' || CASE r.relkind WHEN 'v' THEN 'VIEW ' WHEN 'S' THEN 'SEQUENCE ' \
                    WHEN 'f' THEN 'FOREIGN TABLE ' ELSE 'TABLE ' END || r.name || ' CASCADE'; \
            END IF; \
        END LOOP; END $clear$";

impl Catalog {
    /// The catalog of a seed, for a month.
    pub fn random(random: &mut Random, current: Month) -> Self {
        let policy = policy(random);
        let (has_key, has_runs) = match random.between(1, 6) {
            1..=3 => (true, true),
            4 => (true, false),
            5 => (false, true),
            _ => (false, false),
        };
        let may_be_foreign = !has_key && !has_runs;
        let pieces = pieces(random, policy.zone, current, may_be_foreign);
        let mut log = log(has_key, has_runs);
        // Partitions have the other indexes too, which are made for each then.
        log.push_str(INDEXES[0]);
        if random.one_in(3) {
            log.push_str(INDEXES[1]);
        }
        for (i, piece) in pieces.iter().enumerate() {
            piece.write(i, &mut log);
        }
        let detaching = (!pieces.is_empty() && random.one_in(7)).then(|| {
            let by_worker = random.one_in(2);
            random.pick(&pieces).left_in_the_middle(by_worker)
        });
        let mut rest = String::new();
        look_alikes(random, current, &pieces, &mut rest);
        leftovers(random, current, &mut rest);
        if random.one_in(5) {
            default(random, current, &pieces, &mut rest);
        }
        let interval = policy.retention.map_or("NULL".to_owned(), |n| format!("'{n} months'"));
        let _ = write!(
            rest,
            "INSERT INTO meshhook_events.policy (grace, time_zone, premake, retention, automatic_creation, automatic_retention) \
             VALUES ('0', '{}', {}, {interval}, {}, {});",
            policy.zone.name(),
            policy.premake,
            policy.automatic_creation,
            policy.automatic_retention
        );
        Self { log, detaching, rest, policy }
    }
}

fn policy(random: &mut Random) -> Policy {
    Policy {
        zone: *random.pick(&Zone::ALL),
        premake: random.between(1, 6),
        retention: (!random.one_in(4)).then(|| random.between(1, 24)),
        automatic_creation: !random.one_in(8),
        automatic_retention: !random.one_in(8),
    }
}

fn log(has_key: bool, has_runs: bool) -> String {
    let key = if has_key { ", PRIMARY KEY (id, ts)" } else { "" };
    let runs = if has_runs {
        ", FOREIGN KEY (run_id) REFERENCES workflow_runs (id) ON DELETE CASCADE"
    } else {
        ""
    };
    format!(
        "CREATE TABLE workflow_events (id bigserial, run_id uuid NOT NULL, ts timestamptz NOT NULL DEFAULT now(), \
             type text NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(){key}{runs}) \
             PARTITION BY RANGE (ts);"
    )
}

/// Partitions in order, from some months ago to some months ahead: whole months and wider ones, with gaps, and with
/// bounds that lie in the other time zone or at no midnight at all.
fn pieces(random: &mut Random, zone: Zone, current: Month, may_be_foreign: bool) -> Vec<Piece> {
    let zone = if random.one_in(4) { *random.pick(&Zone::ALL) } else { zone };
    let mut month = current.plus(-random.between(0, 34));
    let end = current.plus(random.between(-3, 8));
    let mut reached = match random.one_in(6) {
        true => Bound::Min,
        false if random.one_in(30) => Bound::At("-infinity".to_owned()),
        false => Bound::At(edge(random, zone, month)),
    };
    let mut pieces: Vec<Piece> = Vec::new();
    while month <= end && pieces.len() < 9 && reached < Bound::Max {
        let first = month;
        let (width, skip) = match random.between(1, 12) {
            1..=6 => (1, 0),
            7..=8 => (random.between(2, 4), 0),
            9 => (random.between(6, 24), 0),
            _ => (1, random.between(1, 3)),
        };
        month = month.plus(width);
        let upper = match month > end && random.one_in(6) {
            true => Bound::Max,
            false => Bound::At(edge(random, zone, month)),
        };
        if reached < upper {
            let name = name(random, first, current, &pieces);
            pieces.push(piece(random, name, Range(reached, upper.clone()), may_be_foreign));
            reached = upper;
        }
        if skip > 0 {
            month = month.plus(skip);
            reached = reached.max(Bound::At(edge(random, zone, month)));
        }
    }
    pieces
}

/// The beginning of a month, now and then in another zone, or some day of it.
fn edge(random: &mut Random, zone: Zone, month: Month) -> String {
    match random.between(1, 16) {
        1 => random.pick(&Zone::ALL).start_of(month),
        2 => day_of(random, month),
        _ => zone.start_of(month),
    }
}

/// A point in time within a month.
fn day_of(random: &mut Random, month: Month) -> String {
    let (year, number) = month.year_and_month();
    let (day, hour) = (random.between(2, 27), random.between(0, 23));
    format!("{year:04}-{number:02}-{day:02} {hour:02}:30:00+00")
}

/// Mostly that of the month; or any; or that of another month, as if it were made ahead.
fn name(random: &mut Random, month: Month, current: Month, others: &[Piece]) -> String {
    let name = match random.between(1, 12) {
        1..=8 => month.partition(),
        9 => format!("{}_p1", month.partition()),
        10 => current.plus(random.between(0, 6)).partition(),
        _ => format!("events_{}", others.len()),
    };
    match others.iter().any(|other| other.name == name) {
        true => format!("events_{}", others.len()),
        false => name,
    }
}

fn piece(random: &mut Random, name: String, range: Range, may_be_foreign: bool) -> Piece {
    let is_foreign = may_be_foreign && random.one_in(4);
    Piece {
        range,
        schema: if random.one_in(10) { "elsewhere" } else { "public" },
        name,
        is_foreign,
        leaves: if !is_foreign && random.one_in(8) { random.between(1, 2) } else { 0 },
        is_marked: !is_foreign && random.one_in(2),
        is_seen: !is_foreign && random.one_in(14),
        is_of_others: random.one_in(14),
    }
}

impl Piece {
    fn write(&self, number: usize, sql: &mut String) {
        let Self { range: Range(lower, upper), schema, name, .. } = self;
        let end = |bound: &Bound| match bound {
            Bound::Min => "MINVALUE".to_owned(),
            Bound::At(point) => format!("'{point}'"),
            Bound::Max => "MAXVALUE".to_owned(),
        };
        let (lower, upper) = (end(lower), end(upper));
        let (word, tail) = match (self.is_foreign, self.leaves) {
            (true, _) => ("FOREIGN TABLE", " SERVER dummy"),
            (false, 0) => ("TABLE", ""),
            (false, _) => ("TABLE", " PARTITION BY HASH (id)"),
        };
        let _ = write!(
            sql,
            "CREATE {word} {schema}.{name} PARTITION OF workflow_events FOR VALUES FROM ({lower}) TO ({upper}){tail};"
        );
        for leaf in 0..self.leaves {
            let _ = write!(
                sql,
                "CREATE TABLE {schema}.leaf_{number}_{leaf} PARTITION OF {schema}.{name} \
                 FOR VALUES WITH (MODULUS {}, REMAINDER {leaf});",
                self.leaves
            );
        }
        if self.is_marked {
            write_row(&format!("{schema}.{name}"), &self.some_point(), name, sql);
        }
        if self.is_of_others {
            let _ = write!(sql, "ALTER TABLE {schema}.{name} OWNER TO somebody;");
        }
        if self.is_seen {
            let _ = write!(
                sql,
                "CREATE VIEW elsewhere.seen_{number} AS SELECT id FROM {schema}.{name};"
            );
        }
    }

    fn left_in_the_middle(&self, by_worker: bool) -> Detaching {
        let partition = format!("{}.{}", self.schema, self.name);
        // The worker detaches neither foreign tables nor what belongs to others.
        let may_be = !self.is_foreign && !self.is_of_others;
        let end = |bound: &Bound| match bound {
            Bound::At(point) => format!("'{point}'"),
            Bound::Min | Bound::Max => "NULL".to_owned(),
        };
        let note = format!(
            "INSERT INTO meshhook_events.retired_partition \
             VALUES ('{partition}'::regclass, '{}', '{}', {}, {}, 'detaching', now())",
            self.schema,
            self.name,
            end(&self.range.0),
            end(&self.range.1)
        );
        Detaching { partition, note: (by_worker && may_be).then_some(note) }
    }

    /// A point in its range: nothing else begins before this century.
    fn some_point(&self) -> String {
        match &self.range.0 {
            Bound::At(point) if point.starts_with('2') => point.clone(),
            _ => "1999-01-01 00:00:00+00".to_owned(),
        }
    }
}

fn write_row(table: &str, point: &str, mark: &str, sql: &mut String) {
    let _ = write!(
        sql,
        "INSERT INTO {table} (id, run_id, ts, type, payload, created_at) \
         VALUES (1, '{RUN}', '{point}', 't', '{{\"mark\": \"{mark}\"}}', now());"
    );
}

/// Tables and views that have the name of a partition, and are none.
fn look_alikes(random: &mut Random, current: Month, pieces: &[Piece], sql: &mut String) {
    for number in 0..random.between(0, 4) {
        let month = current.plus(random.between(-6, 6));
        let name = match random.between(1, 8) {
            1 => format!("{}_p{}", month.partition(), random.between(1, 2)),
            2 => format!("{}_type_idx", month.partition()),
            3 => format!("{}_backup", month.partition()),
            _ => month.partition(),
        };
        // Its indexes have names that begin with its own.
        let is_taken = |piece: &Piece| piece.schema == "public" && name.starts_with(&piece.name);
        if pieces.iter().any(is_taken) || sql.contains(&format!(" public.{name} ")) {
            continue;
        }
        match random.between(1, 6) {
            1 => {
                let _ = write!(sql, "CREATE VIEW public.{name} AS SELECT {number} AS number;");
            }
            2 => {
                let _ = write!(sql, "CREATE SEQUENCE public.{name} ;");
            }
            _ => {
                let _ = write!(sql, "CREATE TABLE public.{name} (LIKE workflow_events);");
                let mark = format!("look-alike {number}");
                write_row(&format!("public.{name}"), &day_of(random, month), &mark, sql);
            }
        }
    }
}

/// Tables that the worker has detached, or was about to, before it was interrupted.
fn leftovers(random: &mut Random, current: Month, sql: &mut String) {
    for number in 0..2 {
        if !random.one_in(8) {
            continue;
        }
        let name = format!("workflow_events_old_{number}");
        let zone = Zone::Utc;
        let month = current.plus(-random.between(40, 50));
        let state = *random.pick(&["detached", "detached", "detaching"]);
        let _ = write!(
            sql,
            "CREATE TABLE public.{name} (LIKE workflow_events INCLUDING INDEXES); \
             INSERT INTO meshhook_events.retired_partition \
             VALUES ('public.{name}'::regclass, 'public', '{name}', '{}', '{}', '{state}', now(), \
                     CASE '{state}' WHEN 'detached' THEN now() END);",
            zone.start_of(month),
            zone.start_of(month.plus(1))
        );
        write_row(&format!("public.{name}"), &zone.start_of(month), "leftover", sql);
        if random.one_in(3) {
            let _ = write!(
                sql,
                "CREATE VIEW elsewhere.seen_old_{number} AS SELECT id FROM public.{name};"
            );
        }
        match random.between(1, 6) {
            1 => {
                let _ = write!(sql, "ALTER TABLE public.{name} RENAME TO {name}_kept;");
            }
            2 => {
                let _ = write!(sql, "ALTER TABLE public.{name} SET SCHEMA elsewhere;");
            }
            3 => {
                let _ = write!(sql, "DROP TABLE public.{name} CASCADE;");
            }
            _ => {}
        }
    }
}

/// A DEFAULT partition, with rows that nothing else holds.
fn default(random: &mut Random, current: Month, pieces: &[Piece], sql: &mut String) {
    let _ = write!(
        sql,
        "CREATE TABLE public.workflow_events_rest PARTITION OF workflow_events DEFAULT;"
    );
    for _ in 0..random.between(0, 3) {
        let month = current.plus(random.between(-4, 5));
        let point = day_of(random, month);
        if !pieces.iter().any(|piece| piece.range.holds(&point)) {
            write_row("workflow_events", &point, "rest", sql);
        }
    }
}
