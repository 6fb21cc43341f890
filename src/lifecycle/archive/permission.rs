//! Who may set where files are written: the server writes them as its own user, wherever that one may.

use crate::domain::archive::{Archive, Directory};
use crate::domain::policy::PolicyError;
use crate::error::Result;
use crate::error::archive::ArchiveFault;
use crate::pg::identity;

/// What a row of `meshhook_events.policy` says of archives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRow {
    /// The column `archive`.
    pub archive: String,
    /// The column `archive_format`.
    pub format: String,
    /// The column `archive_directory`.
    pub directory: Option<String>,
}

/// Refuses a change of the policy that lets the server write files, by a role that may not have it do so; and what makes
/// no sense.
///
/// # Errors
///
/// 42501; 22023 for a directory that is relative or leads elsewhere.
pub fn require_permitted(new: &PolicyRow, old: Option<&PolicyRow>) -> Result<()> {
    let nonsense = |error| PolicyError::Archive(error);
    if let Some(directory) = &new.directory {
        let is_new = old.is_none_or(|old| old.directory != new.directory);
        let is_used = new.archive == "file" && old.is_none_or(|old| old.archive != "file");
        if is_new {
            Directory::parse(directory).map_err(nonsense)?;
        }
        if (is_new || is_used) && !identity::may_write_server_files() {
            return Err(ArchiveFault::MayNotSetDirectory.into());
        }
        // Where there is none, a constraint says so.
        Archive::from_row(&new.archive, &new.format, new.directory.as_deref()).map_err(nonsense)?;
    }
    Ok(())
}
