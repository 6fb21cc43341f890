//! What can go wrong with an archive: files, the archive table, what was read back.

use pgrx::PgSqlErrorCode as Sqlstate;

use crate::domain::csv::CsvError;

/// Why an archive was not made, or nothing was brought back from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveFault {
    /// The policy wants none.
    #[error("the policy of workflow_events wants no archive")]
    NotWanted,
    /// There is no such partition.
    #[error("there is no partition \"{0}\" of workflow_events, attached or parked")]
    NoPartition(String),
    /// There is no archive to bring back.
    #[error("there is no archive of a partition \"{0}\"")]
    NoArchive(String),
    /// Its rows are somewhere else.
    #[error("partition \"{partition}\" can't be archived: it is {what}")]
    Unsuitable {
        /// The partition.
        partition: String,
        /// What it is.
        what: &'static str,
    },
    /// No file can have its name.
    #[error("partition \"{0}\" can't have a file of its name")]
    Name(String),
    /// The directory may be set by those alone who may write files.
    #[error("permission denied to set archive_directory")]
    MayNotSetDirectory,
    /// The system refused something about a file.
    #[error("could not {action} \"{path}\": {reason}")]
    File {
        /// What was to be done, such as `open file`.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// What the system says.
        reason: String,
        /// What kind of trouble it is.
        trouble: Trouble,
    },
    /// What was written, or found, is not the rows of the partition.
    #[error("archive \"{location}\" does not hold what was written to it")]
    Differs {
        /// The table, or the path or URI of the file.
        location: String,
        /// The rows and digest that it should have.
        expected: String,
        /// Those that it has.
        found: String,
    },
    /// A file that is no CSV of ours.
    #[error("file \"{path}\" is not as it was written: {reason}")]
    Csv {
        /// The file.
        path: String,
        /// Why.
        reason: CsvError,
    },
    /// A file whose header doesn't fit the log.
    #[error("file \"{path}\" has column \"{column}\", which the log has not")]
    Column {
        /// The file.
        path: String,
        /// The column.
        column: String,
    },
    /// The archive table is something else.
    #[error("relation \"{relation}\" can't be the archive: it is {what}")]
    NotTheArchive {
        /// Its qualified name.
        relation: String,
        /// What it is.
        what: &'static str,
    },
    /// Rows of the range are in the archive table that no archiving has put there, or that were changed since.
    #[error("table \"{table}\" already holds rows of the range of partition \"{partition}\"")]
    ForeignRows {
        /// The archive table.
        table: String,
        /// The partition.
        partition: String,
        /// Why they are not taken for rows of an earlier archive.
        reason: String,
    },
    /// The archive table is older than a column of the log.
    #[error("table \"{table}\" has no column \"{column}\"")]
    LacksColumn {
        /// The archive table.
        table: String,
        /// The column.
        column: String,
    },
    /// `pg_parquet` is missing.
    #[error("archives in the format parquet need the extension pg_parquet")]
    NoParquet,
    /// An attached partition holds a part of the range.
    #[error("the range of \"{name}\" is held by partition \"{partition}\" {range}")]
    RangeHeld {
        /// What was to be brought back.
        name: String,
        /// The partition that is there.
        partition: String,
        /// Its range.
        range: String,
    },
    /// The name is in use.
    #[error("the name \"{0}\" is taken by another relation")]
    NameTaken(String),
    /// What is noted of an archive makes no sense.
    #[error("the location of archive {id} is not that of a file of partition \"{partition}\"")]
    Location {
        /// The number of the archive.
        id: i64,
        /// The partition.
        partition: String,
    },
}

/// What kind of trouble the system has with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The server's user may not do it.
    Permission,
    /// It is not there.
    Missing,
    /// It is there already.
    Exists,
    /// It is something else: a symbolic link, a directory, no directory.
    Kind,
    /// There is no room for it.
    Full,
    /// Somebody else is writing it.
    InUse,
    /// Anything else.
    Other,
}

