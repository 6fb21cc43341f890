//! Retention beside others who work: whoever comes first wins and the other says so; no row is lost, and no client ends with
//! an error because of maintenance.

use std::thread::{self, JoinHandle};

use postgres::{Client, NoTls};
use process::Server;

const DROP: &str = "SELECT drop_old_workflow_events_partitions()";

/// How a session begins: with a snapshot for each statement, or with one that is older than what it waits for.
const ISOLATIONS: [&str; 2] =
    ["", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_inherits"];

/// A server with the worker off, a retention of a year, and a month with an event of a run that has finished, whose name is
/// given.
fn server(is_patient: bool) -> (Server, String) {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("pg_meshhook_events.lock_timeout", if is_patient { "10s" } else { "100ms" })
        // What waits for maintenance waits: no client is ended because the machine is busy.
        .conf("deadlock_timeout", if is_patient { "60s" } else { "1s" })
        .conf("autovacuum", "off")
        .start();
    server.set_up_months("postgres");
    server.run(
        "postgres",
        "UPDATE meshhook_events.policy SET retention = '12 months'; SELECT t.add(-21, 1), t.finish(1)",
    );
    let old = server.month(-21);
    (server, old)
}

/// The same with that month parked by the function, for a day.
fn with_parked(is_patient: bool) -> (Server, String) {
    let (server, old) = server(is_patient);
    server.run("postgres", "SELECT drop_old_workflow_events_partitions(grace => '1 day')");
    assert_eq!(server.place_of("postgres", &old), "parked");
    (server, old)
}

const AGE: &str =
    "UPDATE meshhook_events.retired_partition SET detached_at = detached_at - interval '30 days'";

/// A session with an open transaction that has done this.
fn open(server: &Server, sql: &str) -> Client {
    let mut session = server.connect("postgres");
    session
        .batch_execute(&format!("BEGIN; {sql}"))
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    session
}

fn end(mut session: Client, how: &str) {
    session.batch_execute(how).unwrap();
}

/// What a call gave: the rows' first column, or the SQLSTATE and the message.
type Answer = Result<Vec<String>, (String, String)>;

fn ask(client: &mut Client, sql: &str) -> Answer {
    match client.query(sql, &[]) {
        Ok(rows) => Ok(rows.iter().map(|row| row.try_get(0).unwrap_or_default()).collect()),
        Err(error) => {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone();
            Err((error.code().code().to_owned(), error.message().to_owned()))
        }
    }
}

/// A call in a session of its own, which has been seen to wait for a lock.
fn waiting(server: &Server, before: &str, sql: &str) -> JoinHandle<Answer> {
    let mut client = Client::connect(&server.conninfo("postgres", "postgres"), NoTls).unwrap();
    client.batch_execute(before).unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let sql = sql.to_owned();
    let call = thread::spawn(move || {
        let answer = ask(&mut client, &sql);
        client.batch_execute("COMMIT").unwrap();
        answer
    });
    let waits = format!("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)");
    server.wait_until("it waits for a lock", |server| {
        assert!(!call.is_finished(), "it has not waited: {waits}");
        server.ask(&waits)
    });
    call
}

/// Turns the worker on and brings it to wait, with the month to retire, behind a session that has done this.
fn worker_behind(server: &mut Server, sql: &str) -> Client {
    let may_retire = |server: &Server, may: bool| {
        let policy = format!("UPDATE meshhook_events.policy SET automatic_retention = {may}");
        server.run("postgres", &policy);
    };
    // It comes by itself as well, and not before the session has done it.
    may_retire(server, false);
    server.turn_on();
    server.wait_until_idle();
    let (holder, _) = server.make_worker_wait_behind("postgres", |server| {
        may_retire(server, false);
        let holder = open(server, sql);
        may_retire(server, true);
        holder
    });
    holder
}

fn events(server: &Server) -> i64 {
    server.ask("SELECT count(*) FROM workflow_events")
}

/// What makes a run need the month while a drop waits.
const NEEDS: [&str; 3] = [
    "SELECT t.reopen(1)",
    // A late event of a run that goes on.
    "SELECT t.new_run(2), t.event(-21, 2)",
    "UPDATE workflow_runs SET status = 'paused' WHERE id = t.run(1)",
];

#[test]
fn what_a_run_needs_by_the_time_of_the_drop_is_kept_by_the_function() {
    let (server, old) = server(true);
    for isolation in ISOLATIONS {
        for need in NEEDS {
            server.run(
                "postgres",
                "DELETE FROM workflow_runs WHERE id = t.run(2); SELECT t.finish(1)",
            );
            let holder = open(&server, need);
            let call = waiting(&server, isolation, DROP);
            end(holder, "COMMIT");
            assert_eq!(call.join().unwrap(), Ok(vec![]), "{need}, {isolation}");
            assert_eq!(server.place_of("postgres", &old), "attached", "{need}");
        }
    }
    // Nothing has come of it: it goes.
    server.run("postgres", "DELETE FROM workflow_runs WHERE id = t.run(2); SELECT t.finish(1)");
    let holder = open(&server, NEEDS[0]);
    let call = waiting(&server, "", DROP);
    end(holder, "ROLLBACK");
    assert_eq!(call.join().unwrap(), Ok(vec![old]));
}

#[test]
fn what_is_parked_and_needed_by_the_time_of_the_drop_is_kept_by_the_function() {
    let (server, old) = with_parked(true);
    server.run("postgres", AGE);
    for isolation in ISOLATIONS {
        let holder = open(&server, "SELECT t.reopen(1)");
        let call = waiting(&server, isolation, DROP);
        end(holder, "COMMIT");
        assert_eq!(call.join().unwrap(), Ok(vec![]), "{isolation}");
        assert_eq!(server.place_of("postgres", &old), "parked");
        server.run("postgres", "SELECT t.finish(1)");
    }
}

/// The worker detaches first, without a lock that keeps runs as they are; then it brings the month back.
#[test]
fn what_a_run_needs_by_then_is_put_back_by_the_worker() {
    for (is_parked, need) in [(false, NEEDS[0]), (false, NEEDS[1]), (true, NEEDS[0])] {
        let (mut server, old) = if is_parked { with_parked(true) } else { server(true) };
        server.run("postgres", AGE);
        let holder = worker_behind(&mut server, need);
        end(holder, "COMMIT");
        server.wait_until_idle();
        server.look("postgres");
        assert_eq!(server.place_of("postgres", &old), "attached", "{need}\n{}", server.log());
        let run = if need == NEEDS[1] { 2 } else { 1 };
        let replay = format!("SELECT count(*) FROM get_workflow_run_events(t.run({run}))");
        assert_eq!(server.ask::<i64>(&replay), 1, "{need}");
        if need == NEEDS[0] {
            // It was out of sight for a moment, and was put back in the pass that took it out.
            let restored = "SELECT count(*) FROM meshhook_events.maintenance_log \
                            WHERE origin = 'worker' AND details ? 'restored'";
            assert_eq!(server.ask::<i64>(restored), 1, "{need}\n{}", server.log());
        }
        let crashed = "SELECT count(*) FROM meshhook_events.maintenance_log WHERE status IN ('failed', 'crashed')";
        assert_eq!(server.ask::<i64>(crashed), 0, "{}", server.log());
    }
}

#[test]
fn a_hold_and_a_drop_are_one_after_the_other() {
    for is_parked in [false, true] {
        // The hold comes first.
        let (server, old) = if is_parked { with_parked(true) } else { server(true) };
        server.run("postgres", AGE);
        let hold = format!("SELECT hold_workflow_events_partition('{old}', 'a lawsuit')");
        for isolation in ISOLATIONS {
            let holder = open(&server, &hold);
            let call = waiting(&server, isolation, DROP);
            end(holder, "COMMIT");
            assert_eq!(call.join().unwrap(), Ok(vec![]), "{isolation}");
            assert_ne!(server.place_of("postgres", &old), "gone");
            server.run("postgres", &format!("SELECT release_workflow_events_partition('{old}')"));
        }
        // The drop comes first, and is rolled back.
        let dropper = open(&server, DROP);
        let call = waiting(&server, "", &hold);
        end(dropper, "ROLLBACK");
        assert!(call.join().unwrap().is_ok());
        server.run("postgres", &format!("SELECT release_workflow_events_partition('{old}')"));
        // It is committed: there is nothing to hold any more.
        for isolation in ISOLATIONS {
            let dropper = open(&server, DROP);
            let call = waiting(&server, isolation, &hold);
            end(dropper, "COMMIT");
            let (sqlstate, message) = call.join().unwrap().expect_err("it is gone");
            assert!(["42P01", "40001"].contains(&sqlstate.as_str()), "{sqlstate}: {message}");
            assert_eq!(server.place_of("postgres", &old), "gone");
            server.run("postgres", "SELECT t.add(-21, 1), t.finish(1)");
        }
        assert_eq!(server.ask::<i64>("SELECT count(*) FROM meshhook_events.hold"), 0);
    }
}

#[test]
fn a_hold_that_comes_while_the_worker_waits_is_obeyed() {
    for is_parked in [false, true] {
        let (mut server, old) = if is_parked { with_parked(true) } else { server(true) };
        server.run("postgres", AGE);
        let hold = format!("SELECT hold_workflow_events_partition('{old}', 'a lawsuit')");
        let place = server.place_of("postgres", &old);
        let holder = worker_behind(&mut server, &hold);
        end(holder, "COMMIT");
        server.wait_until_idle();
        server.look("postgres");
        assert_eq!(server.place_of("postgres", &old), place, "{}", server.log());
        server.run("postgres", &format!("SELECT release_workflow_events_partition('{old}')"));
        server.look("postgres");
        assert_eq!(server.place_of("postgres", &old), "gone", "{}", server.log());
    }
}

#[test]
fn of_two_retentions_one_waits_for_the_other() {
    let (mut server, first) = server(true);
    server.run("postgres", "SELECT t.add(-20, 1), t.add(-19, 2)");
    let (second, needed) = (server.month(-20), server.month(-19));
    for (ending, dropped) in [("ROLLBACK", vec![first.clone(), second.clone()]), ("COMMIT", vec![])]
    {
        server.run("postgres", "SELECT t.add(-21, 1), t.add(-20, 1), t.finish(1)");
        let one = open(&server, DROP);
        let other = waiting(&server, "", DROP);
        end(one, ending);
        assert_eq!(other.join().unwrap(), Ok(dropped), "{ending}");
    }
    // The same beside the worker.
    server.run("postgres", "SELECT t.add(-21, 1), t.add(-20, 1), t.finish(1)");
    let one = worker_behind(&mut server, DROP);
    end(one, "COMMIT");
    server.wait_until_idle();
    server.look("postgres");
    for name in [&first, &second] {
        assert_eq!(server.place_of("postgres", name), "gone", "{}", server.log());
    }
    assert_eq!(server.place_of("postgres", &needed), "attached");
    assert_eq!(events(&server), 1);
    let failed = "SELECT count(*) FROM meshhook_events.maintenance_log WHERE status IN ('failed', 'crashed')";
    assert_eq!(server.ask::<i64>(failed), 0, "{}", server.log());
}

/// Clients that are in the way: each is at its work when retention comes, and ends it as if there were none.
#[test]
fn a_client_at_work_is_not_disturbed() {
    let replay = "DECLARE replay CURSOR FOR SELECT id FROM get_workflow_run_events(t.run(1))";
    for (begin, go_on, rows, is_kept) in [
        (format!("{replay}; FETCH 1 FROM replay"), "FETCH ALL FROM replay", 2, false),
        ("SELECT t.event(-21, 1)".to_owned(), "SELECT t.event(-20, 1)", 1, false),
        // It has locked the run: its events go last.
        (
            "UPDATE workflow_runs SET status = 'failed' WHERE id = t.run(1)".to_owned(),
            "DELETE FROM workflow_runs WHERE id = t.run(1) RETURNING 1",
            1,
            false,
        ),
        ("DELETE FROM workflow_runs WHERE id = t.run(1)".to_owned(), "SELECT 1", 1, false),
        ("SELECT t.reopen(1)".to_owned(), "SELECT t.event(0, 1)", 1, true),
    ] {
        let (mut server, old) = server(false);
        server.run("postgres", "SELECT t.add(-20, 1), t.add(-21, 1), t.add(-21, 3)");
        server.run("postgres", "SELECT t.finish(1, 3)");
        let mut client = open(&server, &begin);
        let calls = [DROP, "SELECT drop_old_workflow_events_partitions(grace => '1 day')"];
        for call in calls {
            let answer = ask(&mut server.connect("postgres"), call);
            let (sqlstate, message) = answer.expect_err(&begin);
            assert_eq!(sqlstate, "55P03", "{begin}: {message}");
        }
        server.turn_on();
        server.look("postgres");
        // It has looked, and tried or not tried; nothing was taken from under the client.
        assert_eq!(server.place_of("postgres", &old), "attached", "{begin}");
        let went_on = ask(&mut client, go_on);
        assert_eq!(went_on.map(|rows| rows.len()), Ok(rows), "{begin}; {go_on}");
        end(client, "COMMIT");
        let place = if is_kept { "attached" } else { "gone" };
        server.wait_until("retention has had its way", |server| {
            server.look("postgres");
            server.place_of("postgres", &old) == place
        });
        assert_eq!(events(&server), if is_kept { 4 + 1 } else { 0 }, "{begin}");
    }
}

#[test]
fn a_restore_and_a_drop_are_one_after_the_other() {
    let (server, old) = with_parked(true);
    server.run("postgres", AGE);
    let restore = format!("SELECT status FROM restore_workflow_events_partition('{old}')");
    for isolation in ISOLATIONS {
        // The drop is rolled back, and the restore is done.
        let one = open(&server, DROP);
        let other = waiting(&server, "", &restore);
        end(one, "ROLLBACK");
        assert_eq!(other.join().unwrap(), Ok(vec!["restored".to_owned()]));
        assert_eq!((server.place_of("postgres", &old).as_str(), events(&server)), ("attached", 1));
        server.run(
            "postgres",
            &format!(
                "SELECT release_workflow_events_partition('{old}'); \
                 SELECT drop_old_workflow_events_partitions(grace => '1 day'); {AGE}"
            ),
        );
        // The restore comes first: the drop finds it in the log.
        let one = open(&server, &restore);
        let other = waiting(&server, isolation, DROP);
        end(one, "COMMIT");
        let answer = other.join().unwrap();
        assert!(
            answer.as_ref().is_ok_and(|dropped| dropped.is_empty())
                || answer.as_ref().is_err_and(|(sqlstate, _)| sqlstate == "40001"),
            "{isolation}: {answer:?}"
        );
        assert_eq!((server.place_of("postgres", &old).as_str(), events(&server)), ("attached", 1));
        server.run(
            "postgres",
            &format!(
                "SELECT release_workflow_events_partition('{old}'); \
                 SELECT drop_old_workflow_events_partitions(grace => '1 day'); {AGE}"
            ),
        );
    }
    // The drop comes first: there is nothing to put back.
    let one = open(&server, DROP);
    let other = waiting(&server, "", &restore);
    end(one, "COMMIT");
    let (_, message) = other.join().unwrap().expect_err("it is gone");
    assert!(!message.contains("internal"), "{message}");
    assert_eq!(server.place_of("postgres", &old), "gone");
    assert_eq!(server.ask::<i64>("SELECT count(*) FROM meshhook_events.hold"), 0);
}

/// Clients that delete runs whose events lie in months which come and go, and would meet maintenance half-way.
#[test]
fn clients_that_delete_runs_meet_no_error_beside_it() {
    const RUNS: i32 = 40;
    let (mut server, old) = server(false);
    server.run(
        "postgres",
        &format!(
            "SELECT t.add(-20, 0); SELECT t.new_run(n), t.event(-21, n), t.event(-20, n), t.event(0, n), t.finish(n) \
             FROM generate_series(100, 99 + {RUNS}) n; SELECT t.finish(0)"
        ),
    );
    server.turn_on();
    let clients: Vec<_> = (0..2)
        .map(|number| {
            let mut client = server.connect("postgres");
            thread::spawn(move || {
                for run in (100..100 + RUNS).filter(|run| run % 2 == number) {
                    for sql in [
                        "BEGIN".to_owned(),
                        format!("SELECT t.event(0, {run})"),
                        format!(
                            "UPDATE workflow_runs SET status = 'failed' WHERE id = t.run({run})"
                        ),
                        format!("DELETE FROM workflow_runs WHERE id = t.run({run})"),
                        "COMMIT".to_owned(),
                    ] {
                        client
                            .batch_execute(&sql)
                            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                    }
                }
            })
        })
        .collect();
    let mut client = server.connect("postgres");
    let mut done = 0;
    while !clients.iter().all(JoinHandle::is_finished) {
        for call in [
            "SELECT drop_old_workflow_events_partitions(grace => '1 day')".to_owned(),
            format!("SELECT status FROM restore_workflow_events_partition('{old}')"),
            format!("SELECT release_workflow_events_partition('{old}')::text"),
        ] {
            match ask(&mut client, &call) {
                Ok(_) => done += 1,
                // It gives way, or finds it done or undone.
                Err((sqlstate, message)) => assert!(
                    ["55P03", "55000", "42P01", "XX000"].contains(&sqlstate.as_str()),
                    "{call}: {sqlstate} {message}"
                ),
            }
        }
        server.wake("postgres");
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(done > 0, "maintenance has not been there");
    // The worker may be in the middle of a month: what has to hold is what it leaves.
    server.wait_until_idle();
    // What is left is of the run that nobody deleted, and of none that is gone.
    for name in [old, server.month(-20), "workflow_events".to_owned()] {
        if server.place_of("postgres", &name) == "gone" {
            continue;
        }
        let strays = format!(
            "SELECT count(*) FROM {name} WHERE run_id NOT IN (SELECT id FROM workflow_runs)"
        );
        assert_eq!(server.ask::<i64>(&strays), 0, "{name}");
    }
}
