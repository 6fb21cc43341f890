//! What a step leaves behind: nothing but what it was meant to.

use pgrx::PgSqlErrorCode;

use super::{make_bare_log, number, run, text};
use crate::db::query;
use crate::error::Error;
use crate::pg::{identity, subtransaction};

pub fn settings_and_identity_come_back() {
    make_bare_log();
    run("CREATE ROLE log_owner; GRANT CREATE ON SCHEMA public TO log_owner;
         ALTER TABLE workflow_events OWNER TO log_owner;
         SET search_path = public, pg_catalog; SET lock_timeout = '7s'; SET TimeZone = 'Asia/Tokyo';
         SET DateStyle = 'German'");
    let settings = "SELECT string_agg(name || '=' || setting, ';' ORDER BY name) FROM pg_settings";
    let before = (text(settings), text("SELECT current_user::text || session_user::text"));
    let made = number("SELECT count(*) FROM maintain_workflow_events_partitions()");
    assert_eq!(made, 4);
    assert_eq!(before, (text(settings), text("SELECT current_user::text || session_user::text")));
    let others = "SELECT count(*) FROM pg_class WHERE relname LIKE 'workflow\\_events\\_y%' \
                  AND pg_get_userbyid(relowner) <> 'log_owner'";
    assert_eq!(number(others), 0, "what was made belongs to the owner of the log");
}

pub fn the_health_check_fires_triggers_as_the_application_does() {
    run("CREATE TABLE workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
         INSERT INTO workflow_runs DEFAULT VALUES;
         SELECT setup_workflow_events();
         CREATE TABLE seen (run_id uuid);
         -- Names without a schema, as triggers have them.
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO seen VALUES (NEW.run_id); RETURN NEW; END';
         CREATE TRIGGER note AFTER INSERT ON workflow_events FOR EACH ROW EXECUTE FUNCTION note()");
    let ok = "SELECT count(*) FROM verify_workflow_events() \
              WHERE check_name IN ('event_now', 'event_in_30_days') AND status = 'ok'";
    assert_eq!(number(ok), 2);
    assert_eq!(number("SELECT count(*) FROM seen"), 0, "the probes are taken back");
}

pub fn a_failed_step_leaves_nothing() {
    run("CREATE TABLE kept (a int)");
    let role = identity::current_role();
    let failed = subtransaction::run(|| {
        query::execute("INSERT INTO kept VALUES (1)", &[])?;
        identity::run_as(role, || {
            identity::set_lock_timeout(1);
            query::execute("SELECT 1 / 0", &[])
        })
    });
    let Err(Error::Server(failure)) = failed else { panic!("it did not fail") };
    assert_eq!(failure.sqlstate, PgSqlErrorCode::ERRCODE_DIVISION_BY_ZERO);
    assert_eq!(failure.sqlstate_text(), "22012");
    assert_eq!(number("SELECT count(*) FROM kept"), 0);
    assert_eq!(text("SHOW lock_timeout"), "0");
    // The transaction goes on.
    subtransaction::run(|| query::execute("INSERT INTO kept VALUES (2)", &[])).unwrap();
    assert_eq!(number("SELECT count(*) FROM kept"), 1);
    // A panic of Rust code is an error like any other.
    let panicked = subtransaction::run(|| -> crate::error::Result<()> { panic!("on purpose") });
    assert!(matches!(panicked, Err(Error::Server(f)) if f.message.contains("on purpose")));
    assert_eq!(number("SELECT count(*) FROM kept"), 1);
}

pub fn a_trial_leaves_nothing() {
    run("CREATE TABLE tried (a int)");
    let seen = subtransaction::try_out(|| {
        query::execute("INSERT INTO tried VALUES (1)", &[])?;
        query::read_one("SELECT count(*) FROM tried", &[], |row| row.get::<i64>(1))
    });
    assert_eq!(seen.unwrap(), Some(1));
    assert_eq!(number("SELECT count(*) FROM tried"), 0);
    let failed = subtransaction::try_out(|| query::execute("SELECT 1 / 0", &[]));
    assert!(matches!(failed, Err(Error::Server(_))));
}

pub fn a_cancel_is_not_taken_for_a_failure_of_the_step() {
    // The timer is armed by hand: a test runs within one statement of a client.
    let _ = subtransaction::run(|| {
        query::execute(
            "DO $$ BEGIN RAISE EXCEPTION 'canceling statement due to statement timeout' \
             USING ERRCODE = 'query_canceled'; END $$",
            &[],
        )
    });
}
