-- The state of the extension: the policy and the ledger, in a schema that no API exposes.
--
-- No row is inserted here: pg_restore creates the extension first and then copies the rows that
-- pg_dump took (pg_extension_config_dump), and would collide with any that are there already.

-- Whoever may create in the extension's schema could plant an operator there that fits an expression of
-- this script better than PostgreSQL's own, and have it run as the superuser who runs the script.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- Without IF NOT EXISTS: a schema of that name made by somebody else stays theirs, and could not be
-- trusted with what runs as the table's owner.
CREATE SCHEMA meshhook_events;

COMMENT ON SCHEMA meshhook_events IS 'policy and ledger of pg_meshhook_events';

CREATE TABLE meshhook_events.policy (
    singleton boolean PRIMARY KEY DEFAULT true
        CONSTRAINT policy_is_one_row CHECK (singleton),
    granularity text NOT NULL DEFAULT 'month'
        CONSTRAINT policy_granularity_is_known CHECK (granularity IN ('month', 'week', 'day')),
    -- Comparing with a time zone raises "time zone not recognized" for one that the server doesn't know.
    -- Names without a slash are abbreviations as well ("CET", "IST"), and SQL takes them as such.
    time_zone text NOT NULL DEFAULT 'UTC'
        CONSTRAINT policy_time_zone_is_known
        CHECK (timezone(time_zone, '2000-01-01 00:00:00+00'::timestamptz) IS NOT NULL)
        CONSTRAINT policy_time_zone_is_a_full_name
        CHECK (time_zone = 'UTC' OR strpos(time_zone, '/') > 0),
    premake integer NOT NULL DEFAULT 3
        CONSTRAINT policy_premake_is_sensible CHECK (premake BETWEEN 1 AND 120),
    -- Whole months: an interval of days would compare as equal to one of months, and mean another.
    retention interval
        CONSTRAINT policy_retention_is_whole_months
        CHECK (retention >= interval '1 month'
               AND extract(day FROM retention) = 0
               AND extract(epoch FROM retention
                   - make_interval(months => (12 * extract(year FROM retention)
                                              + extract(month FROM retention))::integer)) = 0),
    automatic_creation boolean NOT NULL DEFAULT true,
    automatic_retention boolean NOT NULL DEFAULT true,
    -- Those of MeshHook that a run doesn't leave by itself.
    final_statuses text[] NOT NULL DEFAULT '{succeeded,failed,canceled}'
        CONSTRAINT policy_final_statuses_are_known CHECK (array_position(final_statuses, NULL) IS NULL),
    grace interval NOT NULL DEFAULT '7 days'
        CONSTRAINT policy_grace_is_not_negative CHECK (grace >= interval '0'),
    archive text NOT NULL DEFAULT 'none'
        CONSTRAINT policy_archive_is_known CHECK (archive IN ('none', 'table', 'file')),
    archive_format text NOT NULL DEFAULT 'csv'
        CONSTRAINT policy_archive_format_is_known CHECK (archive_format IN ('csv', 'parquet')),
    archive_directory text
        CONSTRAINT policy_archive_has_a_directory
        CHECK (archive <> 'file' OR archive_directory IS NOT NULL),
    seal_after interval DEFAULT '7 days'
        CONSTRAINT policy_seal_after_is_not_negative CHECK (seal_after >= interval '0'),
    -- 100 and 200 GiB.
    size_warning_bytes bigint NOT NULL DEFAULT 107374182400
        CONSTRAINT policy_size_warning_is_positive CHECK (size_warning_bytes > 0),
    size_limit_bytes bigint NOT NULL DEFAULT 214748364800
        CONSTRAINT policy_size_limit_is_not_less CHECK (size_limit_bytes >= size_warning_bytes)
);

COMMENT ON TABLE meshhook_events.policy IS
    'what is wanted of workflow_events: one row; without it, the defaults hold';
COMMENT ON COLUMN meshhook_events.policy.singleton IS 'always true: there is one row';
COMMENT ON COLUMN meshhook_events.policy.granularity IS 'how long the range of a partition is: month, week (of ISO 8601) or day';
COMMENT ON COLUMN meshhook_events.policy.time_zone IS 'the time zone in which a period begins at 00:00';
COMMENT ON COLUMN meshhook_events.policy.premake IS
    'how many periods after the current one have a partition ahead of time, 1 to 120';
