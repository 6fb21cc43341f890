//! The ways to migrate the table.

use std::time::Instant;

use process::{MIGRATE, OWNER, Server, UNDO, fixture};

use super::data::{DATABASE, MONTHS};

/// How many months ahead the document's partitions reach.
const AHEAD: i32 = 3;

/// By what it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Nothing is.
    Alone,
    /// The document's: partitions are made, filled and renamed.
    Document,
    /// A plain copy takes its place.
    Copy,
    Ours,
    /// The way back, in the database that was migrated by ours.
    Undo,
}

impl Method {
    pub const ALL: [Self; 5] = [Self::Alone, Self::Document, Self::Copy, Self::Ours, Self::Undo];

    /// Those that begin with a fresh copy.
    pub const FRESH: [Self; 4] = [Self::Alone, Self::Document, Self::Copy, Self::Ours];

    pub fn name(self) -> &'static str {
        match self {
            Self::Alone => "none",
            Self::Document => "the document's: `INSERT … SELECT` into partitions, `DROP`, `RENAME`",
            Self::Copy => "`CREATE TABLE … AS`, indexes, `DROP`, `RENAME`: a plain table again",
            Self::Ours => "ours: `migrate_workflow_events()`",
            Self::Undo => "ours, back: `undo_workflow_events_migration()`",
        }
    }

    /// The direction, where it is a migration of ours.
    pub fn direction(self) -> Option<&'static str> {
        match self {
            Self::Ours => Some("migrate"),
            Self::Undo => Some("undo"),
            _ => None,
        }
    }

    /// Whether it leaves partitions.
    pub fn partitions(self) -> bool {
        matches!(self, Self::Document | Self::Ours)
    }

    /// Does it. Gives when the new table was in its place, where that is known, and when all was done.
    pub fn work(self, server: &Server) -> (Option<Instant>, Instant) {
        let switched = match self {
            Self::Alone => unreachable!("nothing is done"),
            Self::Document => Some(window(server, &document())),
            Self::Copy => Some(window(server, &copy())),
            Self::Ours | Self::Undo => {
                let call = if self == Self::Ours { MIGRATE } else { UNDO };
                let mut client = server.connect_as(DATABASE, OWNER);
                client
                    .batch_execute(call)
                    .unwrap_or_else(|error| panic!("{call}: {error:?}\n{}", server.log()));
                None
            }
        };
        (switched, Instant::now())
    }
}

/// A maintenance window: one transaction, before which nobody else reads or writes. Then the new table is analysed.
fn window(server: &Server, script: &str) -> Instant {
    // First the runs, which a client removes before their events. Afterwards, nobody waits for the events who has locked
    // the runs.
    let script = format!(
        "SET SESSION AUTHORIZATION {OWNER};
         SET TimeZone = 'UTC';
         BEGIN;
         LOCK TABLE public.workflow_runs IN SHARE ROW EXCLUSIVE MODE;
         LOCK TABLE public.workflow_events IN ACCESS EXCLUSIVE MODE;
         {script}
         {}
         COMMIT;",
        fixture("meshhook_events_protection.sql")
    );
    server.script(DATABASE, &script);
    let switched = Instant::now();
    server.script(DATABASE, "ANALYZE public.workflow_events;");
    switched
}

/// The document's migration, with partitions for all months that the table holds.
fn document() -> String {
    format!(
        "CREATE TABLE public.workflow_events_partitioned (
             id          bigserial,
             run_id      uuid NOT NULL,
             ts          timestamptz NOT NULL DEFAULT now(),
             type        text NOT NULL,
             payload     jsonb NOT NULL,
             created_at  timestamptz NOT NULL DEFAULT now(),
             PRIMARY KEY (id, ts),
             FOREIGN KEY (run_id) REFERENCES public.workflow_runs ON DELETE CASCADE
         ) PARTITION BY RANGE (ts);
         SELECT step.sql
         FROM generate_series({}, {AHEAD}) n,
              LATERAL (SELECT bench_month(n)::date AS lower, bench_month(n + 1)::date AS upper) AS month,
              LATERAL (SELECT 'workflow_events_y' || to_char(lower, 'YYYY\"m\"MM') AS name) AS part,
              LATERAL (VALUES
                 (1, format('CREATE TABLE public.%I PARTITION OF public.workflow_events_partitioned '
                            'FOR VALUES FROM (%L) TO (%L)', name, lower, upper)),
                 (2, format('CREATE INDEX %I ON public.%I (run_id)', name || '_run_id_idx', name)),
                 (3, format('CREATE INDEX %I ON public.%I (run_id, ts)', name || '_run_ts_idx', name)),
                 (4, format('CREATE INDEX %I ON public.%I (type)', name || '_type_idx', name))
              ) AS step (ord, sql)
         ORDER BY n, step.ord
         \\gexec
         INSERT INTO public.workflow_events_partitioned (id, run_id, ts, type, payload, created_at)
             SELECT id, run_id, ts, type, payload, created_at FROM public.workflow_events;
         SELECT setval('public.workflow_events_partitioned_id_seq', last_value) FROM public.workflow_events_id_seq;
         DROP TABLE public.workflow_events;
         ALTER TABLE public.workflow_events_partitioned RENAME TO workflow_events;",
        1 - MONTHS
    )
}

/// A copy made in the quickest way: the indexes and the foreign key come when the rows are there.
fn copy() -> String {
    "CREATE TABLE public.workflow_events_copy AS SELECT * FROM public.workflow_events;
     ALTER TABLE public.workflow_events_copy
         ALTER id SET DEFAULT nextval('public.workflow_events_id_seq'),
         ALTER ts SET DEFAULT now(), ALTER created_at SET DEFAULT now(),
         ALTER run_id SET NOT NULL, ALTER ts SET NOT NULL, ALTER type SET NOT NULL,
         ALTER payload SET NOT NULL, ALTER created_at SET NOT NULL,
         ADD PRIMARY KEY (id);
     CREATE INDEX workflow_events_copy_run_id_idx ON public.workflow_events_copy (run_id);
     CREATE INDEX workflow_events_copy_run_ts_idx ON public.workflow_events_copy (run_id, ts);
     CREATE INDEX workflow_events_copy_type_idx ON public.workflow_events_copy (type);
     ALTER TABLE public.workflow_events_copy
         ADD FOREIGN KEY (run_id) REFERENCES public.workflow_runs ON DELETE CASCADE;
     ALTER SEQUENCE public.workflow_events_id_seq OWNED BY public.workflow_events_copy.id;
     DROP TABLE public.workflow_events;
     ALTER TABLE public.workflow_events_copy RENAME TO workflow_events;
     ALTER INDEX public.workflow_events_copy_run_id_idx RENAME TO workflow_events_run_id_idx;
     ALTER INDEX public.workflow_events_copy_run_ts_idx RENAME TO workflow_events_run_ts_idx;
     ALTER INDEX public.workflow_events_copy_type_idx RENAME TO workflow_events_type_idx;"
        .to_owned()
}
