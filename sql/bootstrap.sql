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
COMMENT ON COLUMN meshhook_events.maintenance_log.task IS 'create, retire or seal of the worker; maintain, create, drop or setup of a function';
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

-- The functions, which follow, are created in the extension's schema.
SET LOCAL search_path TO @extschema@, pg_temp;