impl ArchiveFault {
    /// Its SQLSTATE.
    #[must_use]
    pub const fn sqlstate(&self) -> Sqlstate {
        match self {
            Self::NotWanted | Self::ForeignRows { .. } => {
                Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::NoPartition(_) | Self::NoArchive(_) => Sqlstate::ERRCODE_UNDEFINED_TABLE,
            Self::Unsuitable { .. } | Self::NoParquet => Sqlstate::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::Name(_) => Sqlstate::ERRCODE_INVALID_NAME,
            Self::MayNotSetDirectory => Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::File { trouble, .. } => match trouble {
                Trouble::Permission => Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE,
                Trouble::Missing => Sqlstate::ERRCODE_UNDEFINED_FILE,
                Trouble::Exists => Sqlstate::ERRCODE_DUPLICATE_FILE,
                Trouble::Kind => Sqlstate::ERRCODE_WRONG_OBJECT_TYPE,
                Trouble::Full => Sqlstate::ERRCODE_DISK_FULL,
                Trouble::InUse => Sqlstate::ERRCODE_OBJECT_IN_USE,
                Trouble::Other => Sqlstate::ERRCODE_IO_ERROR,
            },
            Self::Differs { .. } => Sqlstate::ERRCODE_DATA_CORRUPTED,
            Self::Csv { .. } | Self::Column { .. } => Sqlstate::ERRCODE_BAD_COPY_FILE_FORMAT,
            Self::NotTheArchive { .. } => Sqlstate::ERRCODE_WRONG_OBJECT_TYPE,
            Self::LacksColumn { .. } => Sqlstate::ERRCODE_UNDEFINED_COLUMN,
            Self::RangeHeld { .. } => Sqlstate::ERRCODE_INVALID_OBJECT_DEFINITION,
            Self::NameTaken(_) => Sqlstate::ERRCODE_DUPLICATE_TABLE,
            Self::Location { .. } => Sqlstate::ERRCODE_DATA_CORRUPTED,
        }
    }

    /// Why, for DETAIL.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::MayNotSetDirectory => Some(
                "Only roles with the privileges of pg_write_server_files may choose where files are written."
                    .to_owned(),
            ),
            Self::Differs { expected, found, .. } => {
                Some(format!("It should have {expected}, and has {found}."))
            }
            Self::ForeignRows { reason, .. } => Some(reason.clone()),
            _ => None,
        }
    }

    /// What to do, for HINT.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotWanted => {
                "Choose one: UPDATE meshhook_events.policy SET archive = 'table'; or 'file', with archive_format \
                 and archive_directory."
            }
            Self::NoPartition(_) => {
                "The view workflow_events_partition_info lists the attached ones, \
                 meshhook_events.retired_partition those that are parked."
            }
            Self::NoArchive(_) => "meshhook_events.archived_partition lists the archives.",
            Self::Unsuitable { .. } => "Archive its rows by hand.",
            Self::Name(_) => "Rename it, or archive it into a table.",
            Self::MayNotSetDirectory => {
                "Ask a superuser, or GRANT pg_write_server_files TO the role."
            }
            Self::File { trouble, .. } => match trouble {
                Trouble::Permission => {
                    "Files are written and read by the user that the server runs as, who needs to write and search \
                     the directory."
                }
                Trouble::Missing => {
                    "Make the directory on the server, for the user that it runs as, or correct archive_directory \
                     in meshhook_events.policy."
                }
                Trouble::Exists => "No file is overwritten: move it away.",
                Trouble::Kind => {
                    "Symbolic links are not followed: archive_directory must be a directory, and an archive a plain \
                     file."
                }
                Trouble::Full => {
                    "Make room, or choose another archive_directory. The partition is still there."
                }
                Trouble::InUse => {
                    "Another archiving of a partition of that name is under way: call again."
                }
                Trouble::Other => return None,
            },
            Self::Differs { .. } => {
                "The partition, where it is still there, was left as it is. Look at the disk and at the archive."
            }
            Self::Csv { .. } => "It was cut off or changed by somebody. Look for a copy.",
            Self::Column { .. } => "Add the column to workflow_events, then call again.",
            Self::NotTheArchive { .. } => {
                "Rename it: the name belongs to the archive of workflow_events."
            }
            Self::ForeignRows { .. } => {
                "Nothing is deleted that archiving has not put there: look at the rows, and move them elsewhere."
            }
            Self::LacksColumn { .. } => {
                "Add it with ALTER TABLE … ADD COLUMN, with the type it has in workflow_events."
            }
            Self::NoParquet => {
                "CREATE EXTENSION pg_parquet; or choose another: UPDATE meshhook_events.policy SET archive_format \
                 = 'csv'."
            }
            Self::RangeHeld { .. } => "Only a range that no partition holds can be brought back.",
            Self::NameTaken(_) => "Rename or drop that relation, then call again.",
            Self::Location { .. } => return None,
        })
    }
}
