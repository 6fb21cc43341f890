-- Runs of workflows made from real webhook bodies: each body starts one run, whose steps are events.
--
-- Run by psql as the owner of the tables, in the directory that holds webhooks.json, the list of
-- GitHub's events with example bodies. The runs are spread from the first of the month before last
-- to now; everything follows from the position of the body in the file, so that two loads on one
-- day give the same ids and the same order.

\set ON_ERROR_STOP on
BEGIN;

-- No character of JSON text is 1 or 2, so that CSV with these marks reads lines as they are.
CREATE TEMPORARY TABLE line (n bigint GENERATED ALWAYS AS IDENTITY, text text) ON COMMIT DROP;
\copy line (text) FROM 'webhooks.json' WITH (FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01')

CREATE TEMPORARY TABLE webhook ON COMMIT DROP AS
SELECT (row_number() OVER (ORDER BY event.ordinality, example.ordinality) - 1)::int AS n,
       count(*) OVER ()::int AS total,
       'on-' || replace(event.value ->> 'name', '_', '-') AS slug,
       example.value AS body
FROM (SELECT string_agg(text, E'\n' ORDER BY n)::jsonb AS document FROM line) AS file,
     jsonb_array_elements(file.document) WITH ORDINALITY AS event,
     jsonb_array_elements(event.value -> 'examples') WITH ORDINALITY AS example;

INSERT INTO projects (id, owner, name)
VALUES (md5('project')::uuid, md5('owner')::uuid, 'Repository automation');

INSERT INTO workflow_definitions (id, project_id, slug, definition)
SELECT DISTINCT md5(slug)::uuid, md5('project')::uuid, slug,
       '{"nodes": ["verify-signature", "transform", "wait-for-approval", "deliver"]}'::jsonb
FROM webhook;

-- 137 and the number of bodies have no common divisor: the kinds of event mix, and each body has
-- its own place in time.
CREATE TEMPORARY TABLE run ON COMMIT DROP AS
SELECT n, slug, body,
       md5('run ' || n)::uuid AS id,
       span.first + (span.last - span.first) * ((n * 137) % total)::float8 / total AS started_at,
       n % 7 = 3 AS waits_for_approval,
       n % 11 = 5 AS fails
FROM webhook,
     LATERAL (SELECT date_trunc('month', now(), 'UTC') AS this_month) AS calendar,
     LATERAL (SELECT (this_month AT TIME ZONE 'UTC' - interval '2 months') AT TIME ZONE 'UTC' AS first,
                     now() - interval '1 minute' AS last) AS span;

-- The steps of a run. Step 5 begins at the instant at which step 4 ends: only the id orders them.
CREATE TEMPORARY TABLE event ON COMMIT DROP AS
SELECT run.n, run.id AS run_id, step.ordinal, run.started_at + step.after AS ts, step.type, step.payload
FROM run,
     LATERAL (SELECT CASE WHEN waits_for_approval THEN interval '3 days' ELSE interval '0' END AS wait,
                     (n * 37 % 400) * interval '1 millisecond' AS work) AS pace,
     LATERAL (VALUES
        ( 1, interval '0',                   'webhook.received', body),
        ( 2, interval '5 milliseconds',      'run.started',      jsonb_build_object('workflow', slug)),
        ( 3, interval '6 milliseconds',      'node.started',     '{"node": "verify-signature"}'),
        ( 4, interval '9 milliseconds',      'node.finished',    '{"node": "verify-signature"}'),
        ( 5, interval '9 milliseconds',      'node.started',     '{"node": "transform"}'),
        ( 6, interval '20 milliseconds' + work, 'node.finished', '{"node": "transform"}'),
        ( 7, interval '21 milliseconds' + work, 'node.started',  '{"node": "wait-for-approval"}'),
        ( 8, interval '22 milliseconds' + work + wait, 'node.finished', '{"node": "wait-for-approval"}'),
        ( 9, interval '23 milliseconds' + work + wait, 'node.started',  '{"node": "deliver"}'),
        (10, interval '40 milliseconds' + 2 * work + wait,
             CASE WHEN fails THEN 'node.failed' ELSE 'node.finished' END, '{"node": "deliver"}'),
        (11, interval '41 milliseconds' + 2 * work + wait, 'run.finished',
             jsonb_build_object('status', CASE WHEN fails THEN 'failed' ELSE 'succeeded' END))
     ) AS step (ordinal, after, type, payload)
WHERE (waits_for_approval OR step.ordinal NOT IN (7, 8))
  AND run.started_at + step.after <= now();

-- A run whose steps reach beyond now is still waiting for its approval.
INSERT INTO workflow_runs (id, project_id, workflow_id, status, started_at, finished_at)
SELECT run.id, md5('project')::uuid, md5(run.slug)::uuid,
       coalesce(finish.payload ->> 'status', 'paused'), run.started_at, finish.ts
FROM run LEFT JOIN event AS finish ON finish.n = run.n AND finish.type = 'run.finished';

INSERT INTO workflow_events (run_id, ts, type, payload, created_at)
SELECT run_id, ts, type, payload, ts FROM event
ORDER BY ts, n, ordinal;

COMMIT;
ANALYZE workflow_runs, workflow_events;
