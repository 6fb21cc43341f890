//! Several who call at once: the work is done once, whoever does it, and who is not needed is told so.

use std::sync::Arc;

use postgres::error::DbError;
use process::{Call, Form, MIGRATE, Server, UNDO};

use crate::phases::Phase;
use crate::stage::*;

fn other(call: &str) -> &'static str {
    if call == MIGRATE { UNDO } else { MIGRATE }
}

/// What a call was told: an error, or notices.
fn told(call: Call) -> String {
    let notices = Arc::clone(&call.notices);
    let text = |error: &DbError| format!("{}: {}", error.code().code(), error.message());
    match call.end() {
        Err(error) => text(&error.expect("it was not cut")),
        Ok(()) => notices.lock().expect("nobody panics with it").iter().map(text).collect(),
    }
}

/// Whoever calls while another session is at it is told so, whichever way he wants it, and is in nobody's way.
#[test]
fn a_second_caller_is_told_that_another_is_at_it() {
    let stage = Stage::new(Form::Current);
    for call in [MIGRATE, UNDO] {
        for phase in Phase::ALL {
            let case = format!("{phase:?} of {call}");
            let (first, holder) = phase.reach(&stage, call);
            for second in [call, other(call)] {
                let told = told(stage.begin("", second));
                let is_right = told.starts_with("55006: another session is at work");
                assert!(is_right, "{case}, {second}: {told}\n{}", stage.server.log());
            }
            let_go(holder);
            let answer = first.end();
            assert!(answer.is_ok(), "{case}: {answer:?}\n{}", stage.server.log());
            assert_eq!(stage.is_partitioned(), call == MIGRATE, "{case}");
            stage.assert_same_rows();
            stage.call(other(call));
        }
        stage.call(call);
    }
    stage.assert_is_plain();
    stage.assert_sequence_goes_on();
}

/// What was stopped in a phase can be wanted back then.
#[test]
fn what_was_stopped_is_turned_round() {
    let stage = Stage::new(Form::Current);
    for call in [MIGRATE, UNDO] {
        for phase in Phase::ALL {
            let case = format!("{phase:?} of {call}");
            let (first, holder) = phase.reach(&stage, call);
            stage.server.run(DATABASE, &format!("SELECT pg_cancel_backend({})", first.pid));
            first.end().expect_err("it was cancelled");
            let_go(holder);
            if phase == Phase::CleaningUp {
                // It is too late: it has to end first.
                let told = told(stage.begin("", other(call)));
                assert!(
                    told.starts_with("55000") && told.contains("about to end"),
                    "{case}: {told}"
                );
                stage.call(call);
            }
            stage.call(other(call));
            assert_eq!(stage.is_partitioned(), call == UNDO, "{case}");
            let left = stage.server.migration_leftovers(DATABASE);
            assert_eq!(left, Vec::<String>::new(), "{case}");
            stage.assert_same_rows();
        }
        stage.call(call);
    }
    stage.assert_is_plain();
    stage.assert_sequence_goes_on();
}

#[test]
fn of_those_who_call_at_once_one_does_it() {
    let stage = Stage::new(Form::Current);
    for call in [MIGRATE, UNDO, MIGRATE, UNDO] {
        let calls: Vec<Call> = (0..3).map(|_| stage.begin("", call)).collect();
        let answers: Vec<_> = calls.into_iter().map(told).collect();
        assert!(
            answers.iter().any(String::is_empty),
            "{call}: {answers:?}\n{}",
            stage.server.log()
        );
        // Who comes when it is done finds nothing to do.
        let is_known =
            |answer: &String| ["", "55006", "42809"].iter().any(|code| answer.starts_with(code));
        assert!(answers.iter().all(is_known), "{call}: {answers:?}\n{}", stage.server.log());
        assert_eq!(stage.is_partitioned(), call == MIGRATE);
        stage.assert_same_rows();
    }
    stage.assert_is_plain();
}

/// A session and the worker at once.
#[test]
fn a_session_beside_the_worker() {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.migration_batch_rows", "100")
        .conf("pg_meshhook_events.migration_rows_per_second", "1500");
    let stage = Stage::of(Form::Older, server);
    for (call, name) in
        [(MIGRATE, "migrate_workflow_events"), (UNDO, "undo_workflow_events_migration")]
    {
        let in_background = format!("CALL {name}(in_background => true)");
        stage.call(&in_background);
        stage.server.wait_for_phase(DATABASE, "copying");
        let here = told(stage.begin("", call));
        assert!(here.is_empty() || here.starts_with("55006"), "{here}");
        // Asked for again, it says that it is under way.
        if !stage.server.migration(DATABASE).is_some_and(|progress| progress.is_over) {
            let again = told(stage.begin("", &in_background));
            assert!(again.starts_with("00000"), "{again}");
        }
        let progress = stage.server.wait_for_migration(DATABASE);
        assert_eq!(progress.phase, "done", "{progress:?}\n{}", stage.server.log());
        assert_eq!(stage.is_partitioned(), call == MIGRATE);
        stage.assert_same_rows();
    }
    stage.assert_is_plain();
}
