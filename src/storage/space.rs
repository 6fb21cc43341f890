//! How much room is left on the disk.

use super::fault;
use crate::error::Result;

/// How many bytes are free for the server where a file lies, by its path in the data directory, which is the server's
/// working directory.
///
/// # Errors
///
/// Where the system doesn't say.
pub fn free_bytes(path: &str) -> Result<i64> {
    let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
    let stat = rustix::fs::statvfs(folder)
        .map_err(|error| fault("look at the disk of", folder, &error.into()))?;
    Ok(i64::try_from(stat.f_bavail.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX))
}
