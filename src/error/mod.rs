//! Every error that this extension raises: one cause each, with SQLSTATE, DETAIL and HINT.
//!
//! The style is PostgreSQL's (manual, "Error Message Style Guide"): the message says what, DETAIL says
//! why, HINT says what to do. XX000 means a bug of ours.

mod advice;
pub mod archive;
pub mod migration;

use pgrx::PgSqlErrorCode as Sqlstate;
use pgrx::pg_sys::panic::ErrorReport;

use self::archive::ArchiveFault;
use self::migration::MigrationFault;
use crate::domain::blocker::Blocker;
use crate::domain::calendar::CalendarError;
use crate::domain::plan::Obstacle;
use crate::domain::policy::PolicyError;

/// What functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that the server raised in a step that was rolled back.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The SQLSTATE. pgrx knows PostgreSQL's own codes only; any other arrives as XX000.
    pub sqlstate: Sqlstate,
    /// The primary message.
    pub message: String,
    /// DETAIL.
    pub detail: Option<String>,
    /// HINT.
    pub hint: Option<String>,
}

impl Failure {
    /// The five characters of its SQLSTATE.
    #[must_use]
    pub fn sqlstate_text(&self) -> String {
        sqlstate_text(self.sqlstate)
    }
}

/// The five characters of a SQLSTATE, packed six bits each (`MAKE_SQLSTATE` in `utils/elog.h`).
fn sqlstate_text(sqlstate: Sqlstate) -> String {
    let packed = sqlstate as usize;
    let character = |i: usize| u8::try_from((packed >> (6 * i)) & 0x3f).unwrap_or(0) + b'0';
    (0..5).map(|i| char::from(character(i))).collect()
}

/// The SQLSTATE of these five characters.
#[must_use]
pub fn sqlstate_of(text: &str) -> Sqlstate {
    let packed = text
        .bytes()
        .take(5)
        .enumerate()
        .map(|(i, byte)| i32::from(byte.wrapping_sub(b'0') & 0x3f) << (6 * i))
        .sum::<i32>();
    Sqlstate::from(packed)
}

