//! The points at which a process is ended: each of its calls that leave something on disk.

use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use process::{DEADLINE, Whose, poll_until};

use crate::stage::*;

/// A write to the write-ahead log.
pub const LOG: &str = "pwrite the log";

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The process that is held: a backend, or the worker. The server recovers by itself.
    Process,
    /// The postmaster, while the process is held; it goes on afterwards for as long as it can. The server is started again.
    Postmaster,
}

/// What is done on the way, and by whom.
#[derive(Clone, Copy, Debug)]
pub enum Actor<'a> {
    /// The worker, in one pass.
    Worker,
    /// A session, which runs these one after the other.
    Session(&'a [&'a str]),
}

/// Whoever acts, under way.
enum Acting {
    Worker { database: u32, begin: u64 },
    Session(JoinHandle<Result<(), postgres::Error>>),
}

impl Acting {
    /// Begins, with the call after that many held.
    fn begin(actor: Actor, stage: &Stage, calls: usize) -> Self {
        let server = &stage.server;
        match actor {
            Actor::Worker => {
                let database = server.oid_of(DATABASE);
                let begin = server.log_length();
                server.stop_after(
                    calls,
                    Whose::Title("pg_meshhook_events worker"),
                    under(stage),
                    None,
                );
                server.wake(DATABASE);
                Self::Worker { database, begin }
            }
            Actor::Session(statements) => {
                let mut session = server.connect(DATABASE);
                let pid = session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
                let statements: Vec<String> =
                    statements.iter().map(|sql| sql.replace("OLD", &stage.old)).collect();
                server.stop_after(calls, Whose::Pid(pid), under(stage), None);
                Self::Session(thread::spawn(move || {
                    statements.iter().try_for_each(|sql| session.batch_execute(sql))
                }))
            }
        }
    }

    fn is_over(&self, stage: &Stage) -> bool {
        match self {
            Self::Worker { database, begin } => stage.server.passes_after(*begin, *database) > 0,
            Self::Session(thread) => thread.is_finished(),
        }
    }

    /// Waits until it is held; `None` where it has ended before.
    fn held(&self, stage: &Stage) -> Option<i32> {
        let held = poll_until(DEADLINE, || match stage.server.held() {
            None if self.is_over(stage) => Some(stage.server.held()),
            None => None,
            held => Some(held),
        });
        held.unwrap_or_else(|| panic!("it is neither held nor over\n{}", stage.server.log()))
    }
}

/// Runs the way from `prepare` again and again, and ends `victim` at each of its points. The rows are
/// safe after each, and `complete` sees that all becomes well. Gives the points.
pub fn survives(
    stage: &mut Stage,
    actor: Actor,
    victim: Victim,
    prepare: impl Fn(&Stage),
    complete: impl Fn(&Stage),
) -> Vec<String> {
    let mut points = Vec::new();
    loop {
        prepare(stage);
        stage.server.wait_until_idle();
        let acting = Acting::begin(actor, stage, points.len());
        let Some(pid) = acting.held(stage) else {
            if let Acting::Session(thread) = acting {
                thread.join().unwrap().unwrap_or_else(|error| panic!("{error:?}"));
            }
            stage.server.let_go();
            stage.server.wait_until_idle();
            complete(stage);
            return points;
        };
        points.push(name(stage, pid));
        let running = "SELECT id FROM meshhook_events.maintenance_log WHERE status = 'running'";
        let attempt: Option<i64> = stage.all(running).pop();
        end(stage, victim, pid);
        if let Acting::Session(thread) = acting {
            let ended = thread.join().unwrap();
            assert!(ended.is_err() || victim == Victim::Postmaster);
        }
        let point = points.last().unwrap();
        println!("{victim:?} at {point}");
        stage.assert_safe();
        complete(stage);
        if let Some(attempt) = attempt {
            let status =
                format!("SELECT status FROM meshhook_events.maintenance_log WHERE id = {attempt}");
            let status: String = stage.ask(&status);
            let is_known =
                status == "crashed" || victim == Victim::Postmaster && status != "running";
            assert!(is_known, "{status} after {victim:?} at {point}");
        }
    }
}

/// What is done there, and the call.
fn name(stage: &Stage, pid: i32) -> String {
    let call = short(&stage.server.calls().pop().unwrap());
    let activity = format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}");
    let activity: Option<String> = stage.all(&activity).pop();
    format!("{}: {call}", activity.unwrap_or_default())
}

/// A call with the name of its file alone.
fn short(call: &str) -> String {
    let (call, path) = call.split_once(' ').unwrap();
    let file = match path.rsplit_once('/') {
        Some((folder, _)) if folder.ends_with("pg_wal") => "the log",
        Some((_, file)) => file,
        None => path,
    };
    format!("{call} {file}")
}

/// The calls of a statement.
pub fn calls_of(stage: &Stage, statement: &str) -> Vec<String> {
    let pid = stage.ask("SELECT pg_backend_pid()");
    stage.server.stop_after(1_000_000, Whose::Pid(pid), under(stage), None);
    stage.run(statement);
    stage.server.let_go();
    stage.server.calls().iter().map(|call| short(call)).collect()
}

/// Where files count.
fn under(stage: &Stage) -> [&str; 2] {
    [stage.directory.to_str().unwrap(), "/pg_wal/"]
}

/// Kills it, and waits until the server is back.
fn end(stage: &mut Stage, victim: Victim, pid: i32) {
    stage.forget_session();
    let server = &mut stage.server;
    server.stop_no_more();
    match victim {
        Victim::Process => {
            let before = server.log_length();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            server.wait_until("the crash is over", |server| {
                let log = server.log_after(before);
                log.contains("all server processes terminated; reinitializing")
                    && server.try_connect(DATABASE).is_ok()
            });
        }
        Victim::Postmaster => {
            server.kill_postmaster_then(|server| server.let_go());
            server.start();
        }
    }
}
