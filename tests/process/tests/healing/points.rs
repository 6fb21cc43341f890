//! A worker is ended wherever it waits: cancelled, terminated, killed with the whole server. The next one heals what is left.
//!
//! A worker doesn't wait for transactions older than a second, so whoever holds its lock has just begun.

use postgres::Client;
use process::Server;

use crate::stage::*;

/// A place where a worker waits.
struct Point {
    /// Gives it something to do.
    prepare: fn(&Server),
    /// What somebody holds; `OLD` is the old partition.
    held: &'static str,
    /// What it waits for.
    awaited: &'static str,
    /// What it says that it does.
    activity: &'static str,
}

/// How a worker is ended, or what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Cancel,
    Terminate,
    Kill,
}

impl Point {
    /// Brings the worker there. Gives who holds it up, and the worker.
    fn reach(&self, server: &Server) -> (Client, i32) {
        let old = old(server);
        let hold = |_: &Server| self.held.replace("OLD", &old);
        let (holder, worker) = make_worker_wait(server, self.prepare, hold);
        wait_for_wait(server, worker, &self.awaited.replace("OLD", &old));
        let activity = activity(server, worker);
        assert!(activity.starts_with(self.activity), "{activity}");
        (holder, worker)
    }

    fn is_survived(&self) {
        let server = server();
        for end in [End::Cancel, End::Terminate, End::Kill] {
            let (holder, worker) = self.reach(&server);
            is_survived(&server, end, holder, worker);
        }
    }
}

/// Ends the worker, and sees that another one heals what it has left.
fn is_survived(server: &Server, end: End, mut holder: Client, worker: i32) {
    let running = "SELECT id FROM meshhook_events.maintenance_log WHERE status = 'running'";
    let attempt: Option<i64> = server.all(DATABASE, running).pop();
    match end {
        End::Cancel => {
            assert!(server.ask::<bool>(&format!("SELECT pg_cancel_backend({worker})")));
            server.wait_until("it waits no more", |server| awaited(server, worker).is_none());
            holder.batch_execute("COMMIT").unwrap();
        }
        End::Terminate => {
            assert!(server.ask::<bool>(&format!("SELECT pg_terminate_backend({worker})")));
            server.wait_until("it is gone", |server| server.workers(Some(DATABASE)).is_empty());
            holder.batch_execute("COMMIT").unwrap();
        }
        End::Kill => crash(server, worker),
    }
    assert_eq!(orphans(server), Vec::<String>::new(), "{end:?}");
    heal(server);
    let Some(attempt) = attempt else { return };
    let status = format!("SELECT status FROM meshhook_events.maintenance_log WHERE id = {attempt}");
    let status: String = server.ask(&status);
    match end {
        End::Cancel => assert_ne!(status, "ok"),
        End::Terminate | End::Kill => assert_eq!(status, "crashed", "{end:?}"),
    }
}

#[test]
fn creating_while_it_waits_for_its_turn() {
    Point {
        prepare: with_missing_month,
        held: "LOCK TABLE ONLY workflow_events IN SHARE UPDATE EXCLUSIVE MODE",
        awaited: "workflow_events ShareUpdateExclusiveLock",
        activity: "creating partition",
    }
    .is_survived();
}

#[test]
fn creating_while_it_waits_for_the_runs() {
    Point {
        prepare: with_missing_month,
        held: "LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE",
        awaited: "workflow_runs ShareRowExclusiveLock",
        activity: "creating partition",
    }
    .is_survived();
}

#[test]
fn claiming() {
    Point {
        prepare: with_missing_month,
        held: "LOCK TABLE meshhook_events.maintenance_log IN SHARE MODE",
        awaited: "meshhook_events.maintenance_log RowExclusiveLock",
        activity: "claiming the attempt",
    }
    .is_survived();
}

#[test]
fn recording() {
    let server = server();
    for end in [End::Cancel, End::Terminate, End::Kill] {
        let runs = |_: &Server| "LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE".to_owned();
        let (mut holder, worker) = make_worker_wait(&server, with_missing_month, runs);
        let mut of_entry = server.connect(DATABASE);
        let entry = "BEGIN; SELECT FROM meshhook_events.maintenance_log WHERE status = 'running' FOR UPDATE";
        of_entry.batch_execute(entry).unwrap();
        holder.batch_execute("COMMIT").unwrap();
        wait_for_wait(&server, worker, "transactionid ShareLock");
        assert_eq!(activity(&server, worker), "recording the attempt");
        is_survived(&server, end, of_entry, worker);
    }
}

#[test]
fn detaching_while_it_waits_for_its_turn() {
    Point {
        prepare: with_old_partition,
        held: "LOCK TABLE ONLY workflow_events IN SHARE UPDATE EXCLUSIVE MODE",
        awaited: "workflow_events ShareUpdateExclusiveLock",
        activity: "detaching partition",
    }
    .is_survived();
}

#[test]
fn detaching_while_it_waits_for_the_partition() {
    Point {
        prepare: with_old_partition,
        held: "LOCK TABLE OLD IN SHARE UPDATE EXCLUSIVE MODE",
        awaited: "OLD ShareUpdateExclusiveLock",
        activity: "detaching partition",
    }
    .is_survived();
}

#[test]
fn detaching_while_it_waits_for_who_uses_the_log() {
    Point {
        prepare: with_old_partition,
        held: "LOCK TABLE ONLY workflow_events IN ACCESS SHARE MODE",
        awaited: "virtualxid ShareLock",
        activity: "detaching partition",
    }
    .is_survived();
}

#[test]
fn detaching_while_it_waits_for_who_uses_the_partition() {
    Point {
        prepare: with_old_partition,
        held: "LOCK TABLE OLD IN ACCESS SHARE MODE",
        awaited: "OLD AccessExclusiveLock",
        activity: "detaching partition",
    }
    .is_survived();
}

#[test]
fn detaching_while_it_waits_for_the_runs() {
    Point {
        prepare: with_old_partition,
        held: "LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE",
        awaited: "workflow_runs ShareRowExclusiveLock",
        activity: "detaching partition",
    }
    .is_survived();
}

#[test]
fn completing_a_detach_while_it_waits_for_snapshots() {
    Point {
        prepare: with_own_pending_detach,
        held: "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT",
        awaited: "virtualxid ShareLock",
        activity: "completing the detach",
    }
    .is_survived();
}

#[test]
fn completing_a_detach_while_it_waits_for_who_uses_the_partition() {
    Point {
        prepare: with_own_pending_detach,
        held: "LOCK TABLE OLD IN ACCESS SHARE MODE",
        awaited: "OLD AccessExclusiveLock",
        activity: "completing the detach",
    }
    .is_survived();
}

#[test]
fn completing_a_detach_while_it_waits_for_the_runs() {
    Point {
        prepare: with_own_pending_detach,
        held: "LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE",
        awaited: "workflow_runs ShareRowExclusiveLock",
        activity: "completing the detach",
    }
    .is_survived();
}

#[test]
fn dropping_while_it_waits_for_the_runs() {
    Point {
        prepare: with_detached_table,
        held: "LOCK TABLE workflow_runs IN ACCESS SHARE MODE",
        awaited: "workflow_runs AccessExclusiveLock",
        activity: "dropping table",
    }
    .is_survived();
}

#[test]
fn dropping_what_it_has_just_detached() {
    // Readers of runs are in the way of the drop alone.
    Point {
        prepare: with_old_partition,
        held: "LOCK TABLE workflow_runs IN ACCESS SHARE MODE",
        awaited: "workflow_runs AccessExclusiveLock",
        activity: "dropping table",
    }
    .is_survived();
}
