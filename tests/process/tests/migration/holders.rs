//! Transactions that stay open in each phase: the migration waits for them, says for whom, and nobody else waits for it.

use std::time::{Duration, Instant};

use process::{Call, Form, MIGRATE, Progress, Server, UNDO, figure, ms, poll_until};

use crate::bystander::Bystander;
use crate::stage::*;

/// How long a transaction stays open after the migration has met it.
const WHILE: Duration = Duration::from_millis(1000);

/// What an open transaction has done.
const DONE: [&str; 4] = [
    "INSERT INTO workflow_events (run_id, type, payload) VALUES (t.run(8), 'untold', '{}')",
    "SELECT count(*) FROM workflow_events WHERE run_id = t.run(8)",
    "UPDATE workflow_runs SET status = 'paused' WHERE id = t.run(8)",
    "SELECT t.new_run(8888)",
];

/// Waits until the migration says that this backend is in the way, or has gone past it: for as long as the test allows.
pub fn meet(stage: &Stage, under_way: &Call, pid: i32, past: &[&str]) -> Option<Progress> {
    let met = poll_until(process::DEADLINE, || {
        let progress = stage.server.migration(DATABASE);
        let is_past = under_way.is_over()
            || progress.as_ref().is_some_and(|progress| past.contains(&progress.phase.as_str()));
        if is_past {
            return Some(None);
        }
        progress.filter(|progress| names(progress, pid)).map(Some)
    });
    met.unwrap_or_else(|| {
        panic!("{pid} is not met: {:?}\n{}", stage.server.migration(DATABASE), stage.server.log())
    })
}

fn names(progress: &Progress, pid: i32) -> bool {
    progress.blocker.as_ref().is_some_and(|blocker| blocker.contains(&pid.to_string()))
}

/// Lets a while pass, in which the call must not come back.
pub fn wait_a_while(stage: &Stage, under_way: &Call) {
    let begin = Instant::now();
    poll_until(WHILE, || {
        assert!(!under_way.is_over(), "it did not wait\n{}", stage.server.log());
        None::<()>
    });
    assert!(begin.elapsed() >= WHILE);
}

#[test]
fn nobody_waits_but_the_migration() {
    let stage = Stage::new(Form::Current);
    for done in DONE {
        for call in [MIGRATE, UNDO] {
            let bystanders = [1, 2].map(|number| Bystander::begin(&stage.server, number));
            // From before it begins until it has met it.
            let (holder, pid) = open(&stage.server, done);
            let under_way = stage.begin(SLOWLY, call);
            if meet(&stage, &under_way, pid, &["copying"]).is_some() {
                wait_a_while(&stage, &under_way);
            }
            let_go(Some(holder));
            // From the copying on until it would switch.
            stage.server.wait_for_phase(DATABASE, "copying");
            let (holder, pid) = open(&stage.server, done);
            if meet(&stage, &under_way, pid, &["verifying", "cleaning up", "done"]).is_some() {
                wait_a_while(&stage, &under_way);
                assert_eq!(stage.is_partitioned(), call == UNDO);
            } else {
                assert!(!done.contains("workflow_events"), "it did not wait for {done}");
            }
            let_go(Some(holder));
            let answer = under_way.end();
            assert!(answer.is_ok(), "{call}, {done}: {answer:?}\n{}", stage.server.log());
            for bystander in bystanders {
                let longest = bystander.end(&format!("{call} behind {done}"));
                figure(
                    "migration: a client beside it, behind an open transaction",
                    "longest statement",
                    ms(longest),
                );
            }
            stage.server.run(
                DATABASE,
                "DELETE FROM workflow_runs WHERE id IN (t.run(700001), t.run(700002))",
            );
            stage.assert_same_rows();
        }
    }
    stage.assert_is_plain();
}

/// A prepared transaction belongs to no session, and is named all the same.
#[test]
fn a_prepared_transaction_is_waited_for_and_named() {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("max_prepared_transactions", "2");
    let stage = Stage::of(Form::Current, server);
    let mut client = stage.server.connect(DATABASE);
    client.batch_execute(&format!("BEGIN; {}", DONE[0])).expect("it can be inserted");
    client.batch_execute("PREPARE TRANSACTION 'forgotten'").expect("it can be prepared");
    let under_way = stage.begin("", MIGRATE);
    let named = poll_until(process::DEADLINE, || {
        let blocker = stage.server.migration(DATABASE)?.blocker?;
        blocker.contains("forgotten").then_some(())
    });
    assert!(named.is_some(), "{:?}\n{}", stage.server.migration(DATABASE), stage.server.log());
    wait_a_while(&stage, &under_way);
    client.batch_execute("COMMIT PREPARED 'forgotten'").expect("it is there");
    under_way.end().unwrap_or_else(|error| panic!("{error:?}\n{}", stage.server.log()));
    stage.assert_is_partitioned();
    let rows: i64 = stage
        .server
        .ask("SELECT count(*) FROM workflow_events WHERE run_id = t.run(8) AND type = 'untold'");
    assert_eq!(rows, 1);
}
