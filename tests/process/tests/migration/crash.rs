//! Whatever ends a migration, in each of its phases: the log is whole, and calling again carries it to its end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use process::{Form, MIGRATE, Mode, Server, UNDO};

use crate::phases::Phase;
use crate::stage::*;

/// A few changes, as clients make them at any time. What the rows are then.
fn change(stage: &Stage) -> String {
    stage.server.run(
        DATABASE,
        "INSERT INTO workflow_events (run_id, ts, type, payload) VALUES \
             (t.run(1), now(), 'untold', '1'), (t.run(2), t.start(-5), 'untold', '2'); \
         UPDATE workflow_events SET payload = jsonb_build_array(payload) WHERE id IN \
             (SELECT id FROM workflow_events WHERE run_id = t.run(3) ORDER BY id DESC LIMIT 5); \
         UPDATE workflow_events SET ts = t.start(-1) WHERE id = (SELECT min(id) FROM workflow_events WHERE run_id = t.run(4)); \
         DELETE FROM workflow_events WHERE id = (SELECT min(id) FROM workflow_events WHERE run_id = t.run(5))",
    );
    stage.server.rows_of(DATABASE, "workflow_events")
}

/// In each phase of both directions, a call is ended like this; then it is called again. `may_be_late`: it may do its work
/// before it hears of that.
fn in_each_phase(stage: &mut Stage, may_be_late: bool, end: impl Fn(&mut Stage, i32)) {
    for phase in Phase::ALL {
        for call in [MIGRATE, UNDO] {
            let (under_way, holder) = phase.reach(stage, call);
            let pid = under_way.pid;
            end(stage, pid);
            let_go(holder);
            let answer = under_way.end();
            // What holds it there has ended too, and it may have done its work before it heard of its own end.
            let may_be_late = may_be_late || phase == Phase::Analyzing;
            assert!(answer.is_err() || may_be_late, "{phase:?} of {call} was not ended");
            let is_other = (call == MIGRATE) == phase.is_after_the_switch();
            assert!(may_be_late || stage.is_partitioned() == is_other, "{phase:?} of {call}");
            let is_over = stage.server.migration(DATABASE).is_some_and(|progress| progress.is_over);
            let rows = change(stage);
            if !is_over {
                stage.call(call);
            }
            if call == MIGRATE {
                stage.assert_is_partitioned();
            } else {
                stage.assert_is_plain();
            }
            let found = stage.server.rows_of(DATABASE, "workflow_events");
            assert_eq!(found, rows, "{phase:?} of {call}\n{}", stage.server.log());
            stage.assert_sequence_goes_on();
        }
    }
}

/// Kills a process, and waits until the server has noticed and is back.
fn kill_and_wait(stage: &Stage, pid: i32) {
    let mut witness = stage.server.connect(DATABASE);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
    stage.server.wait_until("the crash is noticed", |_| witness.batch_execute("SELECT 1").is_err());
    stage.server.wait_until("the server is back", |server| server.try_connect(DATABASE).is_ok());
}

#[test]
fn a_backend_that_is_killed() {
    in_each_phase(&mut Stage::new(Form::Current), false, |stage, pid| kill_and_wait(stage, pid));
}

#[test]
fn a_postmaster_that_is_killed() {
    in_each_phase(&mut Stage::new(Form::Older), true, |stage, _| {
        stage.server.kill_postmaster();
        stage.server.start();
    });
}

#[test]
fn a_call_that_is_cancelled_or_terminated() {
    for function in ["pg_cancel_backend", "pg_terminate_backend"] {
        in_each_phase(&mut Stage::new(Form::Current), false, |stage, pid| {
            assert!(stage.server.ask::<bool>(&format!("SELECT {function}({pid})")));
        });
    }
}

/// A crash is no error of a call: nobody calls again, and the worker goes on by itself.
#[test]
fn the_worker_goes_on_after_a_crash() {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.migration_batch_rows", "100")
        .conf("pg_meshhook_events.migration_rows_per_second", "1500");
    let mut stage = Stage::of(Form::Current, server);
    for (call, is_partitioned) in
        [("migrate_workflow_events", true), ("undo_workflow_events_migration", false)]
    {
        stage.call(&format!("CALL {call}(in_background => true)"));
        stage.server.wait_for_phase(DATABASE, "copying");
        if is_partitioned {
            let worker = stage.server.workers(Some(DATABASE));
            kill_and_wait(&stage, *worker.first().expect("a worker copies"));
        } else {
            stage.server.stop(Mode::Fast);
            stage.server.start();
        }
        let rows = change(&stage);
        let progress = stage.server.wait_for_migration(DATABASE);
        assert_eq!(progress.phase, "done", "{progress:?}\n{}", stage.server.log());
        assert_eq!(stage.is_partitioned(), is_partitioned);
        assert_eq!(stage.server.rows_of(DATABASE, "workflow_events"), rows);
    }
    stage.assert_is_plain();
}

/// A worker that is cancelled or terminated goes on by itself as well.
#[test]
fn the_worker_goes_on_after_it_was_stopped() {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.migration_batch_rows", "100")
        .conf("pg_meshhook_events.migration_rows_per_second", "1500");
    let stage = Stage::of(Form::Current, server);
    stage.call("CALL migrate_workflow_events(in_background => true)");
    for function in ["pg_terminate_backend", "pg_cancel_backend"] {
        stage.server.wait_for_phase(DATABASE, "copying");
        let worker =
            stage.server.wait_for("a worker copies", |server| server.workers(Some(DATABASE)).pop());
        stage.server.run(DATABASE, &format!("SELECT {function}({worker})"));
        stage
            .server
            .wait_until("it is gone", |server| !server.workers(Some(DATABASE)).contains(&worker));
    }
    let progress = stage.server.wait_for_migration(DATABASE);
    assert_eq!(progress.phase, "done", "{progress:?}\n{}", stage.server.log());
    stage.assert_is_partitioned();
    stage.assert_same_rows();
}
