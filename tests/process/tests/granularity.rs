//! The worker keeps a log whose granularity changes while time goes on: each begins where the last partition ends.

use process::{HANDFUL, Server};

/// Sets the clock to noon of a day, has the worker look, and gives the partitions that it has made by then.
fn on(server: &Server, day: &str, granularity: &str, premake: i32) -> Vec<String> {
    let before = server.partitions("postgres");
    server.set_clock(&format!("'{day} 12:00:00+00'::timestamptz"));
    server.run(
        "postgres",
        &format!(
            "UPDATE meshhook_events.policy SET granularity = '{granularity}', premake = {premake}"
        ),
    );
    server.look("postgres");
    server.wait_until_idle();
    // An event of now finds its partition, and the next ones will.
    server.run(
        "postgres",
        "INSERT INTO workflow_events (run_id, type, payload) SELECT id, 't', '{}' FROM workflow_runs",
    );
    let hole: bool =
        server.ask("SELECT first_hole_start IS NOT NULL FROM workflow_events_coverage()");
    assert!(!hole, "{day}: {}", server.log());
    let runway: i32 = server.ask("SELECT runway_periods FROM workflow_events_coverage()");
    assert!(runway >= premake, "{day}: {runway}");
    assert_eq!(server.attempts_at("postgres", "create")[0].status, "ok", "{day}");
    let mut made = server.partitions("postgres");
    made.retain(|partition| !before.contains(partition));
    made.iter().map(|name| name.replace("workflow_events_", "")).collect()
}

#[test]
fn each_granularity_begins_where_the_last_partition_ends() {
    let server = Server::preloaded().clock().start();
    server.set_clock("'2031-03-12 12:00:00+00'::timestamptz");
    server.set_up("postgres");
    server.make_run("postgres");
    let nothing = [""; 0];
    assert_eq!(on(&server, "2031-03-12", "month", 3), nothing);
    assert_eq!(server.partitions("postgres").len(), 6, "January to June");
    // By week, though nothing is missing before July, which begins on a Tuesday.
    assert_eq!(on(&server, "2031-03-12", "week", 3), nothing);
    assert_eq!(on(&server, "2031-06-07", "week", 3), nothing);
    assert_eq!(on(&server, "2031-06-10", "week", 3), ["y2031w27_p1"]);
    assert_eq!(on(&server, "2031-06-20", "week", 3), ["y2031w28"]);
    // By day, after the week that ends on 13 July.
    assert_eq!(on(&server, "2031-07-08", "day", 5), nothing);
    assert_eq!(on(&server, "2031-07-10", "day", 5), ["y2031m07d14", "y2031m07d15"]);
    // By month, with what is left of July.
    assert_eq!(on(&server, "2031-07-12", "month", 1), ["y2031m07_p1", "y2031m08"]);
    assert_eq!(on(&server, "2031-08-01", "month", 1), ["y2031m09"]);
    server.assert_quiet(HANDFUL);
}
