//! The moment of the switch: what was changed just before is carried over and committed under locks that the session keeps,
//! and the next transaction makes the switch.

use std::sync::PoisonError;
use std::thread;

use postgres::Client;
use process::{Form, MIGRATE, OWNER, UNDO};

use crate::phases::Phase;
use crate::stage::*;

/// As what the first try has found all in order but a snapshot that is older.
const AFTER_TRIES: &str =
    "UPDATE meshhook_events.migration SET is_caught_up = true, older_transactions = '{}', tries = ";

/// A session that takes steps by hand.
struct Stepper {
    client: Client,
    pid: i32,
    notices: process::Notices,
}

impl Stepper {
    fn new(stage: &Stage) -> Self {
        let (mut client, notices) = stage.server.connect_and_listen(DATABASE, OWNER);
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).expect("it answers").get(0);
        Self { client, pid, notices }
    }

    /// One step; what it answers.
    fn step(&mut self, goes_on: bool) -> Option<i32> {
        let sql = "SELECT meshhook_events.migration_step($1)";
        self.client.query_one(sql, &[&goes_on]).expect("a step is taken").get(0)
    }

    /// Steps up to the last one before the switch.
    fn begin(&mut self, stage: &Stage, direction: &str) {
        let begin = "SELECT meshhook_events.begin_migration($1, false)";
        assert!(self.client.query_one(begin, &[&direction]).expect("it begins").get::<_, bool>(0));
        for _ in 0..1_000 {
            if phase(stage) == "switching" {
                return;
            }
            assert!(self.step(true).is_some_and(|pause_ms| pause_ms >= 0));
        }
        panic!("it does not come to the switch: {:?}", stage.server.migration(DATABASE));
    }

    /// Which relations it has locked beyond a transaction, and how.
    fn locks(&self, stage: &Stage) -> Vec<String> {
        stage.server.all(
            DATABASE,
            &format!(
                "SELECT c.relname || ' ' || l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
                 WHERE l.pid = {} AND l.locktype = 'relation' ORDER BY 1",
                self.pid
            ),
        )
    }

    fn end(self, stage: &Stage) {
        drop(self.client);
        let told = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let warnings: Vec<_> =
            told.iter().filter(|notice| notice.severity() == "WARNING").collect();
        assert!(warnings.is_empty(), "{warnings:?}\n{}", stage.server.log());
    }
}

/// Not from the view, which waits for the locks.
fn phase(stage: &Stage) -> String {
    stage.server.ask("SELECT phase FROM meshhook_events.migration")
}

fn insert(stage: &Stage, what: &str) {
    stage.server.run(
        DATABASE,
        &format!(
            "SET lock_timeout = '20s'; \
             INSERT INTO workflow_events (run_id, type, payload) VALUES (t.run(1), '{what}', '{{}}')"
        ),
    );
}

fn is_there(stage: &Stage, what: &str) -> bool {
    stage.server.ask::<i64>(&format!("SELECT count(*) FROM workflow_events WHERE type = '{what}'"))
        == 1
}

#[test]
fn the_locks_of_a_step_are_left_to_the_switch() {
    let stage = Stage::new(Form::Current);
    for direction in ["migrate", "undo"] {
        let mut stepper = Stepper::new(&stage);
        stepper.begin(&stage, direction);
        // What is done alone is not left.
        assert_eq!(stepper.step(false), Some(0), "it carries over what there is");
        insert(&stage, &format!("{direction}-1"));
        assert_eq!(stepper.step(false), Some(0));
        assert_eq!(stepper.locks(&stage), Vec::<String>::new());

        // It is let go of with an error, whatever that is about.
        assert_eq!(stepper.step(true), Some(0), "it carries over what there is");
        insert(&stage, &format!("{direction}-2"));
        assert_eq!(stepper.step(true), Some(0));
        let locks = stepper.locks(&stage);
        assert!(locks.contains(&"workflow_events AccessExclusiveLock".to_owned()), "{locks:?}");
        assert!(locks.contains(&"workflow_runs ShareRowExclusiveLock".to_owned()), "{locks:?}");
        let month = format!("{} ShareRowExclusiveLock", stage.server.month(0));
        assert_eq!(locks.contains(&month), direction == "undo", "{locks:?}");
        stepper.client.query("SELECT 1 / 0", &[]).expect_err("it can't be divided");
        assert_eq!(stepper.locks(&stage), Vec::<String>::new());

        // And with the session, which another follows.
        assert_eq!(stepper.step(true), Some(0), "it carries over what there is");
        insert(&stage, &format!("{direction}-3"));
        assert_eq!(stepper.step(true), Some(0));
        assert_ne!(stepper.locks(&stage), Vec::<String>::new());
        stepper.end(&stage);
        insert(&stage, &format!("{direction}-4"));
        let mut stepper = Stepper::new(&stage);
        assert_eq!(stepper.step(true), Some(0), "it carries over what there is");

        // And by the switch itself.
        insert(&stage, &format!("{direction}-5"));
        assert_eq!(stepper.step(true), Some(0));
        assert_ne!(stepper.locks(&stage), Vec::<String>::new());
        assert_eq!(phase(&stage), "switching");
        assert_eq!(stepper.step(true), Some(0));
        assert_eq!(stepper.locks(&stage), Vec::<String>::new());
        assert_eq!(phase(&stage), "verifying");
        assert_eq!(stage.is_partitioned(), direction == "migrate");
        for number in 1..=5 {
            assert!(is_there(&stage, &format!("{direction}-{number}")), "{number}");
        }
        while stepper.step(true).is_some() {}
        assert_eq!(phase(&stage), "done", "{:?}", stage.server.migration(DATABASE));
        stepper.end(&stage);
    }
    stage.assert_is_plain();
}

