//! Thirty days with something that retention can't get past: each day the log is whole to the end of the third month
//! ahead, and no row has gone that was not to go.

use postgres::Client;
use process::{DEADLINE, HANDFUL, Server, figure, poll_until};

/// The events in each old partition.
const EVENTS: i64 = 3;

/// Until when the log has no hole from now on, and until when it should have none, in days from now. From the bounds
/// as PostgreSQL writes them.
const RUNWAY: &str = r"
WITH ranges AS (
    SELECT range_agg(tstzrange(coalesce(substring(bound FROM 'FROM \(''([^'']*)''\)'), '-infinity')::timestamptz,
                               coalesce(substring(bound FROM 'TO \(''([^'']*)''\)'), 'infinity')::timestamptz)) AS held
    FROM (SELECT pg_get_expr(relpartbound, c.oid) AS bound FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
          WHERE i.inhparent = 'workflow_events'::regclass AND NOT i.inhdetachpending) attached
), until AS (
    SELECT coalesce((SELECT upper(r) FROM unnest(held) r WHERE r @> now()), now()) AS held,
           (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '4 months') AT TIME ZONE 'UTC' AS wanted
    FROM ranges
)
SELECT floor(extract(epoch FROM held - now()) / 86400)::int, floor(extract(epoch FROM wanted - now()) / 86400)::int FROM until";

/// What was simulated.
struct Simulation {
    server: Server,
    /// The partition with the poison: its OID, as it may move and be detached.
    poisoned: u32,
}

impl Simulation {
    /// A log of the role `keeper` at noon of the 15th, with three partitions that retention will want to drop: those of
    /// four, five and six months ago. The one in the middle is poisoned by `poison`, which may leave sessions open.
    fn begin(poison: impl FnOnce(&Server, &str) -> Vec<Client>) -> (Self, Vec<Client>) {
        let server = Server::preloaded().clock().start();
        server.set_clock("(date_trunc('month', now() AT TIME ZONE 'UTC') + interval '14 days 12 hours') AT TIME ZONE 'UTC'");
        server.set_up("postgres");
        server.make_run("postgres");
        for ahead in [-6, -5, -4] {
            let middle = format!("now() + {ahead} * interval '1 month'");
            server.run(
                "postgres",
                &format!(
                    "SELECT create_workflow_events_partition({middle}); \
                 INSERT INTO workflow_events (run_id, ts, type, payload) \
                 SELECT id, {middle}, 't', '{{}}' FROM workflow_runs, generate_series(1, {EVENTS})"
                ),
            );
        }
        server.give_log("postgres", "keeper");
        let name = server.month(-5);
        let poisoned = server.ask(&format!("SELECT '{name}'::regclass::oid"));
        let sessions = poison(&server, &name);
        server.run("postgres", "UPDATE meshhook_events.policy SET retention = '3 months'");
        (Self { server, poisoned }, sessions)
    }

    /// How many rows the poisoned partition has; `None` where it is gone.
    fn rows(&self) -> Option<i64> {
        let name =
            format!("SELECT oid::regclass::text FROM pg_class WHERE oid = {}", self.poisoned);
        let name = self.server.all::<String>("postgres", &name).pop()?;
        Some(self.server.ask(&format!("SELECT count(*) FROM {name}")))
    }

    /// The days for which the log is whole, and for which it should be.
    fn runway(&self) -> (i32, i32) {
        let row = self.server.connect("postgres").query_one(RUNWAY, &[]).unwrap();
        (row.get(0), row.get(1))
    }

    /// Lives through thirty days; each brings a pass.
    fn live(&self, name: &str, may_go: bool) {
        let server = &self.server;
        let mut least = i32::MAX;
        for day in 0..=30 {
            if day > 0 {
                server.move_clock_days(1);
            }
            server.look("postgres");
            server.wait_until(&format!("the log is whole on day {day}"), |_| {
                let (held, wanted) = self.runway();
                held >= wanted
            });
            least = least.min(self.runway().0);
            let rows = self.rows();
            assert!(
                rows == Some(EVENTS) || may_go && rows.is_none(),
                "{rows:?} on day {day}\n{}",
                server.log()
            );
        }
        let case = format!("30 days: {name}");
        figure(&case, "days of runway, the least", least);
        let left = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relispartition \
                    AND relname < to_char(now() - interval '5 months', '\"workflow_events_y\"YYYY\"m\"MM')";
        figure(&case, "old partitions left, of 3", server.ask::<i64>(left));
        // Two months began, which was told, and what was dropped.
        figure(&case, "lines in the log", server.assert_quiet(3 + HANDFUL));
    }
}

