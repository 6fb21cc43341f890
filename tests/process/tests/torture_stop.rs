//! Ending: a worker that works or waits keeps nobody waiting who ends it, stops the server, or has killed the postmaster.

use process::{HANDFUL, Mode, Server, figure, ms};

/// What planted code does: nothing that ends by itself, and something that does.
const SLEEPS: &str = "PERFORM pg_sleep(600);";
const COMPUTES: &str = "PERFORM count(*) FROM generate_series(1, 10000000);";

fn patient() -> Server {
    let server = Server::with_patient_worker().clock().start();
    server.set_up("postgres");
    server.look("postgres");
    server
}

/// How many workers have ended because they were told to, and not because their work was done or took too long.
fn ended_when_told(server: &Server) -> usize {
    let told =
        r#"terminating background worker "pg_meshhook_events worker" due to administrator command"#;
    server.log().matches(told).count()
}

/// How many attempts ended without a word, as the next one has found out.
fn crashed(server: &Server) -> usize {
    server.attempts("postgres").iter().filter(|attempt| attempt.status == "crashed").count()
}

/// Lets so much time pass that an attempt that ended in the middle, which may have been a crash, puts off no other.
fn let_time_pass(server: &Server) {
    server.move_clock(2 * 3600);
}

#[test]
fn a_worker_that_is_terminated_while_it_works_is_gone() {
    let server = patient();
    let mut ends = 0;
    for (code, what) in [(SLEEPS, "sleeps"), (COMPUTES, "computes")] {
        server.plant("postgres", code);
        let worker = server.make_worker_work("postgres");
        let gone = server.terminate(worker);
        let case = format!("stop: pg_terminate_backend, the worker {what} in SQL");
        figure(&case, "until it is gone (wanted: 100 ms)", ms(gone));
        ends += 1;
        assert_eq!(ended_when_told(&server), ends, "{}", server.log());
        let_time_pass(&server);
    }
    // What it was to make is made after all.
    server.wake("postgres");
    server.wait_for_partition("postgres", &server.month(1));
    server.assert_quiet(HANDFUL);
}

#[test]
fn a_fast_shutdown_does_not_wait_for_a_worker_that_works() {
    let mut server = patient();
    server.plant("postgres", SLEEPS);
    server.make_worker_work("postgres");
    let down = server.stop(Mode::Fast);
    let wanted = "until the server is down (wanted: 2 s)";
    figure("stop: fast shutdown, the worker works", wanted, ms(down));
    assert_eq!(ended_when_told(&server), 1, "{}", server.log());
    let_time_pass(&server);
    server.start();
    server.wait_for_partition("postgres", &server.month(1));
    server.assert_quiet(HANDFUL);
}

#[test]
fn no_process_outlives_the_postmaster() {
    let case = |what: &str| format!("stop: postmaster killed, the worker {what}");
    let what = "until no process is left";
    let mut server = patient();
    let (_holder, _) = server.make_worker_wait("postgres");
    figure(&case("waits for a lock"), what, ms(server.kill_postmaster()));
    let_time_pass(&server);
    server.start();
    server.wait_for_partition("postgres", &server.month(1));
    server.wait_until_idle();
    assert_eq!(crashed(&server), 1, "it did not end in the middle");

    server.plant("postgres", SLEEPS);
    server.make_worker_work("postgres");
    figure(&case("sleeps in SQL"), what, ms(server.kill_postmaster()));
    let_time_pass(&server);
    server.start();
    server.wait_for_partition("postgres", &server.month(1));
    server.wait_until_idle();
    assert_eq!(crashed(&server), 2, "it did not end in the middle");

    server.plant("postgres", COMPUTES);
    server.make_worker_work("postgres");
    figure(&case("computes in SQL"), what, ms(server.kill_postmaster()));
    let_time_pass(&server);
    server.start();
    server.wake("postgres");
    server.wait_for_partition("postgres", &server.month(1));
    server.assert_quiet(3 * HANDFUL);
}
