//! The databases of the stall comparison: one to copy from for each tool, with the same rows in all of them.
//!
//! Every measurement runs in a fresh copy, so that none sees what another has left behind, such as an old
//! failure that makes a worker wait.

use process::{Server, fixture};

use super::methods::{Method, Step};

/// The role that owns the tables, and as which the clients work.
pub const OWNER: &str = "meshhook";

/// How many runs there are.
pub const RUNS: u32 = 200;

/// How many events each month has that is not in the future.
pub const EVENTS_A_MONTH: u32 = 1_000;

/// The partitions: from so many months back to so many ahead, 17 of them.
pub const OLDEST: i32 = -13;
pub const NEWEST: i32 = 3;

/// MeshHook's event log, without secondary indexes.
const EVENTS: &str = "
CREATE TABLE public.workflow_events (
    id          bigserial,
    run_id      uuid NOT NULL,
    ts          timestamptz NOT NULL DEFAULT now(),
    type        text NOT NULL,
    payload     jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, ts),
    CONSTRAINT workflow_events_run_id_fkey
        FOREIGN KEY (run_id) REFERENCES public.workflow_runs ON DELETE CASCADE
) PARTITION BY RANGE (ts);
";

/// How MeshHook makes a partition: in one statement with the parent locked, each index by itself.
const MESHHOOK_FUNCTION: &str = "
CREATE FUNCTION public.create_workflow_events_partition(partition_date date) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    first_day date := date_trunc('month', partition_date);
    partition_name text := to_char(first_day, '\"workflow_events_y\"YYYY\"m\"MM');
BEGIN
    IF to_regclass('public.' || partition_name) IS NULL THEN
        EXECUTE format('CREATE TABLE public.%I PARTITION OF public.workflow_events FOR VALUES FROM (%L) TO (%L)',
                       partition_name, first_day, (first_day + interval '1 month')::date);
        EXECUTE format('CREATE INDEX %I ON public.%I (run_id)', partition_name || '_run_id_idx', partition_name);
        EXECUTE format('CREATE INDEX %I ON public.%I (run_id, ts)', partition_name || '_run_ts_idx', partition_name);
        EXECUTE format('CREATE INDEX %I ON public.%I (type)', partition_name || '_type_idx', partition_name);
    END IF;
    RETURN partition_name;
END
$$;
";

/// Indexes on the parent, which its partitions then have too.
const PARENT_INDEXES: &str = "
CREATE INDEX workflow_events_run_id_idx ON public.workflow_events (run_id);
CREATE INDEX workflow_events_run_ts_idx ON public.workflow_events (run_id, ts);
CREATE INDEX workflow_events_type_idx ON public.workflow_events (type);
";

/// The first day of the month that lies `ahead` of the current one, in SQL.
pub fn first_of_month(ahead: i32) -> String {
    format!("(date_trunc('month', now()) + {ahead} * interval '1 month')::date")
}

/// The statements that make all partitions by a function of that name; each is a transaction of its own.
fn all_partitions_by_function() -> String {
    format!(
        "SELECT format('SELECT public.create_workflow_events_partition(%L::date)', {}) \
         FROM generate_series({OLDEST}, {NEWEST}) n ORDER BY n \\gexec\n",
        "(date_trunc('month', now()) + n * interval '1 month')::date"
    )
}

/// What a tool needs beside the common script, run after it.
fn script_of(base: &str) -> String {
    match base {
        "base_meshhook" => format!(
            "SET SESSION AUTHORIZATION {OWNER};\n{MESHHOOK_FUNCTION}{}RESET SESSION AUTHORIZATION;\n",
            all_partitions_by_function()
        ),
        // Its DEFAULT partition, which would make it lock more, is taken away.
        "base_partman" => format!(
            "SET SESSION AUTHORIZATION {OWNER};\n{PARENT_INDEXES}RESET SESSION AUTHORIZATION;
             CREATE SCHEMA partman;
             CREATE EXTENSION pg_partman SCHEMA partman;
             SELECT partman.create_parent('public.workflow_events', 'ts', 'native', 'monthly',
                 p_premake := {NEWEST}, p_start_partition := {}::text);
             DROP TABLE public.workflow_events_default;\n",
            first_of_month(OLDEST)
        ),
        _ => format!(
            "CREATE EXTENSION pg_meshhook_events;
             SELECT count(*) FROM setup_workflow_events();
             {}
             GRANT EXECUTE ON FUNCTION create_workflow_events_partition(date),
                 drop_old_workflow_events_partitions(integer, boolean, interval) TO {OWNER};
             -- Until it is let.
             UPDATE meshhook_events.policy SET automatic_creation = false, automatic_retention = false;\n",
            all_partitions_by_function()
        ),
    }
}

