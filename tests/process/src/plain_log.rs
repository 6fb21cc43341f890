//! Event logs that are one plain table, as a migration finds them: MeshHook's schema with everything that users put around a
//! table, owned by a role that is no superuser.

use crate::event_log::fixture;
use crate::server::Server;

/// The role that owns the plain event log and everything around it.
pub const OWNER: &str = "meshhook";

/// The forms of the plain table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With `created_at`.
    Current,
    /// Without it, and `ts` may be NULL.
    Older,
}

impl Form {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Current, Self::Older];

    fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Older => "older",
        }
    }
}

/// How many runs there are: the odd ones belong to the first user, the even ones to the second.
const RUNS: i32 = 20;

/// Users, runs and instants have numbers.
const TOOLS: &str = r"
CREATE SCHEMA t;
GRANT USAGE ON SCHEMA t TO PUBLIC;
CREATE FUNCTION t.run(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$SELECT lpad(n::text, 32, '0')::uuid$$;
CREATE FUNCTION t.user_id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$SELECT ('aaaaaaaa' || lpad(n::text, 24, '0'))::uuid$$;
CREATE FUNCTION t.start(month int) RETURNS timestamptz LANGUAGE sql STABLE AS
$$SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + month * interval '1 month') AT TIME ZONE 'UTC'$$;
CREATE FUNCTION t.new_run(n int) RETURNS void LANGUAGE sql AS
$$INSERT INTO public.workflow_runs (id, project_id, workflow_id)
  SELECT t.run(n), p.id, d.id FROM public.projects p JOIN public.workflow_definitions d ON d.project_id = p.id
  WHERE p.owner = t.user_id(2 - n % 2)$$;
