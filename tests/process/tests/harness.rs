//! The harness itself: what the other tests in this folder stand on. Needs no extension.

use std::path::Path;
use std::time::Instant;

use postgres::Client;
use process::{DEADLINE, Mode, Server};

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_server_starts_stops_and_reads_its_settings() {
    let mut server = Server::builder().conf("work_mem", "5MB").start();
    assert_eq!(server.ask::<String>("SHOW work_mem"), "5MB");
    server.set_conf("work_mem", "6MB");
    server.reload();
    assert_eq!(server.ask::<String>("SHOW work_mem"), "6MB");

    let pid = server.pid();
    server.restart();
    assert_ne!(server.pid(), pid);
    server.stop(Mode::Smart);
    assert!(server.try_connect("postgres").is_err());

    server.set_conf("application_name", "it's");
    server.start();
    let psql = server.psql("postgres", "SELECT 1, 2;\nSELECT 1/0;\nSELECT 3;");
    assert!(!psql.success);
    assert_eq!(psql.stdout, "1|2\n");
    assert!(psql.stderr.contains("division by zero"), "{}", psql.stderr);
    assert!(server.log().contains("division by zero"), "{}", server.log());

    server.stop(Mode::Fast);
    server.set_conf("no_such_setting", "1");
    let log = server.try_start().expect_err("an unknown setting stops the start");
    assert!(log.contains("no_such_setting"), "{log}");
}

#[test]
fn rows_survive_the_death_of_the_postmaster() {
    let mut server = Server::builder().start();
    let mut client = server.connect("postgres");
    client.batch_execute("CREATE TABLE t (i int); INSERT INTO t VALUES (1)").unwrap();
    let processes = server.processes();
    server.kill_postmaster();
    assert!(client.batch_execute("SELECT 1").is_err());
    assert!(processes.len() > 3, "{processes:?}");
    server.start();
    assert_eq!(server.ask::<i32>("SELECT i FROM t"), 1);
}

#[test]
fn a_standby_replays_and_is_promoted() {
    let primary = Server::builder().start();
    primary.connect("postgres").batch_execute("CREATE TABLE t (i int)").unwrap();
    let standby = primary.standby();
    assert!(standby.in_recovery() && !primary.in_recovery());

    primary.connect("postgres").batch_execute("INSERT INTO t VALUES (7)").unwrap();
    standby.catch_up_with(&primary);
    let mut client = standby.connect("postgres");
    assert_eq!(client.query_one("SELECT i FROM t", &[]).unwrap().get::<_, i32>(0), 7);
    assert!(client.batch_execute("INSERT INTO t VALUES (8)").is_err());

    standby.promote();
    client.batch_execute("INSERT INTO t VALUES (8)").unwrap();
    assert_eq!(primary.ask::<i64>("SELECT count(*) FROM t"), 1);
}

#[test]
fn a_dropped_server_leaves_nothing() {
    let server = Server::builder().start();
    let (processes, data) = (server.processes(), server.data());
    // Not all of them: one may be a session that was just about to end.
    assert!(processes.len() > 3 && exists(server.pid()) && data.exists());
    drop(server);
    assert!(!processes.iter().any(|&pid| exists(pid)) && !data.exists());
}

#[test]
fn a_panicking_test_leaves_nothing() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let server = Server::builder().start();
        sender.send((server.processes(), server.data())).unwrap();
        panic!("on purpose");
    });
    assert!(test.join().is_err());
    let (processes, data) = receiver.recv().unwrap();
    assert!(!processes.iter().any(|&pid| exists(pid)) && !data.exists());
}

/// The SQLSTATE that a statement fails with.
fn sqlstate(client: &mut Client, sql: &str) -> String {
    let error = client.batch_execute(sql).expect_err(sql);
    error.code().expect("the server has answered").code().to_owned()
}

#[test]
fn a_clock_of_its_own_moves_and_everything_else_goes_on() {
    let server = Server::builder().clock().conf("autovacuum_naptime", "1s").start();
    let mut client = server.connect("postgres");
    client.batch_execute("CREATE TABLE t (i int)").unwrap();
    let mut holder = server.connect("postgres");
    let off_by =
        "SELECT abs(extract(epoch FROM clock_timestamp() - timestamptz '2031-05-15'))::int";
    for (time, then_days) in [("timestamptz '2031-04-15'", 30), ("timestamptz '2031-06-24'", -40)] {
        server.set_clock(time);
        server.move_clock_days(then_days);
        // Sessions that are there already see it too.
        assert!(client.query_one(off_by, &[]).unwrap().get::<_, i32>(0) < 60, "{time}");
        // Timers.
        client.batch_execute("SET statement_timeout = '100ms'").unwrap();
        assert_eq!(sqlstate(&mut client, "SELECT pg_sleep(60)"), "57014");
        client.batch_execute("SET statement_timeout = 0; SET lock_timeout = '100ms'").unwrap();
        holder.batch_execute("BEGIN; LOCK TABLE t").unwrap();
        assert_eq!(sqlstate(&mut client, "SELECT FROM t"), "55P03");
        holder.batch_execute("COMMIT").unwrap();
        client.batch_execute("SELECT pg_sleep(0.01); CHECKPOINT").unwrap();
    }
    // One that is running while the clock moves on.
    let begin = Instant::now();
    let sleep = std::thread::spawn(move || {
        sqlstate(&mut client, "SET statement_timeout = '1s'; SELECT pg_sleep(60)")
    });
    server.move_clock(10);
    assert_eq!(sleep.join().unwrap(), "57014");
    assert!(begin.elapsed() < DEADLINE);
    // And who works in the background.
    server.move_clock_days(1);
    holder.batch_execute("INSERT INTO t SELECT generate_series(1, 1000)").unwrap();
    server.wait_until("t is analysed", |server| {
        server
            .ask("SELECT last_autoanalyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 't'")
    });
}
