//! Transactions that see everything as it was at their beginning (REPEATABLE READ): the rows of a table that takes the place of
//! another are newer than they are, so the switch waits for them.

use std::thread;

use postgres::Client;
use process::{Form, MIGRATE, Server, UNDO};

use crate::holders::{meet, wait_a_while};
use crate::phases::Phase;
use crate::stage::*;

/// A snapshot that is older than the copy sees none of its rows: the switch waits for it.
#[test]
fn a_snapshot_older_than_the_copy_sees_every_row_once() {
    let stage = Stage::new(Form::Older);
    let snapshot = "SELECT FROM t.truth";
    stage.server.run(DATABASE, "CREATE TABLE t.truth ()");
    for call in [MIGRATE, UNDO] {
        for is_early in [true, false] {
            let before = stage.server.rows_of(DATABASE, "workflow_events");
            let begin = |server: &Server| {
                // It has not looked at the log yet, so it holds no lock of it.
                open(
                    server,
                    &format!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {snapshot}"),
                )
            };
            let early = is_early.then(|| begin(&stage.server));
            let under_way = stage.begin(SLOWLY, call);
            stage.server.wait_for_phase(DATABASE, "copying");
            let (mut old, pid) = early.unwrap_or_else(|| begin(&stage.server));
            // What it must not see.
            let late = "INSERT INTO workflow_events (run_id, type, payload) SELECT t.run(9), 'untold', to_jsonb(n) \
                        FROM generate_series(1, 20) n";
            stage.server.run(DATABASE, late);
            let met = meet(&stage, &under_way, pid, &["verifying", "cleaning up", "done"]);
            assert!(met.is_some(), "{call} did not wait, early: {is_early}");
            wait_a_while(&stage, &under_way);
            assert_eq!(seen_by(&mut old), before, "{call}, early: {is_early}");
            wait_a_while(&stage, &under_way);
            assert_eq!(seen_by(&mut old), before, "{call}, early: {is_early}");
            old.batch_execute("COMMIT").expect("it answers");
            let answer = under_way.end();
            assert!(answer.is_ok(), "{call}: {answer:?}\n{}", stage.server.log());
            assert_eq!(stage.is_partitioned(), call == MIGRATE);
            assert_ne!(stage.server.rows_of(DATABASE, "workflow_events"), before);
            stage.call(if call == MIGRATE { UNDO } else { MIGRATE });
        }
        stage.call(call);
    }
    stage.assert_is_plain();
}

fn seen_by(client: &mut Client) -> String {
    let twice = "SELECT count(*) - count(DISTINCT id) FROM workflow_events";
    assert_eq!(client.query_one(twice, &[]).expect("it can be read").get::<_, i64>(0), 0);
    client.query_one("SELECT t.rows_of('workflow_events')", &[]).expect("it can be read").get(0)
}

/// Snapshots of other databases see nothing of this one: nobody waits for them.
#[test]
fn a_snapshot_of_another_database_is_in_nobodys_way() {
    let stage = Stage::new(Form::Current);
    stage.server.create_database("other");
    let mut other = stage.server.connect("other");
    other
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE TABLE t (i int)")
        .expect("it answers");
    stage.migrate();
    stage.undo();
    stage.assert_same_rows();
    other.batch_execute("COMMIT").expect("it answers");
}

/// A snapshot that is taken while the switch is tried, of a session that is busy elsewhere when it takes place: what was
/// changed just before is carried over just after.
#[test]
fn a_snapshot_in_use_sees_what_was_changed_before_it() {
    let stage = Stage::new(Form::Current);
    stage.server.run(DATABASE, "CREATE TABLE t.truth ()");
    for call in [MIGRATE, UNDO] {
        let (under_way, holder) = Phase::Switching.reach(&stage, call);
        stage.server.run(
            DATABASE,
            "UPDATE workflow_events SET payload = '[]' WHERE run_id = t.run(11); \
             UPDATE workflow_events SET ts = t.start(-1) WHERE run_id = t.run(13) AND ts > t.start(0); \
             DELETE FROM workflow_events WHERE run_id = t.run(15) AND ts > t.start(0); \
             INSERT INTO workflow_events (run_id, type, payload) SELECT t.run(17), 'untold', to_jsonb(n) \
             FROM generate_series(1, 20) n",
        );
        let (mut busy, _) = open(
            &stage.server,
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM t.truth",
        );
        let expected = stage.server.rows_of(DATABASE, "workflow_events");
        let work = thread::spawn(move || {
            busy.batch_execute("SELECT pg_sleep(4)").expect("it can sleep");
            seen_by(&mut busy)
        });
        let_go(holder);
        assert_eq!(work.join().expect("it can read"), expected, "{call}");
        let answer = under_way.end();
        assert!(answer.is_ok(), "{call}: {answer:?}\n{}", stage.server.log());
        assert_eq!(stage.is_partitioned(), call == MIGRATE);
        assert_eq!(stage.server.rows_of(DATABASE, "workflow_events"), expected, "{call}");
    }
    stage.assert_is_plain();
}