/// Thirty days with this poison, which leaves every row where it is; then it is cured, with all sessions closed, and
/// retention has its way.
fn thirty_days(name: &str, cure: &str, poison: impl FnOnce(&Server, &str) -> Vec<Client>) {
    let (simulation, sessions) = Simulation::begin(poison);
    simulation.live(name, false);
    let server = &simulation.server;
    drop(sessions);
    server.run("postgres", cure);
    server.move_clock_days(1);
    let gone = poll_until(DEADLINE, || {
        server.look("postgres");
        simulation.rows().is_none().then_some(())
    });
    assert!(gone.is_some(), "it is still there\n{}", server.log());
}

/// A session that has done this in a transaction that stays open.
fn open(server: &Server, sql: &str) -> Vec<Client> {
    let mut session = server.connect("postgres");
    session.batch_execute(&format!("BEGIN; {sql}")).unwrap();
    vec![session]
}

#[test]
fn a_view_on_an_old_partition() {
    thirty_days("a view on an old partition", "DROP VIEW report", |server, old| {
        server.run("postgres", &format!("CREATE VIEW report AS SELECT id, type FROM {old}"));
        Vec::new()
    });
}

#[test]
fn a_foreign_key_that_references_an_old_partition() {
    thirty_days(
        "a foreign key that references an old partition",
        "DROP TABLE notes",
        |server, old| {
            server.run(
                "postgres",
                &format!(
                    "CREATE TABLE notes (event_id bigint, event_ts timestamptz, \
                 FOREIGN KEY (event_id, event_ts) REFERENCES {old} (id, ts)); \
             INSERT INTO notes SELECT id, ts FROM {old} LIMIT 1"
                ),
            );
            Vec::new()
        },
    );
}

#[test]
fn a_transaction_that_has_read_an_old_partition_and_never_ends() {
    thirty_days("a transaction that has read it and never ends", "", |server, old| {
        open(server, &format!("SELECT count(*) FROM {old}"))
    });
}

#[test]
fn an_old_partition_in_a_schema_that_the_owner_may_not_use() {
    thirty_days(
        "it lies in a schema that the owner may not use",
        "GRANT USAGE ON SCHEMA attic TO keeper",
        |server, old| {
            server.run(
                "postgres",
                &format!("CREATE SCHEMA attic; ALTER TABLE {old} SET SCHEMA attic"),
            );
            Vec::new()
        },
    );
}

#[test]
fn a_detach_that_was_cancelled_half_way_under_a_transaction_that_never_ends() {
    let (simulation, sessions) = Simulation::begin(|server, old| {
        let reader = open(server, "SELECT count(*) FROM workflow_events");
        let mut session = server.connect("postgres");
        session.batch_execute("SET lock_timeout = '200ms'").unwrap();
        let detach = format!("ALTER TABLE workflow_events DETACH PARTITION {old} CONCURRENTLY");
        session.batch_execute(&detach).expect_err("the reader is in the way");
        let pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending";
        assert_eq!(server.ask::<i64>(pending), 1);
        reader
    });
    simulation.live("a detach that is pending, a reader never ends", false);
    // It is completed when the reader has ended; the table is whoever's who began it.
    let server = &simulation.server;
    drop(sessions);
    let is_partition =
        format!("SELECT relispartition FROM pg_class WHERE oid = {}", simulation.poisoned);
    server.wait_until("it is a table of its own", |server| {
        server.look("postgres");
        !server.ask::<bool>(&is_partition)
    });
    assert_eq!(simulation.rows(), Some(EVENTS));
}

#[test]
fn an_oldest_partition_without_a_lower_bound() {
    let (simulation, _sessions) = Simulation::begin(|server, old| {
        let oldest = server.month(-6);
        let bound: String = server.ask(&format!(
            "SELECT substring(pg_get_expr(relpartbound, oid) FROM 'TO .*') FROM pg_class WHERE relname = '{old}'"
        ));
        server.run(
            "postgres",
            &format!(
                "DROP TABLE {oldest}; ALTER TABLE workflow_events DETACH PARTITION {old}; \
             ALTER TABLE workflow_events ATTACH PARTITION {old} FOR VALUES FROM (MINVALUE) {bound}"
            ),
        );
        Vec::new()
    });
    simulation.live("it has no lower bound", true);
}

#[test]
fn an_old_partition_of_another_role() {
    thirty_days(
        "it belongs to another role",
        "REASSIGN OWNED BY stranger TO keeper",
        |server, old| {
            server.run(
                "postgres",
                &format!("CREATE ROLE stranger; ALTER TABLE {old} OWNER TO stranger"),
            );
            Vec::new()
        },
    );
}

#[test]
fn a_full_disk() {
    thirty_days(
        "a full disk (53100)",
        "DROP EVENT TRIGGER on_drop; DROP EVENT TRIGGER on_alter",
        |server, old| {
            let full = "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';";
            server.plant_on_retirement("postgres", old, full);
            Vec::new()
        },
    );
}
