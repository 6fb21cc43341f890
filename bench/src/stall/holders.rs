//! The transactions that somebody else has open while maintenance runs.

use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use process::Server;

use super::data::OWNER;

/// What is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Nothing,
    InsertOfRun,
    ReadOfEvents,
}

impl Held {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::InsertOfRun => "an insert into workflow_runs",
            Self::ReadOfEvents => "a read of workflow_events",
        }
    }

    fn statement(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::InsertOfRun => {
                "INSERT INTO workflow_runs (project_id, workflow_id) \
                 SELECT project_id, workflow_id FROM workflow_runs LIMIT 1"
            }
            Self::ReadOfEvents => "SELECT count(*) FROM workflow_events",
        }
    }

    /// How many runs it adds.
    pub fn runs_added(self) -> i64 {
        i64::from(self == Self::InsertOfRun)
    }
}

/// An open transaction.
pub struct Holder {
    release: Sender<()>,
    thread: JoinHandle<Instant>,
}

impl Holder {
    /// Opens a transaction that is committed after that time, or when it is told to end.
    pub fn open(server: &Server, database: &str, held: Held, hold: Duration) -> Self {
        let mut client =
            Client::connect(&server.conninfo(database, OWNER), NoTls).expect("the holder connects");
        client.batch_execute("BEGIN").expect("a transaction begins");
        client.simple_query(held.statement()).expect("the holder's statement runs");
        let (release, released) = mpsc::channel();
        let thread = thread::spawn(move || {
            // Either way it is over.
            let _ = released.recv_timeout(hold);
            client.batch_execute("COMMIT").expect("the holder commits");
            Instant::now()
        });
        Self { release, thread }
    }

    /// Ends the transaction, if it hasn't ended, and says when that was.
    pub fn end(self) -> Instant {
        // It may have gone already.
        let _ = self.release.send(());
        self.thread.join().expect("the holder ends")
    }
}