COMMENT ON COLUMN meshhook_events.policy.retention IS
    'how many whole months before the current one the worker keeps; NULL: it never drops';
COMMENT ON COLUMN meshhook_events.policy.automatic_creation IS 'whether the worker creates partitions';
COMMENT ON COLUMN meshhook_events.policy.automatic_retention IS
    'whether the worker retires partitions, where a retention is set';
COMMENT ON COLUMN meshhook_events.policy.final_statuses IS
    'the statuses in workflow_runs after which a run needs its events no more';
COMMENT ON COLUMN meshhook_events.policy.grace IS
    'how long a partition that the worker has retired is parked before it is dropped';
COMMENT ON COLUMN meshhook_events.policy.archive IS
    'what becomes of the rows of a partition before it is dropped: none, table or file';
COMMENT ON COLUMN meshhook_events.policy.archive_format IS 'csv, or parquet, which needs pg_parquet';
COMMENT ON COLUMN meshhook_events.policy.archive_directory IS
    'the directory of the files, on the server; only members of pg_write_server_files may set it';
COMMENT ON COLUMN meshhook_events.policy.seal_after IS
    'how long after its end a partition is sealed: frozen, counted and digested; NULL: never';
COMMENT ON COLUMN meshhook_events.policy.size_warning_bytes IS
    'from which size of a partition on a shorter granularity is recommended';
COMMENT ON COLUMN meshhook_events.policy.size_limit_bytes IS 'the most that a partition should ever have';

CREATE TABLE meshhook_events.maintenance_log (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    since timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 1 CONSTRAINT maintenance_log_attempts CHECK (attempts > 0),
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    origin text NOT NULL CONSTRAINT maintenance_log_origin CHECK (origin IN ('worker', 'function')),
    task text NOT NULL,
    status text NOT NULL CONSTRAINT maintenance_log_status
        CHECK (status IN ('running', 'ok', 'warning', 'failed', 'crashed')),
    role_name text NOT NULL,
    pid integer NOT NULL,
    sqlstate text,
    message text,
    details jsonb,
    CONSTRAINT maintenance_log_finished CHECK ((finished_at IS NULL) = (status = 'running'))
);

COMMENT ON TABLE meshhook_events.maintenance_log IS
    'what the worker tried and what functions changed; the last 1000 entries';
COMMENT ON COLUMN meshhook_events.maintenance_log.id IS 'number of the entry';
COMMENT ON COLUMN meshhook_events.maintenance_log.since IS
    'when this state began: attempts in a row that end in the same state share an entry';
COMMENT ON COLUMN meshhook_events.maintenance_log.attempts IS 'how many attempts in a row ended in this state';
COMMENT ON COLUMN meshhook_events.maintenance_log.started_at IS
    'the start of the last attempt: a worker''s entry is committed at this time, before the work';
COMMENT ON COLUMN meshhook_events.maintenance_log.finished_at IS 'NULL while it runs';
COMMENT ON COLUMN meshhook_events.maintenance_log.origin IS 'worker or function';
COMMENT ON COLUMN meshhook_events.maintenance_log.task IS 'create, retire, seal or migrate of the worker; maintain, create, drop, setup, migrate or undo of a function';
COMMENT ON COLUMN meshhook_events.maintenance_log.status IS
    'running, ok, warning (somebody should look), failed, or crashed (the worker ended without a word)';
COMMENT ON COLUMN meshhook_events.maintenance_log.role_name IS 'the role that called the function';
COMMENT ON COLUMN meshhook_events.maintenance_log.pid IS 'the process';
COMMENT ON COLUMN meshhook_events.maintenance_log.sqlstate IS 'SQLSTATE of the first failure';
COMMENT ON COLUMN meshhook_events.maintenance_log.message IS 'the first failure or warning';
COMMENT ON COLUMN meshhook_events.maintenance_log.details IS 'what was created, dropped, sealed and kept, and why';

