//! What can go wrong with a migration between a plain table and partitions.

use pgrx::PgSqlErrorCode as Sqlstate;

/// Why a migration was not begun, or can't go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigrationFault {
    /// There is nothing to migrate.
    #[error("workflow_events is partitioned already")]
    Partitioned,
    /// There is nothing to take back.
    #[error("workflow_events is a plain table, and no migration is under way")]
    Plain,
    /// No migration is under way.
    #[error("no migration of workflow_events is under way")]
    NoMigration,
    /// It is too late to turn it round.
    #[error("the migration of workflow_events is about to end")]
    AboutToEnd,
    /// What was made since would be missing in the table that was replaced.
    #[error("workflow_events was altered since the names were swapped")]
    Altered,
    /// Somebody has written to the table that was replaced.
    #[error("the old workflow_events, or a partition of it, was changed after it was replaced")]
    OldChanged,
    /// Another session is at it this moment.
    #[error("another session is at work on the migration of workflow_events")]
    Busy,
    /// Nothing would be done in the background.
    #[error("there is no background worker that serves this database")]
    NoWorker,
    /// Something that belongs to the table, or depends on it, would be lost.
    #[error("{what} can't be carried over to the new table")]
    NotCarried {
        /// What it is, as PostgreSQL describes it.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// The table has no key by which rows are told apart.
    #[error("workflow_events has no primary key on (id) or on (id, ts)")]
    NoKey,
    /// Rows that no partition can hold.
    #[error("event {id} of workflow_events can't lie in a partition: its ts is {ts}")]
    NoPlace {
        /// Its id.
        id: i64,
        /// Its `ts`, as text.
        ts: String,
    },
    /// Rows that share an id, of which a plain table holds one.
    #[error("event id {0} occurs more than once in workflow_events")]
    DuplicateId(i64),
    /// What others commit would not be seen.
    #[error("a migration needs the isolation level READ COMMITTED")]
    Isolation,
    /// The name of a table that is needed is in use.
    #[error("the name \"{0}\" is taken by another relation")]
    NameTaken(String),
    /// There is no room for the copy.
    #[error("not enough disk space for a copy of workflow_events")]
    NoSpace {
        /// How much is needed, for people.
        needed: String,
        /// How much is free, for people.
        free: String,
    },
    /// The table has been replaced by another.
    #[error("workflow_events is no longer the table that the migration was begun with")]
    OtherTable,
    /// The tables hold different rows.
    #[error("the new workflow_events differs from the old one in the events after id {after}")]
    Differs {
        /// Below which id they agree.
        after: i64,
        /// The rows and digest of the old table.
        expected: String,
        /// Those of the new one.
        found: String,
    },
}

impl MigrationFault {
    /// Its SQLSTATE.
    #[must_use]
    pub const fn sqlstate(&self) -> Sqlstate {
        match self {
            Self::Partitioned | Self::Plain => Sqlstate::ERRCODE_WRONG_OBJECT_TYPE,
            Self::Busy => Sqlstate::ERRCODE_OBJECT_IN_USE,
            Self::NoMigration
            | Self::AboutToEnd
            | Self::NoWorker
            | Self::OtherTable
            | Self::Isolation
            | Self::Altered
            | Self::OldChanged
            | Self::NoPlace { .. } => Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::NotCarried { .. } => Sqlstate::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::NoKey => Sqlstate::ERRCODE_INVALID_TABLE_DEFINITION,
            Self::DuplicateId(_) => Sqlstate::ERRCODE_UNIQUE_VIOLATION,
            Self::NameTaken(_) => Sqlstate::ERRCODE_DUPLICATE_TABLE,
            Self::NoSpace { .. } => Sqlstate::ERRCODE_DISK_FULL,
            Self::Differs { .. } => Sqlstate::ERRCODE_DATA_CORRUPTED,
        }
    }

    /// Why.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::NoSpace { needed, free } => Some(format!(
                "The copy needs about {needed} beside the table that is there, and {free} are free."
            )),
            Self::NoPlace { .. } => Some(
                "A partition holds a range of time within the years 1 to 9999, and no event without one."
                    .to_owned(),
            ),
            Self::DuplicateId(_) => {
                Some("The primary key of the plain table is (id).".to_owned())
            }
            Self::Differs { expected, found, .. } => {
                Some(format!("The old table has {expected}; the new one has {found}."))
            }
            _ => None,
        }
    }

    /// What to do.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Partitioned => "setup_workflow_events() takes it over as it is.",
            Self::Plain => "CALL migrate_workflow_events() moves it into partitions.",
            Self::NoMigration => {
                "CALL migrate_workflow_events() or undo_workflow_events_migration() begins one."
            }
            Self::AboutToEnd => {
                "Call again when workflow_events_migration_progress says that it is done."
            }
            Self::Altered => {
                "Alter it back, or go on in the direction of the migration: the old table is compared, dropped, and then a \
                 new one can be built from the altered one."
            }
            Self::OldChanged => {
                "Carry what was written there over by hand, then DROP TABLE workflow_events_old; and call again: it goes \
                 on without a comparison."
            }
            Self::Busy => {
                "See workflow_events_migration_progress for how far it is. Cancel its CALL to go on in this session, or the \
                 other way round."
            }
            Self::NoWorker => {
                "Call with in_background => false to do it in this session, or see \
                 pg_meshhook_events.enabled and pg_meshhook_events.databases."
            }
            Self::NotCarried { hint, .. } => hint,
            Self::NoKey => {
                "ALTER TABLE workflow_events ADD PRIMARY KEY (id), after looking for rows that share one."
            }
            Self::NoPlace { .. } => {
                "UPDATE it, or DELETE it; then the migration goes on with the next call, or by itself in the \
                 background."
            }
            Self::DuplicateId(_) => {
                "Give all but one of them another id, or DELETE them; then the migration goes on with the next call, \
                 or by itself in the background."
            }
            Self::Isolation => "Call the procedure outside of a transaction.",
            Self::NameTaken(_) => "Rename or drop that relation, then call again.",
            Self::NoSpace { .. } => "Make room; nothing was begun.",
            Self::OtherTable => {
                "CALL undo_workflow_events_migration() clears away what it has left behind."
            }
            Self::Differs { .. } => {
                "Both tables are kept. Calling the procedure of the other direction puts the old one back, with what was \
                 changed since; DROP TABLE workflow_events_old accepts the new one."
            }
        })
    }
}
