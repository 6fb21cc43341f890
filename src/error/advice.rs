//! What an error says beside its message: why it is so, and what to do about it.

use pgrx::PgSqlErrorCode as Sqlstate;

use super::Error;
use crate::domain::plan::Obstacle;

impl Error {
    /// Why, for DETAIL.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::NotPartitioned { rows: Some(rows), .. } => {
                Some(format!("It is a plain table of {rows} rows."))
            }
            Self::NotPartitioned { rows: None, .. } => Some("It is a plain table.".to_owned()),
            Self::WrongPartitioning { key, .. } => Some(format!("Its partition key is {key}.")),
            Self::WrongKeyType { type_name, .. } => Some(format!("It is of type {type_name}.")),
            Self::NotOwner { owner, .. } => Some(format!("It is owned by role \"{owner}\".")),
            Self::NoCreatePrivilege { .. } => {
                Some("A partition is created as the owner of the partitioned table.".to_owned())
            }
            Self::UnsafeOwner { .. } => Some(
                "Attaching a partition runs code that the owner of the referenced table may have put into its \
                 indexes, as the owner of the event log."
                    .to_owned(),
            ),
            Self::DateOutOfRange { .. } => {
                Some("A partition is for a period within the years 1 to 9999.".to_owned())
            }
            Self::RetentionTooShort(_) => {
                Some("The current and future partitions are never dropped.".to_owned())
            }
            Self::LockTimeout { blockers, .. } if blockers.is_empty() => {
                Some("Whoever held it has let go of it since.".to_owned())
            }
            Self::LockTimeout { blockers, .. } | Self::InTheWay { blockers, .. } => {
                let list: Vec<String> = blockers.iter().map(ToString::to_string).collect();
                Some(format!("{}.", list.join("; ")))
            }
            Self::Postponed { budget_ms, .. } => Some(format!(
                "Others are not made to wait much longer than {budget_ms} ms by one call."
            )),
            Self::SlowCheck { limit_ms, .. } => Some(format!(
                "It is done once more under a lock, and nobody is to wait for longer than {limit_ms} ms."
            )),
            Self::Kept { reason, .. } | Self::NotCreated { reason, .. } => reason.detail(),
            Self::CutShort { limit_ms } => Some(format!(
                "A session needed a lock that it held, somebody cancelled it, or it took longer than {} s.",
                limit_ms / 1_000
            )),
            Self::Server(failure) => failure.detail.clone(),
            Self::Archive(fault) => fault.detail(),
            Self::Migration(fault) => fault.detail(),
            _ => None,
        }
    }

    /// What to do, for HINT.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotSetUp { .. } => "Call setup_workflow_events() to create it.",
            Self::NoRuns { .. } => {
                "Create workflow_runs with an \"id uuid PRIMARY KEY\" first: the events of a run are \
                 deleted with it by a foreign key."
            }
            Self::NotPartitioned { .. } => {
                "CALL migrate_workflow_events() moves it into partitions while it is in use."
            }
            Self::NotATable { .. } => "Rename it: the name belongs to the event log.",
            Self::WrongPartitioning { .. } | Self::WrongKeyType { .. } => {
                "Only PARTITION BY RANGE (ts) with ts of type timestamptz can be maintained."
            }
            Self::NotOwner { .. } => {
                "Call it as the owner, as a member of the owning role, or as a superuser."
            }
            Self::UnsafeOwner { .. } => {
                "Give the event log to the role that owns the referenced table: ALTER TABLE … OWNER TO …"
            }
            Self::NoCreatePrivilege { role, schema } => {
                let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
                return Some(format!(
                    "GRANT CREATE ON SCHEMA {} TO {};",
                    quoted(schema),
                    quoted(role)
                ));
            }
            Self::Policy(_) | Self::UnknownTimeZone(_) => {
                "Correct the row of meshhook_events.policy; time zones are those of the view \
                 pg_timezone_names."
            }
            Self::Blocked(obstacle) => match obstacle {
                Obstacle::NameTaken { .. } => "Rename or drop that relation, then call again.",
                Obstacle::Overlaps { .. } => {
                    "From the current period to the policy's premake, \
                     maintain_workflow_events_partitions() fills the rest of a period that is partly held."
                }
                Obstacle::DetachPending { .. } => {
                    "The worker completes it; or complete it with ALTER TABLE … DETACH PARTITION … FINALIZE."
                }
                Obstacle::Undroppable { .. } => "It is retired when that is no longer so.",
                Obstacle::NoLongerOutdated { partition } | Obstacle::Parked { partition } => {
                    return Some(format!(
                        "SELECT restore_workflow_events_partition({}); or drop the table.",
                        literal(partition)
                    ));
                }
                Obstacle::UnfinishedRuns { .. } => {
                    "It is retired when they have finished. Which statuses are final is set in \
                     meshhook_events.policy."
                }
                Obstacle::ReplayUnknown { .. } => "It is kept until that can be told.",
                Obstacle::Held { reason, .. } if reason == "workflow_events is being migrated" => {
                    "It is retired when the migration has ended: see workflow_events_migration_progress."
                }
                Obstacle::Held { partition, .. } => {
                    return Some(format!(
                        "SELECT release_workflow_events_partition({}); where it is needed no more.",
                        literal(partition)
                    ));
                }
                Obstacle::InDoubt { .. } => {
                    "Drop the table, or delete its row from meshhook_events.retired_partition to keep it."
                }
                _ => return None,
            },
            Self::ReadOnly { .. } => "Call it in a transaction that may write.",
            Self::Standby { .. } => "Call it on the primary.",
            Self::LockTimeout { blockers, .. } if blockers.iter().any(|b| b.prepared.is_some()) => {
                "Nothing was changed. End the prepared transaction with COMMIT PREPARED or ROLLBACK PREPARED, \
                 then call again."
            }
            Self::LockTimeout { .. } => {
                "Nothing was changed. Call again when the transaction named above has ended, or raise \
                 pg_meshhook_events.lock_timeout."
            }
            Self::InTheWay { .. } => {
                "It is looked after, and the work is done when that transaction has ended. Nobody waits \
                 meanwhile."
            }
            Self::OtherVersion { .. } => {
                "ALTER EXTENSION pg_meshhook_events UPDATE; and restart the server where the library was \
                 preloaded."
            }
            Self::Internal(_) | Self::NotInstalled => {
                "This is probably a bug in pg_meshhook_events, please report it."
            }
            Self::SlowCheck { indexes, .. } => return Some(indexes.clone()),
            Self::NoPartition { .. } => "They are listed in workflow_events_partition_info.",
            Self::NothingToRestore { .. } => {
                "Parked partitions are in meshhook_events.retired_partition, archived ones in \
                 meshhook_events.archived_partition."
            }
            Self::Changed { .. } => "Call again: what is to be done is decided anew.",
            Self::Postponed { .. } => {
                "Call again: each call goes on where the one before has stopped."
            }
            Self::Kept { reason, .. } => match reason.as_ref() {
                // The server's hint is to drop what depends on it as well.
                Self::Server(failure)
                    if failure.sqlstate == Sqlstate::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST =>
                {
                    "It is dropped once nothing depends on it any more."
                }
                Self::LockTimeout { .. } => {
                    "Call again when the transaction named above has ended."
                }
                reason => return reason.hint(),
            },
            Self::NotCreated { reason, .. } => return reason.hint(),
            Self::Server(failure) => return failure.hint.clone(),
            Self::Archive(fault) => return fault.hint().map(str::to_owned),
            Self::Migration(fault) => return fault.hint().map(str::to_owned),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// A text as a literal of SQL, for hints.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
