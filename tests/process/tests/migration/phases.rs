//! The phases of a migration, and what keeps it in one of them for as long as a test needs.

use postgres::Client;
use process::{Call, DEADLINE, MIGRATE, UNDO, poll_until};

use crate::stage::*;

/// A phase that a test can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Preparing,
    Copying,
    CatchingUp,
    Analyzing,
    Switching,
    Verifying,
    CleaningUp,
}

impl Phase {
    pub const ALL: [Self; 7] = [
        Self::Preparing,
        Self::Copying,
        Self::CatchingUp,
        Self::Analyzing,
        Self::Switching,
        Self::Verifying,
        Self::CleaningUp,
    ];

    /// As the progress says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::CatchingUp => "catching up",
            Self::Analyzing => "analyzing",
            Self::Switching => "switching",
            Self::Verifying => "verifying",
            Self::CleaningUp => "cleaning up",
        }
    }

    /// Whether the log is the other table by then.
    pub fn is_after_the_switch(self) -> bool {
        matches!(self, Self::Verifying | Self::CleaningUp)
    }

    /// Begins a call and brings it to this phase. What keeps it there are locks of the session that is given as well.
    pub fn reach(self, stage: &Stage, call: &str) -> (Call, Option<Client>) {
        const WRITE: &str =
            "INSERT INTO workflow_events (run_id, type, payload) VALUES (t.run(1), 'untold', '{}')";
        let server = &stage.server;
        let (under_way, holder) = match self {
            Self::Preparing => {
                let holder = open(server, WRITE).0;
                (stage.begin(SLOWLY, call), Some(holder))
            }
            Self::Copying => (stage.begin(SLOWLY, call), None),
            Self::CatchingUp => self.after_copying_has_begun(stage, call, |stage| {
                // Something to catch up with, that leaves the rows as they are.
                stage.server.run(
                    DATABASE,
                    "UPDATE workflow_events SET payload = payload WHERE id IN \
                         (SELECT id FROM workflow_events ORDER BY id LIMIT 400)",
                );
                "LOCK TABLE meshhook_events.migration_queue IN EXCLUSIVE MODE".to_owned()
            }),
            Self::Analyzing => self.after_copying_has_begun(stage, call, |stage| {
                let made = if call == MIGRATE {
                    stage.server.month(-14)
                } else {
                    "workflow_events_shadow".to_owned()
                };
                format!("LOCK TABLE {made} IN SHARE UPDATE EXCLUSIVE MODE")
            }),
            Self::Switching => self.after_copying_has_begun(stage, call, |_| {
                "LOCK TABLE workflow_events IN ACCESS SHARE MODE".to_owned()
            }),
            Self::Verifying | Self::CleaningUp => return self.after_the_switch(stage, call),
        };
        let progress = server.wait_for_phase(DATABASE, self.name());
        assert!(!under_way.is_over(), "{progress:?}\n{}", server.log());
        (under_way, holder)
    }

    /// Such a phase is over in a moment: it is tried until the lock comes in time.
    fn after_the_switch(self, stage: &Stage, call: &str) -> (Call, Option<Client>) {
        for _ in 0..30 {
            let under_way = stage.begin("", call);
            // Only who reads or writes the log is in the way of the comparison.
            let holder = match self {
                Self::Verifying => {
                    lock_after_the_switch(&stage.server, "workflow_events", "ACCESS EXCLUSIVE")
                }
                _ => lock_after_the_switch(&stage.server, "workflow_events_old", "ACCESS SHARE"),
            };
            let is_held = holder.is_some() && {
                let held = poll_until(DEADLINE, || {
                    let progress = stage.server.migration(DATABASE)?;
                    let is_here = progress.phase == self.name();
                    let is_met = progress.blocker.is_some() || progress.message.is_some();
                    (under_way.is_over() || is_met).then_some(is_here && is_met)
                });
                held.unwrap_or_else(|| panic!("it does nothing\n{}", stage.server.log()))
            };
            if is_held {
                return (under_way, holder);
            }
            let_go(holder);
            let answer = under_way.end();
            assert!(answer.is_ok(), "{call}: {answer:?}\n{}", stage.server.log());
            stage.call(if call == MIGRATE { UNDO } else { MIGRATE });
        }
        panic!("{self:?} of {call} is always over too soon\n{}", stage.server.log());
    }

    fn after_copying_has_begun(
        self,
        stage: &Stage,
        call: &str,
        lock: impl Fn(&Stage) -> String,
    ) -> (Call, Option<Client>) {
        let under_way = stage.begin(SLOWLY, call);
        stage.server.wait_until("a batch has been copied", |server| {
            server
                .migration(DATABASE)
                .is_some_and(|progress| progress.phase == "copying" && progress.rows.0 > 0)
        });
        let holder = open(&stage.server, &lock(stage)).0;
        (under_way, Some(holder))
    }
}