/// What can go wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The extension's row in `pg_extension` is missing: it is being dropped, or half restored.
    #[error("extension \"pg_meshhook_events\" is not installed in this database")]
    NotInstalled,
    /// There is no `workflow_events`.
    #[error("table \"{table}\" does not exist")]
    NotSetUp {
        /// Its qualified name.
        table: String,
    },
    /// There is no `workflow_runs` for the foreign key to point to.
    #[error("table \"{table}\" does not exist")]
    NoRuns {
        /// Its qualified name.
        table: String,
    },
    /// `workflow_events` is a plain table.
    #[error("table \"{table}\" is not partitioned")]
    NotPartitioned {
        /// Its qualified name.
        table: String,
        /// How many rows it holds, where they were counted.
        rows: Option<i64>,
    },
    /// `workflow_events` is no table at all.
    #[error("\"{relation}\" is not a table")]
    NotATable {
        /// Its qualified name.
        relation: String,
    },
    /// `workflow_events` is partitioned in a way that is not ours.
    #[error("table \"{table}\" is not partitioned by range of column \"ts\"")]
    WrongPartitioning {
        /// Its qualified name.
        table: String,
        /// Its partition key, as PostgreSQL writes it.
        key: String,
    },
    /// The partition key `ts` is not a `timestamptz`.
    #[error("column \"ts\" of table \"{table}\" is not of type timestamp with time zone")]
    WrongKeyType {
        /// The table's qualified name.
        table: String,
        /// The type it has.
        type_name: String,
    },
    /// A column without which the log cannot be read.
    #[error("table \"{table}\" has no column \"{column}\"")]
    MissingColumn {
        /// The table's qualified name.
        table: String,
        /// The column.
        column: String,
    },
    /// The caller may not maintain the table.
    #[error("must be owner of table {table}")]
    NotOwner {
        /// The table's name.
        table: String,
        /// The role that owns it.
        owner: String,
    },
    /// A superuser's log whose foreign key points to somebody else's table.
    #[error(
        "table \"{table}\" of superuser \"{owner}\" depends on table \"{referenced}\" of another role"
    )]
    UnsafeOwner {
        /// The event log.
        table: String,
        /// The role that owns it.
        owner: String,
        /// The table that its foreign key points to.
        referenced: String,
    },
    /// The owner may not create tables beside its table.
    #[error("role \"{role}\" may not create tables in schema \"{schema}\"")]
    NoCreatePrivilege {
        /// The role that owns the table.
        role: String,
        /// The table's schema.
        schema: String,
    },
    /// An argument that must be given.
    #[error("{argument} must not be null")]
    Null {
        /// The argument's name.
        argument: &'static str,
    },
    /// A date that has no period.
    #[error("date out of range: {value}")]
    DateOutOfRange {
        /// The date, as text.
        value: String,
    },
    /// A retention that would leave nothing.
    #[error("retention_months must be at least 1, not {0}")]
    RetentionTooShort(i32),
    /// Something stands in the way of what the policy wants.
    #[error(transparent)]
    Blocked(#[from] Obstacle),
    /// A partition that could not be made.
    #[error("could not create partition \"{name}\": {reason}")]
    NotCreated {
        /// The partition that was wanted.
        name: String,
        /// Why.
        reason: Box<Error>,
    },
    /// Partitions that were left for another call, because the locks for them had been held long enough.
    #[error("{count} partition(s) are left for another call")]
    Postponed {
        /// How many.
        count: usize,
        /// How long the locks of one step may take, in milliseconds.
        budget_ms: i32,
    },
    /// The policy's row holds nonsense.
    #[error("the policy of workflow_events is not valid: {0}")]
    Policy(#[from] PolicyError),
    /// The policy's time zone is unknown to this server.
    #[error("time zone \"{0}\" of the policy is not recognized")]
    UnknownTimeZone(String),
    /// Nothing can be written in this transaction.
    #[error("cannot execute {function}() in a read-only transaction")]
    ReadOnly {
        /// The function called.
        function: &'static str,
    },
    /// Nothing can be written on this server.
    #[error("cannot execute {function}() during recovery")]
    Standby {
        /// The function called.
        function: &'static str,
    },
    /// A lock could not be had in time.
    #[error("could not lock \"{relation}\" within {budget_ms} ms")]
    LockTimeout {
        /// The relation.
        relation: String,
        /// How long all locks of the step may take, in milliseconds.
        budget_ms: i32,
        /// Who held it at that moment.
        blockers: Vec<Blocker>,
    },
    /// Somebody holds what is needed, and nothing was tried, so that nobody had to wait.
    #[error("\"{relation}\" is in use by a longer transaction")]
    InTheWay {
        /// The relation.
        relation: String,
        /// Who holds it.
        blockers: Vec<Blocker>,
    },
    /// The SQL objects are of another version than the library.
    #[error(
        "the library is of version {library}, the SQL objects of the extension are of {installed}"
    )]
    OtherVersion {
        /// The version in `pg_extension`.
        installed: String,
        /// The version of the library.
        library: &'static str,
    },
    /// A partition is no longer what it was when the decision about it was made.
    #[error("partition \"{partition}\" was changed meanwhile")]
    Changed {
        /// Its name.
        partition: String,
    },
    /// Looking whether a partition is needed takes longer than others may be kept waiting.
    #[error("looking for runs that need partition \"{partition}\" took {took_ms} ms")]
    SlowCheck {
        /// Its name.
        partition: String,
        /// How long it took, in milliseconds.
        took_ms: u64,
        /// How long it may take, in milliseconds.
        limit_ms: i32,
        /// The statements that make the indexes that it lacks.
        indexes: String,
    },
    /// There is no partition, parked or attached, of that name.
    #[error("there is no partition \"{name}\" of workflow_events")]
    NoPartition {
        /// The name.
        name: String,
    },
    /// Nothing of that name can be put back.
    #[error("there is no parked or archived partition \"{name}\"")]
    NothingToRestore {
        /// The name.
        name: String,
    },
    /// An argument that makes no sense.
    #[error("{argument} {problem}")]
    Argument {
        /// Its name.
        argument: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A partition that was to be dropped and is kept.
    #[error("kept partition \"{partition}\": {reason}")]
    Kept {
        /// Its name.
        partition: String,
        /// Why.
        reason: Box<Error>,
    },
    /// Work that gives way to others was cancelled.
    #[error("it was cut short")]
    CutShort {
        /// How long it might have taken, in milliseconds.
        limit_ms: i32,
    },
    /// The server raised an error in a step that was rolled back.
    #[error(transparent)]
    Server(#[from] Failure),
    /// An archive was not made, or nothing was brought back from it.
    #[error(transparent)]
    Archive(#[from] ArchiveFault),
    /// A migration was not begun, or can't go on.
    #[error(transparent)]
    Migration(#[from] MigrationFault),
    /// A query of ours gave what it cannot give.
    #[error("unexpected result of an internal query: {0}")]
    Internal(String),
}

impl From<CalendarError> for Error {
    fn from(error: CalendarError) -> Self {
        Self::DateOutOfRange { value: error.to_string() }
    }
}

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

impl Error {
    /// Its SQLSTATE.
    #[must_use]
    pub const fn sqlstate(&self) -> Sqlstate {
        match self {
            Self::NotInstalled => Sqlstate::ERRCODE_UNDEFINED_OBJECT,
            Self::NotSetUp { .. } | Self::NoRuns { .. } => Sqlstate::ERRCODE_UNDEFINED_TABLE,
            Self::NotPartitioned { .. } | Self::NotATable { .. } => {
                Sqlstate::ERRCODE_WRONG_OBJECT_TYPE
            }
            Self::WrongPartitioning { .. } | Self::WrongKeyType { .. } => {
                Sqlstate::ERRCODE_INVALID_TABLE_DEFINITION
            }
            Self::MissingColumn { .. } => Sqlstate::ERRCODE_UNDEFINED_COLUMN,
            Self::NotOwner { .. } | Self::NoCreatePrivilege { .. } | Self::UnsafeOwner { .. } => {
                Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            Self::Null { .. } => Sqlstate::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::DateOutOfRange { .. } => Sqlstate::ERRCODE_DATETIME_FIELD_OVERFLOW,
            Self::RetentionTooShort(_) | Self::Policy(_) | Self::UnknownTimeZone(_) => {
                Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::Blocked(obstacle) => match obstacle {
                Obstacle::NameTaken { .. } => Sqlstate::ERRCODE_DUPLICATE_TABLE,
                Obstacle::Overlaps { .. } => Sqlstate::ERRCODE_INVALID_OBJECT_DEFINITION,
                Obstacle::Name(_) => Sqlstate::ERRCODE_NAME_TOO_LONG,
                Obstacle::Calendar(_) => Sqlstate::ERRCODE_DATETIME_FIELD_OVERFLOW,
                Obstacle::DetachPending { .. }
                | Obstacle::InDoubt { .. }
                | Obstacle::NoLongerOutdated { .. }
                | Obstacle::Undroppable { .. }
                | Obstacle::Foreign { .. }
                | Obstacle::UnfinishedRuns { .. }
                | Obstacle::ReplayUnknown { .. }
                | Obstacle::Held { .. }
                | Obstacle::Parked { .. }
                | Obstacle::Unreadable { .. } => Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            },
            Self::ReadOnly { .. } | Self::Standby { .. } => {
                Sqlstate::ERRCODE_READ_ONLY_SQL_TRANSACTION
            }
            Self::LockTimeout { .. } | Self::InTheWay { .. } => {
                Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE
            }
            Self::OtherVersion { .. } => Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Changed { .. } | Self::SlowCheck { .. } => {
                Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::NoPartition { .. } | Self::NothingToRestore { .. } => {
                Sqlstate::ERRCODE_UNDEFINED_TABLE
            }
            Self::Argument { .. } => Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::Postponed { .. } => Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::Kept { reason, .. } | Self::NotCreated { reason, .. } => reason.sqlstate(),
            Self::CutShort { .. } => Sqlstate::ERRCODE_QUERY_CANCELED,
            Self::Server(failure) => failure.sqlstate,
            Self::Archive(fault) => fault.sqlstate(),
            Self::Migration(fault) => fault.sqlstate(),
            Self::Internal(_) => Sqlstate::ERRCODE_INTERNAL_ERROR,
        }
    }

    /// Who was in the way, where this is about a lock; with the relation that they hold.
    #[must_use]
    pub fn in_the_way(&self) -> Option<(&str, &[Blocker])> {
        match self {
            Self::LockTimeout { relation, blockers, .. }
            | Self::InTheWay { relation, blockers } => Some((relation, blockers)),
            Self::Kept { reason, .. } | Self::NotCreated { reason, .. } => reason.in_the_way(),
            _ => None,
        }
    }

    /// Whether a lock was waited for in vain.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        let sqlstate = self.sqlstate();
        (sqlstate == Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE && !self.is_in_the_way())
            || sqlstate == Sqlstate::ERRCODE_T_R_DEADLOCK_DETECTED
    }

    /// Whether nothing was tried, because somebody holds what is needed.
    #[must_use]
    pub fn is_in_the_way(&self) -> bool {
        match self {
            Self::InTheWay { .. } => true,
            Self::Kept { reason, .. } | Self::NotCreated { reason, .. } => reason.is_in_the_way(),
            _ => false,
        }
    }

    /// This error as the reason for which a partition could not be made; an obstacle that names the
    /// partition says it already.
    #[must_use]
    pub fn not_created(self, partition: &str) -> Self {
        Self::NotCreated { name: partition.to_owned(), reason: Box::new(self) }
    }

    /// This error as the reason for which a partition is kept.
    #[must_use]
    pub fn kept(self, partition: &str) -> Self {
        Self::Kept { partition: partition.to_owned(), reason: Box::new(self) }
    }

    /// This error of work that gives way: a cancel as what it means there.
    #[must_use]
    pub fn cut_short(self, limit_ms: i32) -> Self {
        match self {
            Self::Server(failure) if failure.sqlstate == Sqlstate::ERRCODE_QUERY_CANCELED => {
                Self::CutShort { limit_ms }
            }
            other => other,
        }
    }

    /// This error as something that can be recorded or shown beside others.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        Failure {
            sqlstate: self.sqlstate(),
            message: self.to_string(),
            detail: self.detail(),
            hint: self.hint(),
        }
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        let mut report = Self::new(error.sqlstate(), error.to_string(), "pg_meshhook_events");
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}
