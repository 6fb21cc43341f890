//! A wall clock that jumps: what the new time asks for is done soon, and nothing is dropped or done twice.

use std::time::Instant;

use process::{DEADLINE, HANDFUL, Server, figure, poll_until};

/// A server whose clock shows noon of the 15th of next month, with event logs in two databases and a worker that works
/// every night.
fn at_noon() -> Server {
    let server =
        Server::preloaded().clock().conf("pg_meshhook_events.schedule", "0 2 * * *").start();
    set_clock(&server, "+ interval '1 month 14 days 12 hours'");
    for database in ["postgres", "other"] {
        if database != "postgres" {
            server.create_database(database);
        }
        server.set_up(database);
        server.look(database);
    }
    server.wait_until_idle();
    server
}

/// Sets the clock to a time, as what is to be added to the beginning of this month.
fn set_clock(server: &Server, and: &str) {
    server.set_clock(&format!(
        "(date_trunc('month', now() AT TIME ZONE 'UTC') {and}) AT TIME ZONE 'UTC'"
    ));
}

#[test]
fn a_jump_over_the_end_of_a_month_is_noticed_without_a_call() {
    let server = at_noon();
    let missing = server.month(4);
    set_clock(&server, "+ interval '1 month 6 hours'");
    let begin = Instant::now();
    // The launcher looks at its clock once a minute.
    let made = poll_until(2 * DEADLINE, || {
        let all =
            ["postgres", "other"].map(|database| server.partitions(database).contains(&missing));
        (all == [true, true]).then_some(())
    });
    assert!(made.is_some(), "{}", server.log());
    let case = "clock: forward over the end of a month";
    figure(
        case,
        "until next month's partitions are there (wanted: 60 s)",
        format!("{} s", begin.elapsed().as_secs()),
    );
    figure(case, "lines in the log", server.assert_quiet(HANDFUL));
}

#[test]
fn a_jump_back_drops_nothing_and_repeats_nothing() {
    let server = at_noon();
    for database in ["postgres", "other"] {
        server.run(
            database,
            "SELECT create_workflow_events_partition(now() - interval '4 months'); \
             SELECT create_workflow_events_partition(now() - interval '3 months'); \
             UPDATE meshhook_events.policy SET retention = '4 months'",
        );
    }
    // The night of the 15th, when the worker has worked.
    set_clock(&server, "+ interval '15 days 3 hours'");
    server.wake("postgres");
    server.wait_until("both were looked at", |server| server.passes("other") >= 2);
    server.wait_until_idle();
    let before = server.partitions("other");
    let (passes, lines) = (server.passes("other"), server.maintenance_lines().len());
    let step = |seconds: i64| {
        server.move_clock(seconds);
        // Each of these makes the launcher look at its clock as well.
        server.look("postgres");
        assert_eq!(server.partitions("other"), before, "after {seconds} s");
        assert_eq!(server.partitions("postgres"), before, "after {seconds} s");
    };
    step(-2 * 3600);
    // Two o'clock comes a second time.
    step(90 * 60);
    step(30 * 60);
    assert_eq!(server.passes("other"), passes, "it was looked at again\n{}", server.log());
    step(-40 * 86_400);
    step(60);
    let case = "clock: back by 2 hours, and by 40 days";
    let repeated = server.passes("other") - passes;
    assert!(repeated <= 1, "it was looked at {repeated} times\n{}", server.log());
    figure(case, "passes that were made twice", repeated);
    let told = server.maintenance_lines().len() - lines;
    assert!(told <= HANDFUL, "{:#?}", server.maintenance_lines());
    figure(case, "lines in the log", told);
    // From there time goes on as ever.
    step(40 * 86_400);
    assert_eq!(server.attempts("postgres")[0].status, "ok");
}

#[test]
fn a_jump_of_ten_years_and_back_leaves_what_is_there() {
    let server = at_noon();
    let before = server.partitions("postgres");
    set_clock(&server, "+ interval '10 years 14 days'");
    server.look("postgres");
    let wanted = [0, 1, 2, 3].map(|ahead| server.month(ahead));
    let after = server.partitions("postgres");
    assert!(wanted.iter().chain(&before).all(|partition| after.contains(partition)), "{after:?}");
    assert_eq!(after.len(), before.len() + wanted.len(), "{after:?}");
    set_clock(&server, "- interval '10 years' + interval '15 days'");
    server.look("postgres");
    server.wait_until_idle();
    assert_eq!(server.partitions("postgres"), after);
    assert_eq!(server.attempts("postgres")[0].status, "ok");
    // And what is missing then is made.
    let missing = server.drop_month("postgres", 1);
    server.look("postgres");
    assert!(server.partitions("postgres").contains(&missing), "{}", server.log());
    let case = "clock: forward by ten years, and back";
    figure(case, "lines in the log", server.assert_quiet(HANDFUL));
}
