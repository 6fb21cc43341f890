//! Attempts that take the server down each time: they are set aside, and hold up nothing else.

use process::{HANDFUL, Server, figure, poll_until};

/// A function that every caller dies of: it takes a number for an address.
const DEADLY: &str =
    "CREATE FUNCTION public.die(bigint) RETURNS integer LANGUAGE internal AS 'byteaoctetlen'";

/// A server with a clock of its own and an event log, which the worker has looked at.
fn with_log() -> Server {
    let server = Server::preloaded().clock().start();
    server.set_up("postgres");
    server.look("postgres");
    server.run("postgres", DEADLY);
    server
}

fn crashes(server: &Server) -> usize {
    server.log().matches("was terminated by signal 11").count()
}

/// Lets two hours pass and wakes the worker, until the server has crashed for the `count`th time and is up again.
fn crash(server: &Server, count: usize) {
    server.move_clock(2 * 3600);
    let crashed = poll_until(process::DEADLINE, || {
        // The worker may be about to try by itself: then there is nobody to ask.
        if let Ok(mut session) = server.try_connect("postgres") {
            let _ = session.batch_execute("SELECT meshhook_events.wake_worker()");
        }
        (crashes(server) >= count).then_some(())
    });
    assert!(crashed.is_some(), "no crash\n{}", server.log());
    server.wait_until("the server is up again", |server| {
        server.try_connect("postgres").is_ok_and(|mut session| {
            let launcher =
                "SELECT FROM pg_stat_activity WHERE backend_type = 'pg_meshhook_events launcher'";
            session.query(launcher, &[]).is_ok_and(|rows| !rows.is_empty())
        })
    });
    server.wait_until_idle();
    assert_eq!(crashes(server), count, "{}", server.log());
}

#[test]
fn an_attempt_that_crashes_the_server_each_time_is_set_aside() {
    let mut server = with_log();
    server.plant("postgres", "PERFORM public.die(1);");
    let missing = server.drop_month("postgres", 1);
    crash(&server, 1);
    for count in [2, 3] {
        crash(&server, count);
        // Neither the look at the launcher's start, which was waited for, nor these lead to another.
        server.look("postgres");
        server.restart();
        server.look("postgres");
        server.look("postgres");
        assert_eq!(crashes(&server), count, "{}", server.log());
        assert!(server.attempts("postgres").iter().all(|attempt| attempt.status != "running"));
        let told = "SELECT status FROM verify_workflow_events() WHERE check_name = 'worker'";
        assert_eq!(server.ask::<String>(told), "failed");
    }
    let lines = server.assert_quiet(HANDFUL);
    figure("crash: an attempt that crashes the server, 3 times", "lines in the log", lines);
    // Once it is healed, it goes on by itself.
    server.run("postgres", "DROP INDEX planted");
    server.move_clock_days(2);
    server.look("postgres");
    assert!(server.partitions("postgres").contains(&missing), "{}", server.log());
}

#[test]
fn crashes_of_retirement_do_not_hold_up_creation() {
    let mut server = with_log();
    let old = server.month(-9);
    server.run("postgres", "SELECT create_workflow_events_partition(now() - interval '9 months')");
    server.plant_on_retirement("postgres", &old, "PERFORM public.die(1);");
    server.run("postgres", "UPDATE meshhook_events.policy SET retention = '6 months'");
    for count in [1, 2, 3] {
        crash(&server, count);
        let missing = server.drop_month("postgres", 1);
        server.look("postgres");
        assert!(server.partitions("postgres").contains(&missing), "{count}\n{}", server.log());
        let missing = server.drop_month("postgres", 2);
        server.restart();
        server.wait_for_partition("postgres", &missing);
        server.wait_until_idle();
        // One that may have been a stop is tried again soon.
        assert!(count == 1 || crashes(&server) == count, "{count}\n{}", server.log());
    }
    // What was made is told, six times.
    let lines = server.assert_quiet(6 + HANDFUL);
    figure("crash: retirement crashes the server, 3 times", "lines in the log", lines);
    let rows = format!("SELECT count(*) FROM {old}");
    assert_eq!(server.ask::<i64>(&rows), 0);
}
