//! The table is altered while it is migrated, by hands that know nothing of that: what becomes of it is what was wanted, with
//! all rows, or the migration says why it can't go on.

use process::{Form, MIGRATE, OWNER, UNDO};

use crate::phases::Phase;
use crate::stage::*;

/// An alteration; and what of the definition must be there in the end, or must not where it begins with `!`.
const ALTERATIONS: [(&str, &str); 10] = [
    (
        "ALTER TABLE workflow_events ADD COLUMN note text DEFAULT 'new'",
        "note text default 'new'::text",
    ),
    ("ALTER TABLE workflow_events DROP COLUMN note", "! note text"),
    (
        "ALTER TABLE workflow_events ADD COLUMN size int GENERATED ALWAYS AS (length(type)) STORED",
        "size integer default length(type) s",
    ),
    ("ALTER TABLE workflow_events DROP COLUMN size", "! size integer"),
    ("CREATE INDEX by_day ON workflow_events (type, ts)", "index CREATE INDEX by_day ON"),
    ("DROP INDEX by_day", "!by_day"),
    (
        "CREATE POLICY more ON workflow_events FOR SELECT TO reporter USING (true)",
        "policy more t {reporter}",
    ),
    ("DROP POLICY more ON workflow_events", "!policy more"),
    ("COMMENT ON TABLE workflow_events IS 'altered'", "comment altered"),
    (
        "COMMENT ON TABLE workflow_events IS 'what has happened, ''append-only'''",
        "comment what has happened",
    ),
];

fn assert_holds(stage: &Stage, wanted: &str, case: &str) {
    let definition = stage.definition();
    let (text, is_there) = match wanted.strip_prefix('!') {
        Some(text) => (text, false),
        None => (wanted, true),
    };
    assert_eq!(
        definition.iter().any(|line| line.contains(text)),
        is_there,
        "{case}: {definition:#?}"
    );
}

#[test]
fn what_is_altered_before_the_switch_is_so_afterwards() {
    let stage = Stage::new(Form::Current);
    for (number, (alteration, wanted)) in ALTERATIONS.iter().enumerate() {
        // Each alteration in another phase, and half of them on the way back.
        let call = if number % 2 == 0 { MIGRATE } else { UNDO };
        let phase = [Phase::Copying, Phase::Analyzing, Phase::CatchingUp][number / 2 % 3];
        let case = format!("{alteration} in {phase:?} of {call}");
        let (under_way, holder) = phase.reach(&stage, call);
        let alter = format!("SET ROLE {OWNER}; SET lock_timeout = '20s'; {alteration}");
        if phase == Phase::Analyzing {
            // What holds this phase is in the way of some of them.
            let_go(holder);
            stage.server.script(DATABASE, &alter);
        } else {
            stage.server.script(DATABASE, &alter);
            let_go(holder);
        }
        let answer = under_way.end();
        assert!(answer.is_ok(), "{case}: {answer:?}\n{}", stage.server.log());
        assert_eq!(stage.is_partitioned(), call == MIGRATE, "{case}");
        assert_holds(&stage, wanted, &case);
        let left = stage.server.migration_leftovers(DATABASE);
        assert_eq!(left, Vec::<String>::new(), "{case}");
        let ids: String =
            stage.server.ask("SELECT count(*) || ' ' || sum(id) FROM workflow_events");
        let expected = stage.rows.split(' ').next().expect("it begins with the number of rows");
        assert!(ids.starts_with(expected), "{case}: {ids}");
    }
}

/// Everything at once goes.
#[test]
fn a_table_that_is_emptied_is_empty_afterwards() {
    let stage = Stage::new(Form::Older);
    let insert = "INSERT INTO workflow_events (run_id, type, payload) SELECT t.run(1), 'untold', to_jsonb(n) \
                  FROM generate_series(1, 30) n";
    for call in [MIGRATE, UNDO] {
        for phase in [Phase::Copying, Phase::CatchingUp, Phase::Switching] {
            let (under_way, holder) = phase.reach(&stage, call);
            let_go(holder);
            stage.server.run(DATABASE, &format!("TRUNCATE workflow_events; {insert}"));
            let rows = stage.server.rows_of(DATABASE, "workflow_events");
            let answer = under_way.end();
            assert!(answer.is_ok(), "{phase:?} of {call}: {answer:?}\n{}", stage.server.log());
            let found = stage.server.rows_of(DATABASE, "workflow_events");
            assert_eq!(found, rows, "{phase:?} of {call}");
            assert!(found.starts_with("30 rows"), "{found}");
            stage.call(if call == MIGRATE { UNDO } else { MIGRATE });
            // For the next there is more to copy.
            stage.server.run(
                DATABASE,
                "INSERT INTO workflow_events (run_id, ts, type, payload) \
                 SELECT t.run(2), t.start(0) + n * interval '1 second', 'untold', to_jsonb(n) FROM generate_series(1, 3000) n; \
                 INSERT INTO workflow_events (run_id, ts, type, payload) VALUES (t.run(2), t.start(-2), 'untold', '1')",
            );
        }
        stage.call(call);
    }
    stage.assert_is_plain();
}

