//! Users do things between the worker's steps. What they have detached, renamed or made anew is theirs and is kept; and where
//! nobody can tell whose it is, it is kept too, and the plan says so.

use std::thread;

use process::Server;

use crate::stage::*;

const TURN: &str = "LOCK TABLE ONLY workflow_events IN SHARE UPDATE EXCLUSIVE MODE";

/// The types of the events in a table.
fn events(server: &Server, table: &str) -> Vec<String> {
    server.all(DATABASE, &format!("SELECT type FROM {table}"))
}

/// What the plan keeps.
fn kept(server: &Server) -> Vec<String> {
    let kept =
        "SELECT partition_name FROM plan_workflow_events_maintenance() WHERE action = 'keep'";
    server.all(DATABASE, kept)
}

/// The states of what the worker has noted.
fn notes(server: &Server) -> Vec<String> {
    server.all(DATABASE, "SELECT state FROM meshhook_events.retired_partition")
}

/// How the last attempt to retire ended.
fn retirement(server: &Server) -> (String, String) {
    let last = "SELECT status || ' ' || coalesce(message, '') FROM meshhook_events.maintenance_log \
                WHERE origin = 'worker' AND task = 'retire' ORDER BY id DESC LIMIT 1";
    let last: String = server.ask_in(DATABASE, last);
    let (status, message) = last.split_once(' ').unwrap();
    (status.to_owned(), message.to_owned())
}

/// The old partition is a table with its event, which the worker keeps however often it looks, and says so. When the
/// user has said that it is his, nothing more is said.
fn is_kept_in_doubt(server: &Server, table: &str) {
    let noted: String =
        server.ask_in(DATABASE, "SELECT partition_name FROM meshhook_events.retired_partition");
    for _ in 0..2 {
        server.look(DATABASE);
        assert_eq!(events(server, table), ["old"]);
        assert_eq!(kept(server).join(", "), noted);
        let (status, message) = retirement(server);
        assert_eq!(status, "warning", "{message}");
        assert!(message.contains(&noted) && message.contains("somebody else"), "{message}");
    }
    server.run(DATABASE, "DELETE FROM meshhook_events.retired_partition");
    server.look(DATABASE);
    assert_eq!((kept(server), retirement(server).0), (vec![], "ok".to_owned()));
    assert_eq!(events(server, table), ["old"]);
}

/// The old partition is a table with its event, which the worker keeps without a word.
fn is_kept(server: &Server, table: &str) {
    for _ in 0..2 {
        server.look(DATABASE);
        assert_eq!(events(server, table), ["old"]);
        assert!(!server.partitions(DATABASE).contains(&old(server)));
        assert_eq!((kept(server), notes(server)), (vec![], vec![]));
    }
}

#[test]
fn a_partition_that_a_user_detaches_while_the_worker_is_about_to_is_kept() {
    let server = server();
    let old = old(&server);
    let (mut user, worker) = make_worker_wait(&server, with_old_partition, |_| TURN.to_owned());
    wait_for_wait(&server, worker, "workflow_events ShareUpdateExclusiveLock");
    assert_eq!(activity(&server, worker), format!("detaching partition {old}"));
    // When the worker has given up, it looks what has come of it: not before the user is done.
    let mut delay = server.connect(DATABASE);
    let policy = "BEGIN; LOCK TABLE meshhook_events.policy IN ACCESS EXCLUSIVE MODE";
    delay.batch_execute(policy).unwrap();
    let detach = format!(
        "SET LOCAL deadlock_timeout = '1min'; ALTER TABLE workflow_events DETACH PARTITION {old}; COMMIT"
    );
    let user = thread::spawn(move || user.batch_execute(&detach));
    server.wait_until("the user waits for the worker", |server| {
        let waits = format!(
            "SELECT true FROM pg_locks WHERE relation = '{old}'::regclass AND NOT granted AND pid <> {worker}"
        );
        server.all::<bool>(DATABASE, &waits).pop().is_some()
    });
    assert!(server.ask::<bool>(&format!("SELECT pg_cancel_backend({worker})")));
    user.join().unwrap().unwrap();
    wait_for_wait(&server, worker, "meshhook_events.policy AccessShareLock");
    assert_eq!(activity(&server, worker), "looking what has come of it");
    delay.batch_execute("COMMIT").unwrap();
    server.wait_until_idle();
    assert_eq!(retirement(&server).0, "warning");
    let attempt = server.attempts_at(DATABASE, "retire").remove(0);
    assert!(!attempt.details.contains("\"detached\""), "{attempt:?}");
    is_kept(&server, &old);
}

