//! What a worker stands on is taken away while it works or waits: the log's owner, the extension, the version it expects.

use std::thread::JoinHandle;

use postgres::{Client, NoTls};
use process::{HANDFUL, Server, figure};

/// A server with a patient worker and an event log that belongs to the role `keeper`.
fn kept() -> Server {
    let server = Server::with_patient_worker().start();
    server.set_up("postgres");
    server.give_log("postgres", "keeper");
    server.run("postgres", "CREATE ROLE heir; GRANT CREATE, USAGE ON SCHEMA public TO heir");
    server.look("postgres");
    server
}

const SUCCESSION: &str = "REASSIGN OWNED BY keeper TO heir; DROP OWNED BY keeper; DROP ROLE keeper";

/// Runs statements in a session beside the test.
fn aside(server: &Server, sql: &'static str) -> JoinHandle<()> {
    let conninfo = server.conninfo("postgres", "postgres");
    std::thread::spawn(move || {
        let mut session = Client::connect(&conninfo, NoTls).unwrap();
        session.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    })
}

/// The log is whole and belongs to the heir alone.
fn assert_inherited(server: &Server, case: &str) {
    for ahead in [1, 2] {
        server.wait_for_partition("postgres", &server.month(ahead));
    }
    server.wait_until_idle();
    let owners = "SELECT DISTINCT coalesce(rolname::text, 'nobody') FROM pg_class c LEFT JOIN pg_authid a ON a.oid = relowner \
                  WHERE relname LIKE 'workflow\\_events%' AND relkind IN ('p', 'r', 'I', 'i') AND relname NOT LIKE '%_info'";
    assert_eq!(server.all::<String>("postgres", owners), ["heir"]);
    figure(case, "lines in the log", server.assert_quiet(HANDFUL));
}

#[test]
fn an_owner_who_is_replaced_while_the_worker_waits_for_him_is_followed_by_his_heir() {
    let server = kept();
    let missing = [1, 2].map(|ahead| server.month(ahead));
    // What the worker waits for is the end of the transaction in which its role is dropped.
    let (mut session, _) = server.make_worker_wait_behind("postgres", |server| {
        server.run("postgres", &format!("DROP TABLE IF EXISTS {}", missing.join(", ")));
        let mut session = server.connect("postgres");
        session.batch_execute(&format!("BEGIN; {SUCCESSION}")).unwrap();
        session
    });
    session.batch_execute("COMMIT").unwrap();
    server.wait_until_idle();
    assert_inherited(&server, "objects: the log's owner is dropped, the worker waits");
}

#[test]
fn an_owner_who_is_replaced_while_the_worker_works_is_followed_by_his_heir() {
    let server = kept();
    server.plant("postgres", "PERFORM pg_sleep(2);");
    server.drop_month("postgres", 2);
    server.make_worker_work("postgres");
    // It waits for the end of the step.
    aside(&server, SUCCESSION).join().unwrap();
    assert_inherited(&server, "objects: the log's owner is dropped, the worker works");
}

#[test]
fn the_extension_can_be_dropped_while_its_worker_waits() {
    let server = Server::with_patient_worker().start();
    server.set_up("postgres");
    server.look("postgres");
    let (holder, worker) = server.make_worker_wait("postgres");
    let before = server.partitions("postgres");
    let dropping = aside(&server, "DROP EXTENSION pg_meshhook_events");
    server.wait_until("the session waits for the worker, or is done", |server| {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP %')";
        dropping.is_finished() || server.ask(waits)
    });
    drop(holder);
    dropping.join().unwrap();
    server.wait_until("the worker is gone", |server| !server.workers(None).contains(&worker));
    let rest = server.partitions("postgres");
    assert!(before.iter().all(|partition| rest.contains(partition)), "{before:?}, {rest:?}");
    // The partition that it was about to make may have been made, which is a line.
    let made = usize::from(rest.len() > before.len());
    let lines = server.assert_quiet(1 + made);
    figure("objects: DROP EXTENSION, its worker waits", "lines in the log", lines);

    server.run("postgres", "CREATE EXTENSION pg_meshhook_events");
    server.wait_for_partition("postgres", &server.month(1));
    server.wait_until_idle();
    let missing = server.drop_month("postgres", 2);
    assert_eq!(server.pass("postgres").status, "ok");
    assert!(server.partitions("postgres").contains(&missing));
}

/// What the health check says of the versions: status, and what to do.
fn version_row(server: &Server) -> (String, String) {
    let query = "SELECT status, coalesce(hint, '') FROM verify_workflow_events() WHERE check_name = 'extension_version'";
    let row = server.connect("postgres").query_one(query, &[]);
    let row = row.unwrap_or_else(|error| panic!("{error:?}\n{}", server.log()));
    (row.get(0), row.get(1))
}

#[test]
fn a_worker_leaves_objects_of_another_version_alone_and_says_what_to_do() {
    let server = Server::preloaded().start();
    server.set_up("postgres");
    server.look("postgres");
    server.wait_until_idle();
    let lines = server.maintenance_lines().len();
    let missing = server.drop_month("postgres", 1);
    // As after an update of the package without ALTER EXTENSION … UPDATE: the tables lack what the library writes.
    let ledger = "ALTER TABLE meshhook_events.maintenance_log RENAME COLUMN";
    let (older, newer) = (
        format!(
            "UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'pg_meshhook_events'; {ledger} details TO d"
        ),
        format!(
            "UPDATE pg_extension SET extversion = '{}' WHERE extname = 'pg_meshhook_events'; {ledger} d TO details",
            server.ask::<String>(
                "SELECT extversion FROM pg_extension WHERE extname = 'pg_meshhook_events'"
            )
        ),
    );
    server.run("postgres", &older);
    let entries = "SELECT count(*) FROM meshhook_events.maintenance_log";
    let before: i64 = server.ask(entries);
    for _ in 0..3 {
        server.look("postgres");
    }
    assert!(!server.partitions("postgres").contains(&missing));
    assert_eq!(
        server.ask::<i64>(entries),
        before,
        "it has written into tables that it does not know"
    );
    let told = server.maintenance_lines().split_off(lines);
    figure(
        "objects: SQL objects of an older version",
        "lines in the log, after three looks",
        told.len(),
    );
    assert!(matches!(&told[..], [line] if line.contains("0.0.1")), "{told:#?}");
    let (status, hint) = version_row(&server);
    assert!(status == "failed" && hint.contains("ALTER EXTENSION"), "{status}: {hint}");

    server.run("postgres", &newer);
    server.look("postgres");
    assert!(server.partitions("postgres").contains(&missing));
    assert_eq!(version_row(&server).0, "ok");
}
