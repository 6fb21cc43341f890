//! Calls that can't be, that find something on their way, or that find nothing to do.

use std::sync::Arc;

use process::{Form, MIGRATE, OWNER, Server, UNDO};

use crate::refusals::{Case, case, state};
use crate::stage::*;

/// What is found on the way: the table is as it was, and when it is mended the next call goes on.
const ON_THE_WAY: [Case; 2] = [
    case(
        "UPDATE workflow_events SET ts = 'infinity' WHERE id = 5",
        "UPDATE workflow_events SET ts = t.start(0) WHERE ts = 'infinity'",
        "55000",
        "event 5",
    ),
    case(
        "UPDATE workflow_events SET ts = '-infinity' WHERE id = 5",
        "UPDATE workflow_events SET ts = t.start(0) WHERE ts = '-infinity'",
        "55000",
        "event 5",
    ),
];

#[test]
fn what_is_found_on_the_way() {
    let stage = Stage::new(Form::Current);
    for goes_on in [true, false] {
        for case in &ON_THE_WAY {
            let run =
                |sql: &str| stage.server.script(DATABASE, &format!("SET ROLE {OWNER}; {sql}"));
            run(case.arrange);
            let rows = stage.server.rows_of(DATABASE, "workflow_events");
            for again in [false, true] {
                let error = stage.error_of(MIGRATE);
                assert_eq!(
                    error.code().code(),
                    case.sqlstate,
                    "{}, again: {again}: {error:?}",
                    case.arrange
                );
                assert!(error.message().contains(case.named), "{}: {error:?}", case.arrange);
                assert!(error.hint().is_some(), "{}: {error:?}", case.arrange);
                let progress = stage.server.migration(DATABASE).expect("it is under way");
                assert_eq!(progress.message.as_deref(), Some(error.message()), "{progress:?}");
                assert_eq!(progress.hint.as_deref(), error.hint(), "{progress:?}");
            }
            assert!(!stage.is_partitioned());
            assert_eq!(stage.server.rows_of(DATABASE, "workflow_events"), rows);
            if goes_on {
                run(case.clean);
                stage.migrate();
                stage.undo();
            } else {
                stage.call(UNDO);
                run(case.clean);
                stage.assert_is_plain();
            }
        }
    }
}

/// Who calls, and how.
#[test]
fn calls_that_can_not_be() {
    let stage = Stage::new(Form::Current);
    let server = &stage.server;
    server.run(
        DATABASE,
        "GRANT EXECUTE ON PROCEDURE migrate_workflow_events, undo_workflow_events_migration TO reporter",
    );
    for call in [MIGRATE, UNDO] {
        let before = state(&stage);
        // Who may not call, and who may but does not own the table.
        for role in ["reader", "reporter"] {
            assert_eq!(error_as(server, role, call), "42501", "{call}");
        }
        // In somebody's transaction nothing can be committed on the way.
        for block in ["BEGIN; CALL;", "DO $$ BEGIN CALL; END $$; SELECT 1"] {
            let in_block = error_as(server, OWNER, &block.replace("CALL", call));
            assert!(["2D000", "25001"].contains(&in_block.as_str()), "{block}, {call}: {in_block}");
        }
        let error = stage.error_of(&call.replace("false", "true"));
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
        assert_eq!(state(&stage), before, "{call}");
        // Where nobody says where, it goes here, because there is no worker.
        stage.call(&call.replace("in_background => false", ""));
        assert_eq!(stage.is_partitioned(), call == MIGRATE);
    }
    stage.assert_is_plain();
}

/// The SQLSTATE of what a role gets for a call; nothing where it succeeds.
fn error_as(server: &Server, role: &str, call: &str) -> String {
    match server.call(DATABASE, role, "", call).end() {
        Err(Some(error)) => error.code().code().to_owned(),
        Err(None) => panic!("{call}: the connection was cut\n{}", server.log()),
        Ok(()) => String::new(),
    }
}

/// What is done already is no error, or one that says so; and nothing changes.
#[test]
fn what_is_done_already() {
    let stage = Stage::new(Form::Current);
    let before = stage.definition();
    let plain = stage.begin("", UNDO);
    let told = Arc::clone(&plain.notices);
    match plain.end() {
        Ok(()) => assert!(!told.lock().expect("nobody panics with it").is_empty()),
        Err(error) => assert_eq!(error.expect("it was not cut").code().code(), "42809"),
    }
    assert_eq!(stage.definition(), before);
    stage.migrate();
    let before = stage.definition();
    let partitioned = stage.begin("", MIGRATE);
    let told = Arc::clone(&partitioned.notices);
    match partitioned.end() {
        Ok(()) => assert!(!told.lock().expect("nobody panics with it").is_empty()),
        Err(error) => assert_eq!(error.expect("it was not cut").code().code(), "42809"),
    }
    assert_eq!(stage.definition(), before);
    stage.assert_same_rows();
}

/// A plain table is named where partitions are wanted, with the way to get them; and the plan lists the way.
#[test]
fn setup_and_plan_say_how() {
    let stage = Stage::new(Form::Current);
    let error = stage.error_of("SELECT setup_workflow_events()");
    assert_eq!(error.code().code(), "42501", "{error:?}");
    let error = stage.server.connect(DATABASE).batch_execute("SELECT setup_workflow_events()");
    let error = error.expect_err("it is plain").as_db_error().cloned().expect("the server says so");
    assert_eq!(error.code().code(), "42809", "{error:?}");
    assert!(
        error.hint().is_some_and(|hint| hint.contains("migrate_workflow_events()")),
        "{error:?}"
    );
    let plan = "SELECT concat_ws('; ', step, action, reason, locks::text) FROM plan_workflow_events_maintenance() ORDER BY step";
    let plan: Vec<String> = stage.server.all(DATABASE, plan);
    assert!(plan.len() > 2 && plan.iter().all(|line| line.contains("migrate")), "{plan:#?}");
    let all = plan.join("\n");
    for word in ["ACCESS EXCLUSIVE", "SHARE ROW EXCLUSIVE", "B"] {
        assert!(all.contains(word), "no {word}: {all}");
    }
}