#[test]
fn a_detach_of_the_worker_that_a_user_completes_is_kept() {
    let server = server();
    let old = old(&server);
    let hold = |_: &Server| "LOCK TABLE ONLY workflow_events IN ACCESS SHARE MODE".to_owned();
    let (mut reader, worker) = make_worker_wait(&server, with_old_partition, hold);
    wait_for_wait(&server, worker, "virtualxid ShareLock");
    assert!(server.ask::<bool>(&format!("SELECT pg_terminate_backend({worker})")));
    server.wait_until("it is gone", |server| server.workers(Some(DATABASE)).is_empty());
    reader.batch_execute("COMMIT").unwrap();
    let finalize = format!("ALTER TABLE workflow_events DETACH PARTITION {old} FINALIZE");
    server.run(DATABASE, &finalize);
    server.look(DATABASE);
    forget_crashes(&server);
    is_kept_in_doubt(&server, &old);
}

#[test]
fn a_table_that_was_detached_just_before_a_crash_is_kept() {
    let server = server();
    let old = old(&server);
    let hold = |_: &Server| format!("LOCK TABLE {old} IN ACCESS SHARE MODE");
    let (mut reader, worker) = make_worker_wait(&server, with_old_partition, hold);
    wait_for_wait(&server, worker, &format!("{old} AccessExclusiveLock"));
    let mut delay = server.connect(DATABASE);
    let notes_table = "BEGIN; LOCK TABLE meshhook_events.retired_partition IN SHARE MODE";
    delay.batch_execute(notes_table).unwrap();
    reader.batch_execute("COMMIT").unwrap();
    wait_for_wait(&server, worker, "meshhook_events.retired_partition RowExclusiveLock");
    assert_eq!(activity(&server, worker), "looking what has come of it");
    crash(&server, worker);
    server.look(DATABASE);
    forget_crashes(&server);
    is_kept_in_doubt(&server, &old);
}

#[test]
fn a_detach_that_a_user_has_begun_is_completed_and_the_table_stays() {
    let server = server();
    with_pending_detach(&server);
    server.look(DATABASE);
    assert_eq!(retirement(&server), ("ok".to_owned(), String::new()));
    is_kept(&server, &old(&server));
}

#[test]
fn a_detach_that_was_not_begun_is_not_noted_and_tried_again() {
    let server = server();
    let old = old(&server);
    let hold = |_: &Server| format!("LOCK TABLE {old} IN SHARE UPDATE EXCLUSIVE MODE");
    let (mut holder, worker) = make_worker_wait(&server, with_old_partition, hold);
    wait_for_wait(&server, worker, &format!("{old} ShareUpdateExclusiveLock"));
    assert!(server.ask::<bool>(&format!("SELECT pg_cancel_backend({worker})")));
    server.wait_until("it is gone", |server| server.workers(Some(DATABASE)).is_empty());
    assert_eq!(notes(&server), Vec::<String>::new());
    assert!(server.partitions(DATABASE).contains(&old));
    assert!(!server.log().contains("own a lock"), "{}", server.log());
    holder.batch_execute("COMMIT").unwrap();
    // Nobody wakes the worker, and the next scheduled time is years away.
    server.wait_until("the old partition is gone", |server| ailments(server).is_empty());
}

#[test]
fn a_detach_that_a_user_begins_after_a_crash_of_the_worker_is_the_users() {
    let server = server();
    let old = old(&server);
    let hold = |_: &Server| format!("LOCK TABLE {old} IN SHARE UPDATE EXCLUSIVE MODE");
    let (_holder, worker) = make_worker_wait(&server, with_old_partition, hold);
    wait_for_wait(&server, worker, &format!("{old} ShareUpdateExclusiveLock"));
    crash(&server, worker);
    // It does not try again at once, but nothing is noted any more.
    server.run(DATABASE, "UPDATE meshhook_events.policy SET retention = '24 months'");
    server.look(DATABASE);
    assert_eq!((retirement(&server).0.as_str(), notes(&server)), ("crashed", vec![]));
    with_pending_detach(&server);
    heal_but(&server, &[format!("{old} is there"), old.clone()]);
    assert_eq!(events(&server, &old), ["old"]);
}

