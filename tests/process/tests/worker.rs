//! The launcher and its workers: when they begin, what they do then, and what can't stop them.

use std::time::Instant;

use process::{HANDFUL, Mode, Server, figure, ms};

/// What the server says to a statement that it refuses: SQLSTATE, message, DETAIL.
fn refusal(server: &Server, sql: &str) -> (String, String, Option<String>) {
    let error = server.connect("postgres").batch_execute(sql);
    let error = error.expect_err(sql);
    let error = error.as_db_error().expect("the server has answered");
    (error.code().code().to_owned(), error.message().to_owned(), error.detail().map(str::to_owned))
}

#[test]
fn what_was_missed_while_the_server_was_down_is_made_at_start() {
    let mut server = Server::with_worker_off();
    let missing = server.drop_month("postgres", 1);
    assert_eq!(server.attempts("postgres"), []);

    server.turn_on_and_restart();
    server.wait_for_partition("postgres", &missing);
    server.wait_until_idle();
    let attempts = server.attempts("postgres");
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    assert_eq!(attempts[0].status, "ok");
    assert!(attempts[0].details.contains(&missing), "{attempts:?}");
    let closed = "SELECT finished_at >= started_at FROM meshhook_events.maintenance_log WHERE origin = 'worker'";
    assert!(server.ask::<bool>(closed));
}

#[test]
fn a_partitioned_table_is_maintained_soon_after_create_extension() {
    let server = Server::preloaded().start();
    server.script("postgres", &process::fixture("meshhook.sql"));
    server.script("postgres", &process::fixture("old_meshhook_partitioned.sql"));
    let missing = server.drop_month("postgres", 1);
    server.run("postgres", "CREATE EXTENSION pg_meshhook_events");
    server.wait_for_partition("postgres", &missing);
}

#[test]
fn setup_is_followed_by_a_look_of_the_worker() {
    let server = Server::preloaded().start();
    server.set_up("postgres");
    let status = server.wait_for("the worker's entry is closed", |server| {
        let attempt = server.attempts("postgres").pop()?;
        (attempt.status != "running").then_some(attempt.status)
    });
    assert_eq!(status, "ok");
}

#[test]
fn a_schedule_holds_from_the_reload_on() {
    let mut server = Server::with_idle_worker();
    let missing = server.drop_month("postgres", 1);
    server.set_conf("pg_meshhook_events.schedule", "* * * * *");
    server.reload();
    // The next minute begins within one minute, and the deadline is as long: so twice.
    let made = process::poll_until(2 * process::DEADLINE, || {
        server.partitions("postgres").contains(&missing).then_some(())
    });
    assert!(made.is_some(), "{}", server.log());
}

#[test]
fn a_worker_that_is_off_says_so_and_begins_when_it_is_turned_on() {
    let mut server = Server::with_worker_off();
    let missing = server.drop_month("postgres", 1);
    server.wait_until("the launcher says that it is off", |server| {
        server.launcher_activity().as_deref() == Some("pg_meshhook_events.enabled is off")
    });
    assert!(!server.partitions("postgres").contains(&missing));

    server.set_conf("pg_meshhook_events.enabled", "on");
    server.reload();
    server.wait_for_partition("postgres", &missing);
}

#[test]
fn a_bad_value_is_refused_when_it_is_set() {
    let server = Server::preloaded().start();
    for (setting, value, detail) in [
        ("schedule", "often", None),
        ("schedule", "0 2 * *", None),
        ("schedule", "0 0 2 * * *", None),
        ("schedule", "0 2 30 2 *", None),
        ("schedule", "", None),
        ("schedule_timezone", "Mars/Olympus", Some("The time zone is not recognized.")),
        ("schedule_timezone", "", Some("The time zone is not recognized.")),
        ("databases", "a,,b", Some("List syntax is invalid.")),
        ("databases", "\"a", Some("List syntax is invalid.")),
    ] {
        let sql = format!("ALTER SYSTEM SET pg_meshhook_events.{setting} = '{value}'");
        let (sqlstate, message, given) = refusal(&server, &sql);
        assert_eq!(sqlstate, "22023", "{sql}: {message}");
        assert!(given.is_some(), "{sql}: no DETAIL");
        if detail.is_some() {
            assert_eq!(given.as_deref(), detail, "{sql}");
        }
    }
    for value in ["0", "-1", "11s", "soon"] {
        let sql = format!("SET pg_meshhook_events.lock_timeout = '{value}'");
        assert_eq!(refusal(&server, &sql).0, "22023", "{sql}");
    }
    assert_eq!(refusal(&server, "SET pg_meshhook_events.schedule = '0 3 * * *'").0, "55P02");
}