-- Keyed by OID, which a dump doesn't keep: a dump leaves it out, and what was detached is then kept.
CREATE TABLE meshhook_events.retired_partition (
    relation oid PRIMARY KEY,
    schema_name text NOT NULL,
    partition_name text NOT NULL,
    range_start timestamptz,
    range_end timestamptz,
    state text NOT NULL CONSTRAINT retired_partition_state
        CHECK (state IN ('detaching', 'detached', 'closing')),
    noted_at timestamptz NOT NULL,
    detached_at timestamptz,
    grace interval,
    retention_months integer,
    forced boolean NOT NULL DEFAULT false,
    CONSTRAINT retired_partition_detached CHECK ((detached_at IS NULL) = (state = 'detaching'))
);

COMMENT ON TABLE meshhook_events.retired_partition IS
    'partitions that are retired, from the decision until the table is dropped';
COMMENT ON COLUMN meshhook_events.retired_partition.relation IS 'OID of the partition';
COMMENT ON COLUMN meshhook_events.retired_partition.schema_name IS 'schema of the partition at the decision';
COMMENT ON COLUMN meshhook_events.retired_partition.partition_name IS 'name of the partition at the decision';
COMMENT ON COLUMN meshhook_events.retired_partition.range_start IS 'start of its range; NULL for MINVALUE';
COMMENT ON COLUMN meshhook_events.retired_partition.range_end IS 'end of its range; NULL for MAXVALUE';
COMMENT ON COLUMN meshhook_events.retired_partition.state IS
    'detaching; detached: it is parked, and dropped when the grace has passed; closing: it is cut off from '
    'workflow_runs to be archived';
COMMENT ON COLUMN meshhook_events.retired_partition.noted_at IS 'when it was decided';
COMMENT ON COLUMN meshhook_events.retired_partition.detached_at IS 'when the grace began';
COMMENT ON COLUMN meshhook_events.retired_partition.grace IS 'how long it is parked; NULL: as the policy says';
COMMENT ON COLUMN meshhook_events.retired_partition.retention_months IS
    'the retention by which it was decided, in months; NULL: as the policy says';
COMMENT ON COLUMN meshhook_events.retired_partition.forced IS
    'whether it is dropped even if it holds events of runs that are not finished';

-- By range, not by OID: a hold outlives a dump, and a partition that is made anew.
CREATE TABLE meshhook_events.hold (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    partition_name text NOT NULL,
    range_start timestamptz,
    range_end timestamptz,
    reason text NOT NULL CONSTRAINT hold_has_a_reason CHECK (reason <> ''),
    role_name text NOT NULL,
    held_at timestamptz NOT NULL
);

COMMENT ON TABLE meshhook_events.hold IS 'ranges of which no partition is retired or dropped';
COMMENT ON COLUMN meshhook_events.hold.id IS 'number of the hold';
COMMENT ON COLUMN meshhook_events.hold.partition_name IS 'name of the partition when it was held';
COMMENT ON COLUMN meshhook_events.hold.range_start IS 'start of its range; NULL for MINVALUE';
COMMENT ON COLUMN meshhook_events.hold.range_end IS 'end of its range; NULL for MAXVALUE';
COMMENT ON COLUMN meshhook_events.hold.reason IS 'why it is held';
COMMENT ON COLUMN meshhook_events.hold.role_name IS 'the role that holds it';
COMMENT ON COLUMN meshhook_events.hold.held_at IS 'since when';

CREATE TABLE meshhook_events.archived_partition (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    relation oid NOT NULL,
    partition_name text NOT NULL,
    range_start timestamptz,
    range_end timestamptz,
    kind text NOT NULL CONSTRAINT archived_partition_kind CHECK (kind IN ('table', 'csv', 'parquet')),
    location text NOT NULL,
    row_count bigint NOT NULL,
    size_bytes bigint NOT NULL,
    digest text NOT NULL,
    contents_row_count bigint NOT NULL,
    contents_digest text NOT NULL,
    archived_at timestamptz NOT NULL,
    role_name text NOT NULL,
    restoring oid
);