#[test]
fn a_detached_table_that_a_user_renames_is_kept() {
    let server = server();
    with_detached_table(&server);
    server.run(DATABASE, &format!("ALTER TABLE {} RENAME TO archive", old(&server)));
    is_kept_in_doubt(&server, "archive");
}

#[test]
fn a_detached_table_that_a_user_moves_is_kept() {
    let server = server();
    with_detached_table(&server);
    let old = old(&server);
    server.run(DATABASE, &format!("CREATE SCHEMA mine; ALTER TABLE {old} SET SCHEMA mine"));
    is_kept_in_doubt(&server, &format!("mine.{old}"));
}

#[test]
fn a_detached_table_that_a_user_gives_away_is_kept() {
    let server = server();
    with_detached_table(&server);
    let old = old(&server);
    server.run(DATABASE, &format!("CREATE ROLE archivist; ALTER TABLE {old} OWNER TO archivist"));
    is_kept_in_doubt(&server, &old);
}

/// A user does something to the detached table while the worker waits for the runs, to drop it.
fn while_it_waits_to_drop(server: &Server, what: &str) {
    let old = old(server);
    let hold = |_: &Server| "LOCK TABLE workflow_runs IN ACCESS SHARE MODE".to_owned();
    let (mut reader, worker) = make_worker_wait(server, with_detached_table, hold);
    wait_for_wait(server, worker, "workflow_runs AccessExclusiveLock");
    assert_eq!(activity(server, worker), format!("dropping table {old}"));
    server.run(DATABASE, &what.replace("OLD", &old));
    reader.batch_execute("COMMIT").unwrap();
    server.wait_until_idle();
    assert_eq!(retirement(server).0, "warning");
}

#[test]
fn a_table_that_a_user_renames_while_the_worker_waits_to_drop_it_is_kept() {
    let server = server();
    while_it_waits_to_drop(&server, "ALTER TABLE OLD RENAME TO archive");
    assert_eq!(notes(&server), ["detached"]);
    is_kept_in_doubt(&server, "archive");
}

#[test]
fn a_table_that_a_user_moves_while_the_worker_waits_to_drop_it_is_kept() {
    let server = server();
    while_it_waits_to_drop(&server, "CREATE SCHEMA mine; ALTER TABLE OLD SET SCHEMA mine");
    is_kept_in_doubt(&server, &format!("mine.{}", old(&server)));
}

#[test]
fn a_table_that_a_user_gives_away_while_the_worker_waits_to_drop_it_is_kept() {
    let server = server();
    while_it_waits_to_drop(&server, "CREATE ROLE archivist; ALTER TABLE OLD OWNER TO archivist");
    is_kept_in_doubt(&server, &old(&server));
}

#[test]
fn a_table_that_a_user_attaches_again_while_the_worker_waits_to_drop_it_is_kept() {
    let server = server();
    server.run(DATABASE, "CREATE TABLE archive (LIKE workflow_events) PARTITION BY RANGE (ts)");
    let attach =
        "ALTER TABLE archive ATTACH PARTITION OLD FOR VALUES FROM (MINVALUE) TO (MAXVALUE)";
    while_it_waits_to_drop(&server, attach);
    // It is somebody else's partition, and nothing is left to say.
    is_kept(&server, "archive");
}

#[test]
fn a_table_that_takes_the_name_while_the_worker_waits_to_drop_it_is_kept() {
    let server = server();
    let anew = "ALTER TABLE OLD RENAME TO archive; CREATE TABLE OLD AS SELECT type FROM archive";
    while_it_waits_to_drop(&server, anew);
    assert_eq!(events(&server, &old(&server)), ["old"]);
    is_kept_in_doubt(&server, "archive");
    assert_eq!(events(&server, &old(&server)), ["old"]);
}