/// Whoever drops the table has nothing left to migrate.
#[test]
fn a_table_that_is_dropped_stays_dropped() {
    let stage = Stage::new(Form::Current);
    let (under_way, holder) = Phase::Copying.reach(&stage, MIGRATE);
    stage.server.run(DATABASE, "DROP TABLE workflow_events CASCADE");
    let_go(holder);
    // Where the step that was under way finds that, the error is the server's.
    under_way.end().expect_err("there is nothing to copy").expect("the server says so");
    // What was built beside it is cleared away; then there is nothing to migrate.
    stage.call(UNDO);
    for call in [MIGRATE, UNDO] {
        let error = stage.error_of(call);
        assert_eq!(error.code().code(), "42P01", "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
    }
    let left: Vec<String> = stage.server.all(
        DATABASE,
        "SELECT relname::text FROM pg_class WHERE relname LIKE 'workflow\\_events\\_%' AND relkind IN ('r', 'p')",
    );
    assert_eq!(left, Vec::<String>::new());
    // A new one is made as everywhere.
    stage.server.run(DATABASE, "SELECT setup_workflow_events()");
    assert!(stage.is_partitioned());
}

/// Writers that fire no ordinary triggers, as logical replication does, are noted too.
#[test]
fn changes_by_who_turns_triggers_off_come_along() {
    let stage = Stage::new(Form::Current);
    let changes = "SET session_replication_role = replica; \
                   UPDATE workflow_events SET payload = to_jsonb(id) WHERE run_id = t.run(1); \
                   DELETE FROM workflow_events WHERE run_id = t.run(2) AND ts > t.start(0); \
                   INSERT INTO workflow_events (run_id, ts, type, payload) SELECT t.run(3), t.start(-1), 'untold', to_jsonb(n) \
                   FROM generate_series(1, 20) n";
    for call in [MIGRATE, UNDO] {
        for phase in [Phase::Copying, Phase::Switching, Phase::CleaningUp] {
            let (under_way, holder) = phase.reach(&stage, call);
            stage.server.run(DATABASE, changes);
            let rows = stage.server.rows_of(DATABASE, "workflow_events");
            let_go(holder);
            let answer = under_way.end();
            assert!(answer.is_ok(), "{phase:?} of {call}: {answer:?}\n{}", stage.server.log());
            assert_eq!(
                stage.server.rows_of(DATABASE, "workflow_events"),
                rows,
                "{phase:?} of {call}"
            );
            stage.call(if call == MIGRATE { UNDO } else { MIGRATE });
        }
        stage.call(call);
    }
    stage.assert_is_plain();
}

/// Users have the same privileges on the copy as on the table: what they do to it does not stay.
#[test]
fn what_users_do_to_the_copy_does_not_stay() {
    let stage = Stage::new(Form::Current);
    let deeds = [
        "DELETE FROM workflow_events_shadow WHERE run_id = t.run(1)",
        "UPDATE workflow_events_shadow SET payload = '0' WHERE run_id = t.run(3)",
        "UPDATE workflow_events_shadow SET ts = ts + interval '1 second' WHERE run_id = t.run(5)",
        "UPDATE workflow_events_shadow SET ts = CASE WHEN ts < t.start(0) THEN t.start(0) ELSE t.start(-1) END \
         WHERE id IN (SELECT id FROM workflow_events_shadow WHERE run_id = t.run(7) ORDER BY id LIMIT 50)",
        "INSERT INTO workflow_events_shadow (id, run_id, ts, type, payload) \
         VALUES (99999, t.run(1), t.start(-14), 'untold', '1')",
        "TRUNCATE workflow_events_shadow",
    ];
    for deed in deeds {
        for call in [MIGRATE, UNDO] {
            let (under_way, holder) = Phase::Switching.reach(&stage, call);
            // The owner of the tables may do all of that.
            let deed = format!("SET ROLE {OWNER}; SET lock_timeout = '20s'; {deed}");
            stage.server.script(DATABASE, &deed);
            let_go(holder);
            let answer = under_way.end();
            assert!(answer.is_ok(), "{deed}, {call}: {answer:?}\n{}", stage.server.log());
            stage.assert_same_rows();
        }
        stage.assert_is_plain();
    }
}