COMMENT ON TABLE meshhook_events.archived_partition IS 'where the rows of archived partitions are';
COMMENT ON COLUMN meshhook_events.archived_partition.id IS 'number of the archive';
COMMENT ON COLUMN meshhook_events.archived_partition.relation IS 'OID of the partition';
COMMENT ON COLUMN meshhook_events.archived_partition.partition_name IS 'name of the partition';
COMMENT ON COLUMN meshhook_events.archived_partition.range_start IS 'start of its range; NULL for MINVALUE';
COMMENT ON COLUMN meshhook_events.archived_partition.range_end IS 'end of its range; NULL for MAXVALUE';
COMMENT ON COLUMN meshhook_events.archived_partition.kind IS 'table, csv or parquet';
COMMENT ON COLUMN meshhook_events.archived_partition.location IS 'the table, or the path of the file';
COMMENT ON COLUMN meshhook_events.archived_partition.row_count IS 'how many rows the partition had';
COMMENT ON COLUMN meshhook_events.archived_partition.size_bytes IS 'how large the archive is';
COMMENT ON COLUMN meshhook_events.archived_partition.digest IS
    'digest over the rows of the partition, which does not depend on their order';
COMMENT ON COLUMN meshhook_events.archived_partition.contents_row_count IS
    'how many rows of the range are there: in a table, those of earlier archives of the range too';
COMMENT ON COLUMN meshhook_events.archived_partition.contents_digest IS 'digest over those';
COMMENT ON COLUMN meshhook_events.archived_partition.archived_at IS 'when it was read back and compared';
COMMENT ON COLUMN meshhook_events.archived_partition.role_name IS 'the role that archived it';
COMMENT ON COLUMN meshhook_events.archived_partition.restoring IS
    'OID of the table that a restore has begun to fill from it';

-- By range, as holds: a seal outlives a dump, and the partition as evidence of what it held.
CREATE TABLE meshhook_events.sealed_partition (
    partition_name text NOT NULL,
    range_start timestamptz,
    range_end timestamptz NOT NULL,
    relation oid NOT NULL,
    file oid NOT NULL,
    changes bigint NOT NULL,
    changes_since_analyze bigint NOT NULL,
    analyze_count bigint NOT NULL,
    row_count bigint NOT NULL,
    digest text NOT NULL,
    sealed_at timestamptz NOT NULL,
    previous_row_count bigint,
    previous_digest text,
    previous_sealed_at timestamptz,
    CONSTRAINT sealed_partition_range UNIQUE NULLS NOT DISTINCT (range_start, range_end)
);

COMMENT ON TABLE meshhook_events.sealed_partition IS
    'what the partitions that are closed held when they were sealed; also of those that are gone';
COMMENT ON COLUMN meshhook_events.sealed_partition.partition_name IS 'name of the partition';
COMMENT ON COLUMN meshhook_events.sealed_partition.range_start IS 'start of its range; NULL for MINVALUE';
COMMENT ON COLUMN meshhook_events.sealed_partition.range_end IS 'end of its range';
COMMENT ON COLUMN meshhook_events.sealed_partition.relation IS 'its OID when it was last looked at';
COMMENT ON COLUMN meshhook_events.sealed_partition.file IS 'the file that its rows were in then (pg_class.relfilenode)';
COMMENT ON COLUMN meshhook_events.sealed_partition.changes IS
    'how many rows the server had counted as inserted, updated and deleted then';
COMMENT ON COLUMN meshhook_events.sealed_partition.changes_since_analyze IS
    'how many of those since the last ANALYZE, without what was rolled back';
COMMENT ON COLUMN meshhook_events.sealed_partition.analyze_count IS 'how often it had been analyzed then';
COMMENT ON COLUMN meshhook_events.sealed_partition.row_count IS 'how many rows it has';
COMMENT ON COLUMN meshhook_events.sealed_partition.digest IS
    'digest over its rows, which does not depend on their order';
COMMENT ON COLUMN meshhook_events.sealed_partition.sealed_at IS 'since when it has these rows, as far as is known';
COMMENT ON COLUMN meshhook_events.sealed_partition.previous_row_count IS
    'how many rows it had when it was sealed before with other rows';
COMMENT ON COLUMN meshhook_events.sealed_partition.previous_digest IS 'the digest over those';
COMMENT ON COLUMN meshhook_events.sealed_partition.previous_sealed_at IS 'since when it had those';