/// A session that is busy with a snapshot from before the last change was carried over: the switch is not made beside it.
#[test]
fn a_session_that_would_miss_the_last_change_is_found() {
    let stage = Stage::new(Form::Current);
    stage.server.run(DATABASE, "CREATE TABLE t.truth ()");
    for direction in ["migrate", "undo"] {
        let mut stepper = Stepper::new(&stage);
        stepper.begin(&stage, direction);
        stage.server.run(DATABASE, &format!("{AFTER_TRIES} 1"));
        let (mut busy, pid) = open(
            &stage.server,
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM t.truth",
        );
        let work = thread::spawn(move || {
            busy.batch_execute("SELECT pg_sleep(3)").expect("it can sleep");
            let row = busy.query_one("SELECT count(*) FROM workflow_events", &[]);
            row.expect("it can be read").get::<_, i64>(0)
        });
        stage.server.wait_until("it is busy", |server| {
            let wait =
                format!("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {pid}");
            server.all::<Option<bool>>(DATABASE, &wait) == [Some(true)]
        });
        let count = "SELECT count(*) FROM workflow_events";
        let seen: i64 = stage.server.ask(count);
        // That it does not see, and after the switch it would miss the others' old places.
        stage.server.run(
            DATABASE,
            "UPDATE workflow_events SET payload = '{}' \
             WHERE id IN (SELECT id FROM workflow_events ORDER BY id LIMIT 20)",
        );
        insert(&stage, direction);
        assert_eq!(stepper.step(true), Some(0));
        assert_ne!(stepper.locks(&stage), Vec::<String>::new());
        assert!(stepper.step(true).is_some_and(|pause_ms| pause_ms > 0));
        assert_eq!(stepper.locks(&stage), Vec::<String>::new());
        assert_eq!(phase(&stage), "switching");
        assert_eq!(work.join().expect("it can count"), seen, "{direction}");
        // After many tries it is made all the same.
        stage.server.run(DATABASE, &format!("{AFTER_TRIES} 200"));
        let (mut busy, _) = open(
            &stage.server,
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM t.truth",
        );
        let cancel = busy.cancel_token();
        let work = thread::spawn(move || busy.batch_execute("SELECT pg_sleep(600)"));
        insert(&stage, &format!("{direction}-last"));
        stage.server.wait_until("it is busy", |server| {
            let wait = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            server.all::<i64>(DATABASE, wait) == [1]
        });
        assert_eq!(stepper.step(true), Some(0));
        assert_eq!(stepper.step(true), Some(0));
        assert_eq!(phase(&stage), "verifying");
        cancel.cancel_query(postgres::NoTls).expect("it can be cancelled");
        work.join().expect("it only sleeps").expect_err("it was cancelled");
        while stepper.step(true).is_some() {}
        assert_eq!(phase(&stage), "done", "{:?}", stage.server.migration(DATABASE));
        stepper.end(&stage);
    }
    stage.assert_is_plain();
}

/// Nobody waits for the locks of a step until a standby has answered.
#[test]
fn no_standby_is_waited_for() {
    let stage = Stage::new(Form::Current);
    let set = |names: &str| {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
        stage.server.run(DATABASE, &set);
        stage.server.run(DATABASE, "SELECT pg_reload_conf()");
        stage.server.wait_until("it is set", |server| {
            let shown = "SELECT current_setting('synchronous_standby_names')";
            server.all::<String>(DATABASE, shown) == [names]
        });
    };
    for call in [MIGRATE, UNDO] {
        let (under_way, holder) = Phase::Copying.reach(&stage, call);
        set("nobody");
        let_go(holder);
        let answer = under_way.end();
        assert!(answer.is_ok(), "{call}: {answer:?}\n{}", stage.server.log());
        set("");
        assert_eq!(stage.is_partitioned(), call == MIGRATE);
        stage.assert_same_rows();
    }
    stage.assert_is_plain();
}