-- How many rows, and a digest of them that does not depend on their order.
CREATE FUNCTION t.rows_of(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
    EXECUTE format(
        'SELECT count(*) || '' rows, digest '' || coalesce(sum(hashtextextended(concat_ws(''|'', id, run_id, ts AT TIME ZONE ''UTC'', '
            'type, payload, to_jsonb(e) -> ''created_at''), 0)::numeric), 0) FROM %s e', name) INTO answer;
    RETURN answer;
END $$;
";

/// Two users with a project each, their runs, and many events: those of the recent months, and a few of months that lie
/// far outside of what maintenance makes.
const ROWS: &str = r"
INSERT INTO public.projects (owner, name) SELECT t.user_id(n), 'project ' || n FROM generate_series(1, 2) n;
INSERT INTO public.workflow_definitions (project_id, slug, definition) SELECT id, 'orders', '{}' FROM public.projects;
SELECT t.new_run(n) FROM generate_series(1, RUNS) n;
INSERT INTO public.workflow_events (run_id, ts, type, payload)
SELECT t.run(1 + n % RUNS), t.start(month) + n * interval '29 minutes 7.000001 seconds',
       (ARRAY['run.started', 'node.done', 'node.failed', ''])[1 + n / 3 % 4],
       jsonb_build_object('n', n, 'text', repeat(md5(n::text), 1 + n % 9), 'list', ARRAY[n, NULL])
FROM unnest('{-14,-5,-2,-1,0,1}'::int[]) month, generate_series(1, 600) n;
INSERT INTO public.workflow_events (run_id, ts, type, payload)
SELECT t.run(n), at + n * interval '1 day', 'far', to_jsonb(n)
FROM unnest('{2019-03-01 00:00+00,2031-07-01 00:00+00}'::timestamptz[]) at, generate_series(1, 9) n;
-- Both ends of a month, to the microsecond; and two events of the same instant.
INSERT INTO public.workflow_events (run_id, ts, type, payload)
SELECT t.run(n), at, 'edge', 'null'
FROM unnest(ARRAY[t.start(0), t.start(0) - interval '1 microsecond', '2019-04-01 00:00+00']) at, generate_series(1, 2) n;
-- Numbers that were never used, as a transaction that is rolled back leaves them.
SELECT nextval(pg_get_serial_sequence('public.workflow_events', 'id')) FROM generate_series(1, 7);
";

/// What users put around the table. Each insert is told once by a trigger.
const AROUND: &str = r#"
ALTER TABLE public.workflow_events ADD CONSTRAINT workflow_events_type_is_short CHECK (length(type) < 100);
CREATE INDEX workflow_events_failed ON public.workflow_events (run_id DESC, (payload ->> 'n')) INCLUDE (ts)
    WHERE type = 'node.failed';
CREATE INDEX "Odd ""index""" ON public.workflow_events USING gin (payload jsonb_path_ops) WITH (fastupdate = off);
COMMENT ON TABLE public.workflow_events IS 'what has happened, ''append-only''';
COMMENT ON COLUMN public.workflow_events.payload IS 'whatever the node said';
COMMENT ON INDEX public.workflow_events_failed IS 'for the dashboard';
COMMENT ON CONSTRAINT workflow_events_type_is_short ON public.workflow_events IS 'or the dashboard breaks';
ALTER TABLE public.workflow_events ALTER COLUMN payload SET STATISTICS 200, ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE public.workflow_events REPLICA IDENTITY FULL;
GRANT SELECT (id, type, ts), UPDATE (payload) ON public.workflow_events TO reporter;
GRANT SELECT ON public.workflow_events TO reader WITH GRANT OPTION;
COMMENT ON POLICY workflow_events_select ON public.workflow_events IS 'their own';

CREATE TABLE public.told (event_id bigint);
ALTER TABLE public.told ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS
$$BEGIN INSERT INTO public.told VALUES (NEW.id); RETURN NEW; END$$;
CREATE TRIGGER tell AFTER INSERT ON public.workflow_events FOR EACH ROW WHEN (NEW.type <> 'untold')
    EXECUTE FUNCTION public.tell();
COMMENT ON TRIGGER tell ON public.workflow_events IS 'tells';
CREATE TRIGGER tell_nobody AFTER INSERT ON public.workflow_events FOR EACH ROW EXECUTE FUNCTION public.tell();
ALTER TABLE public.workflow_events DISABLE TRIGGER tell_nobody;

CREATE VIEW public.failed_events WITH (security_invoker = true) AS
    SELECT e.*, r.status FROM public.workflow_events e JOIN public.workflow_runs r ON r.id = e.run_id
    WHERE e.type = 'node.failed';
COMMENT ON VIEW public.failed_events IS 'for the dashboard';
CREATE VIEW public.events_per_day AS
    SELECT date_trunc('day', ts, 'UTC') AS day, type, count(*) FROM public.workflow_events GROUP BY 1, 2;
REVOKE ALL ON public.events_per_day FROM anon, authenticated;
GRANT SELECT ON public.events_per_day TO reporter;
CREATE VIEW public.failed_per_run WITH (security_invoker = true) AS
    SELECT run_id, count(*) FROM public.failed_events GROUP BY run_id;
"#;

impl Server {
    /// Makes MeshHook's schema with a plain event log, what users put around it, and many rows; and the extension, which
    /// hasn't been told of the log. All tables belong to [`OWNER`], who may migrate.
    pub fn set_up_plain(&self, database: &str, form: Form) {
        self.run(
            database,
            &format!(
                "DO $$ DECLARE name text; BEGIN \
                     FOR name IN SELECT unnest('{{{OWNER},reporter,reader}}'::text[]) EXCEPT SELECT rolname FROM pg_roles LOOP \
                         EXECUTE 'CREATE ROLE ' || name || ' LOGIN'; \
                     END LOOP; \
                     EXECUTE format('GRANT CREATE ON DATABASE %I TO {OWNER}', current_database()); \
                 END $$; \
                 ALTER ROLE {OWNER} CREATEROLE; \
                 GRANT CREATE, USAGE ON SCHEMA public TO {OWNER} WITH GRANT OPTION"
            ),
        );
        let as_owner = |sql: &str| self.script(database, &format!("SET ROLE {OWNER};\n{sql}"));
        as_owner(&fixture("meshhook.sql"));
        as_owner(&format!("\\set form {}\n{}", form.name(), fixture("plain_events.sql")));
        as_owner(&fixture("meshhook_events_protection.sql"));
        as_owner(TOOLS);
        as_owner(&ROWS.replace("RUNS", &RUNS.to_string()));
        as_owner(AROUND);
        self.run(database, "CREATE EXTENSION pg_meshhook_events");
        self.run(
            database,
            &format!(
                "ANALYZE; \
                 GRANT EXECUTE ON PROCEDURE migrate_workflow_events, undo_workflow_events_migration TO {OWNER}"
            ),
        );
    }

    /// How many rows a relation with the columns of the log has, and a digest of them.
    pub fn rows_of(&self, database: &str, relation: &str) -> String {
        self.ask_in(database, &format!("SELECT t.rows_of('{relation}')"))
    }
}