-- By OID, and about tables that are half built: a dump leaves it out, and what is left of a migration in the
-- restored database is cleared away.
CREATE TABLE meshhook_events.migration (
    singleton boolean PRIMARY KEY DEFAULT true
        CONSTRAINT migration_is_one_row CHECK (singleton),
    direction text NOT NULL CONSTRAINT migration_direction CHECK (direction IN ('migrate', 'undo')),
    phase text NOT NULL CONSTRAINT migration_phase
        CHECK (phase IN ('preparing', 'copying', 'catching up', 'analyzing', 'switching', 'verifying',
                         'cleaning up', 'done', 'starting over', 'taking back', 'taken back')),
    live oid NOT NULL,
    shadow oid,
    definition text,
    indexes jsonb NOT NULL DEFAULT '[]',
    ts_is_nullable boolean,
    rows_total bigint,
    bytes_total bigint,
    rows_done bigint NOT NULL DEFAULT 0,
    rows_per_second double precision,
    verified_to bigint,
    is_caught_up boolean NOT NULL DEFAULT false,
    is_turned_round boolean NOT NULL DEFAULT false,
    older_transactions text[],
    tries integer NOT NULL DEFAULT 0,
    role_name text NOT NULL,
    in_background boolean NOT NULL,
    started_at timestamptz NOT NULL,
    phase_started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    finished_at timestamptz,
    blocker text,
    sqlstate text,
    message text,
    detail text,
    hint text
);

COMMENT ON TABLE meshhook_events.migration IS
    'the migration between a plain table and partitions that is under way, or was last';
COMMENT ON COLUMN meshhook_events.migration.singleton IS 'always true: there is one row';
COMMENT ON COLUMN meshhook_events.migration.direction IS 'migrate: into partitions; undo: into a plain table';
COMMENT ON COLUMN meshhook_events.migration.phase IS 'how far it has come';
COMMENT ON COLUMN meshhook_events.migration.live IS 'OID of workflow_events';
COMMENT ON COLUMN meshhook_events.migration.shadow IS
    'OID of the table that is built beside it; after the switch, of the one that was replaced';
COMMENT ON COLUMN meshhook_events.migration.definition IS 'how workflow_events was defined when the other was built';
COMMENT ON COLUMN meshhook_events.migration.indexes IS 'pairs of names: of an index of the shadow, and the one that it gets';
COMMENT ON COLUMN meshhook_events.migration.ts_is_nullable IS 'whether ts may be NULL in the plain table';
COMMENT ON COLUMN meshhook_events.migration.rows_total IS 'how many rows there were to copy, as the planner estimated it';
COMMENT ON COLUMN meshhook_events.migration.bytes_total IS 'their size with indexes and TOAST';
COMMENT ON COLUMN meshhook_events.migration.rows_done IS 'how many were copied';
COMMENT ON COLUMN meshhook_events.migration.rows_per_second IS 'how fast the last batch was copied';
COMMENT ON COLUMN meshhook_events.migration.verified_to IS 'up to which id the two tables were compared';
COMMENT ON COLUMN meshhook_events.migration.is_caught_up IS 'whether the last step left no change in the queue';
COMMENT ON COLUMN meshhook_events.migration.is_turned_round IS
    'whether the shadow is a table that was replaced and is to be put back: it is never dropped without a comparison';
COMMENT ON COLUMN meshhook_events.migration.older_transactions IS
    'transactions whose snapshots may be older than the copy, and which are waited for';
COMMENT ON COLUMN meshhook_events.migration.tries IS 'how often the switch was tried';
COMMENT ON COLUMN meshhook_events.migration.role_name IS 'the role that asked for it';
COMMENT ON COLUMN meshhook_events.migration.in_background IS 'whether the worker does it';
COMMENT ON COLUMN meshhook_events.migration.started_at IS 'when it was asked for';
COMMENT ON COLUMN meshhook_events.migration.phase_started_at IS 'when the phase began';
COMMENT ON COLUMN meshhook_events.migration.updated_at IS 'when the last step ended';
COMMENT ON COLUMN meshhook_events.migration.finished_at IS 'when it ended; NULL while it is under way';
COMMENT ON COLUMN meshhook_events.migration.blocker IS 'who was in the way of the last step';
COMMENT ON COLUMN meshhook_events.migration.sqlstate IS 'SQLSTATE of what the last step failed with';
COMMENT ON COLUMN meshhook_events.migration.message IS 'what the last step failed with';
COMMENT ON COLUMN meshhook_events.migration.detail IS 'why';
COMMENT ON COLUMN meshhook_events.migration.hint IS 'what to do about it';