#[test]
fn a_setting_that_does_not_exist_is_refused() {
    let server = Server::preloaded().start();
    let (sqlstate, message, _) = refusal(&server, "SET pg_meshhook_events.shedule = '0 3 * * *'");
    assert_eq!(sqlstate, "42602", "{message}");
    let (sqlstate, message, _) =
        refusal(&server, "ALTER SYSTEM SET pg_meshhook_events.shedule = 'x'");
    assert!(["42602", "42704"].contains(&sqlstate.as_str()), "{sqlstate}: {message}");
}

#[test]
fn a_bad_value_in_the_file_leaves_the_old_one_and_is_logged() {
    let mut server = Server::with_idle_worker();
    let launcher = server.launcher();
    for (setting, value, old) in [
        ("pg_meshhook_events.schedule", "now and then", process::SELDOM),
        ("pg_meshhook_events.schedule_timezone", "Mars/Olympus", "UTC"),
        ("pg_meshhook_events.databases", "a,,b", "*"),
        ("pg_meshhook_events.lock_timeout", "1min", "100ms"),
    ] {
        server.set_conf(setting, value);
        server.reload();
        assert_eq!(server.ask::<String>(&format!("SHOW {setting}")), old);
        server.wait_until("the log says so", |server| {
            let refused =
                |line: &str| line.contains("invalid value") || line.contains("valid range");
            server.log().lines().any(|line| line.contains(setting) && refused(line))
        });
        server.set_conf(setting, old);
    }
    assert_eq!(server.pass("postgres").status, "ok");
    assert_eq!(server.launcher(), launcher);
    let lines = server.assert_quiet(HANDFUL);
    figure("settings: reloaded with bad values, 4 times", "lines in the log", lines);
}

#[test]
fn a_terminated_launcher_comes_back_and_goes_on() {
    let server = Server::with_idle_worker();
    let missing = server.drop_month("postgres", 1);
    let before = server.launcher().expect("it runs");
    let case = "stop: pg_terminate_backend, the launcher";
    figure(case, "until it is gone (wanted: 100 ms)", ms(server.terminate(before)));
    let begin = Instant::now();
    let after = server
        .wait_for("another launcher", |server| server.launcher().filter(|&pid| pid != before));
    figure(case, "until another one runs", ms(begin.elapsed()));
    server.wait_for_partition("postgres", &missing);
    assert_eq!(server.launcher(), Some(after));
}

#[test]
fn a_cancelled_launcher_stays() {
    let server = Server::with_idle_worker();
    let before = server.launcher();
    for _ in 0..50 {
        let cancel = format!("SELECT pg_cancel_backend({})", before.expect("it runs"));
        assert!(server.ask::<bool>(&cancel));
    }
    // It serves the next that asks, and is the same process.
    assert_eq!(server.pass("postgres").status, "ok");
    assert_eq!(server.launcher(), before);
    let lines = server.assert_quiet(HANDFUL);
    figure("stop: pg_cancel_backend, the launcher, 50 times", "lines in the log", lines);
}

#[test]
fn maintenance_goes_on_after_a_stop_of_any_kind() {
    let mut server = Server::with_idle_worker();
    for mode in [Mode::Smart, Mode::Fast, Mode::Immediate] {
        let missing = server.drop_month("postgres", 2);
        server.stop(mode);
        server.start();
        server.wait_for_partition("postgres", &missing);
        server.wait_until_idle();
    }
    let missing = server.drop_month("postgres", 2);
    server.kill_postmaster();
    server.start();
    server.wait_for_partition("postgres", &missing);
}