/// Makes the databases to copy from.
pub fn prepare(server: &Server) {
    server.run(
        "postgres",
        &format!("CREATE ROLE {OWNER} LOGIN; CREATE ROLE anon; CREATE ROLE authenticated"),
    );
    for base in ["base_meshhook", "base_partman", "base_ours"] {
        server.run("postgres", &format!("CREATE DATABASE {base} OWNER {OWNER}"));
        let common =
            [&fixture("meshhook.sql"), EVENTS, &fixture("meshhook_events_protection.sql")].concat();
        server.script(
            base,
            &format!(
                "SET SESSION AUTHORIZATION {OWNER};\n{common}\nRESET SESSION AUTHORIZATION;\n{}",
                script_of(base)
            ),
        );
        server.script(base, &rows());
        let partitions = server.partitions(base).len();
        assert_eq!(partitions, (NEWEST - OLDEST + 1) as usize, "{base} has that many partitions");
    }
    let sums: Vec<String> = ["base_meshhook", "base_partman", "base_ours"]
        .map(|base| sum_of_seeds(server, base, OLDEST))
        .into();
    assert!(
        sums.windows(2).all(|pair| pair[0] == pair[1]),
        "the rows differ between the tools: {sums:?}"
    );
}

/// The same rows everywhere.
fn rows() -> String {
    format!(
        "INSERT INTO projects (id, owner, name) VALUES ('{ONE}', '{ONE}', 'shop');
         INSERT INTO workflow_definitions (id, project_id, slug, definition) VALUES ('{ONE}', '{ONE}', 'orders', '{{}}');
         INSERT INTO workflow_runs (id, project_id, workflow_id)
             SELECT lpad(to_hex(n), 32, '0')::uuid, '{ONE}', '{ONE}' FROM generate_series(1, {RUNS}) n;
         INSERT INTO workflow_events (run_id, ts, type, payload, created_at)
             SELECT lpad(to_hex(1 + n % {RUNS}), 32, '0')::uuid, ts, 'seed', jsonb_build_object('n', n), ts
             FROM generate_series({OLDEST}, 0) month, generate_series(1, {EVENTS_A_MONTH}) n,
                 LATERAL (SELECT date_trunc('month', now()) + month * interval '1 month'
                          + n * interval '1 minute' AS ts) AS at;
         VACUUM (FREEZE, ANALYZE);",
        ONE = run(1)
    )
}

/// The id of a run, numbered from 1.
pub fn run(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012x}")
}

/// Number and sum of the rows that were there before, from a month on.
pub fn sum_of_seeds(server: &Server, database: &str, from_month: i32) -> String {
    server.ask_in(
        database,
        &format!(
            "SELECT count(*) || '/' || coalesce(sum(hashtextextended(concat_ws(',', run_id, ts, type, payload), 0)), 0) \
             FROM workflow_events WHERE type = 'seed' AND ts >= {}",
            first_of_month(from_month)
        ),
    )
}

/// Makes the fresh copy for one measurement, with one partition missing or one too old.
pub fn copy(server: &Server, method: Method, database: &str, step: Step) {
    server.run(
        "postgres",
        &format!("CREATE DATABASE {database} TEMPLATE {} OWNER {OWNER}", method.base()),
    );
    if step == Step::Create {
        let newest: String =
            server.ask_in(database, &partition_from(NEWEST, "c.oid::regclass::text"));
        server.run(database, &format!("DROP TABLE {newest}"));
    }
}

/// A query for something about the attached partition that begins with a month.
pub fn partition_from(ahead: i32, what: &str) -> String {
    format!(
        "SELECT {what} FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = 'public.workflow_events'::regclass AND NOT i.inhdetachpending \
         AND pg_get_expr(c.relpartbound, c.oid) LIKE format('FOR VALUES FROM (''%s 00:00:00+00'') TO %%', {})",
        first_of_month(ahead)
    )
}

/// Removes the copy.
pub fn remove(server: &Server, database: &str) {
    server.run("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
}