CREATE TABLE meshhook_events.migration_source (
    relation oid PRIMARY KEY,
    last_id bigint,
    last_ts timestamptz,
    is_copied boolean NOT NULL DEFAULT false
);

COMMENT ON TABLE meshhook_events.migration_source IS
    'the tables that a migration copies from: the plain table, or the partitions';
COMMENT ON COLUMN meshhook_events.migration_source.relation IS 'OID of the table';
COMMENT ON COLUMN meshhook_events.migration_source.last_id IS 'id of the last row copied';
COMMENT ON COLUMN meshhook_events.migration_source.last_ts IS 'ts of the last row copied';
COMMENT ON COLUMN meshhook_events.migration_source.is_copied IS 'whether all of its rows are copied';

CREATE TABLE meshhook_events.migration_queue (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation oid NOT NULL,
    id bigint,
    ts timestamptz,
    is_insert boolean NOT NULL
);
CREATE INDEX migration_queue_id_idx ON meshhook_events.migration_queue (id);

COMMENT ON TABLE meshhook_events.migration_queue IS
    'the events that were changed while a migration copies them, and are to be copied again';
COMMENT ON COLUMN meshhook_events.migration_queue.seq IS 'number of the change';
COMMENT ON COLUMN meshhook_events.migration_queue.relation IS 'OID of the table that kept the event';
COMMENT ON COLUMN meshhook_events.migration_queue.id IS 'id of the event; NULL where all were removed at once';
COMMENT ON COLUMN meshhook_events.migration_queue.ts IS 'ts of the event';
COMMENT ON COLUMN meshhook_events.migration_queue.is_insert IS 'whether it was inserted, not updated or deleted';

-- Runs in every session that changes an event while a migration is under way, as the extension's owner: it names
-- everything with its schema, and does nothing that could fail where writing the event itself did not.
CREATE FUNCTION meshhook_events.capture_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO meshhook_events.migration_queue (relation, id, ts, is_insert)
        VALUES (TG_RELID, NEW.id, NEW.ts, true);
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO meshhook_events.migration_queue (relation, id, ts, is_insert)
        VALUES (TG_RELID, OLD.id, OLD.ts, false);
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO meshhook_events.migration_queue (relation, id, ts, is_insert)
        VALUES (TG_RELID, OLD.id, OLD.ts, false), (TG_RELID, NEW.id, NEW.ts, false);
    ELSE
        INSERT INTO meshhook_events.migration_queue (relation, id, ts, is_insert)
        VALUES (TG_RELID, NULL, NULL, false);
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION meshhook_events.capture_change() IS
    'notes which events are changed while a migration copies them';

SELECT pg_catalog.pg_extension_config_dump('meshhook_events.policy', '');
SELECT pg_catalog.pg_extension_config_dump('meshhook_events.maintenance_log', '');
SELECT pg_catalog.pg_extension_config_dump('meshhook_events.maintenance_log_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('meshhook_events.hold', '');
SELECT pg_catalog.pg_extension_config_dump('meshhook_events.hold_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('meshhook_events.archived_partition', '');
SELECT pg_catalog.pg_extension_config_dump('meshhook_events.archived_partition_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('meshhook_events.sealed_partition', '');

GRANT USAGE ON SCHEMA meshhook_events TO PUBLIC;
-- Statistics are given in the policy's time zone to whoever may read the partitions.
GRANT SELECT ON meshhook_events.policy TO PUBLIC;
GRANT SELECT ON meshhook_events.maintenance_log TO pg_monitor;
GRANT SELECT ON meshhook_events.retired_partition TO pg_monitor;
GRANT SELECT ON meshhook_events.hold TO pg_monitor;
GRANT SELECT ON meshhook_events.archived_partition TO pg_monitor;
GRANT SELECT ON meshhook_events.sealed_partition TO pg_monitor;
GRANT SELECT ON meshhook_events.migration TO pg_monitor;
GRANT SELECT ON meshhook_events.migration_source TO pg_monitor;
GRANT SELECT ON meshhook_events.migration_queue TO pg_monitor;

-- The functions, which follow, are created in the extension's schema.
SET LOCAL search_path TO @extschema@, pg_temp;
