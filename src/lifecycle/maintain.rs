//! Maintenance as a function: what is missing from now to the policy's premake is made.

use crate::error::Result;
use crate::lifecycle::context::Context;
use crate::lifecycle::create::{self, Report};
use crate::pg::server;
use crate::settings::Settings;

/// Makes the partitions that are missing. On a standby it makes nothing and gives `None`.
///
/// # Errors
///
/// Where there is no event log that can be maintained, the caller may not maintain it, or a lock
/// cannot be had.
pub fn partitions(settings: Settings) -> Result<Option<Report>> {
    if server::in_recovery() {
        return Ok(None);
    }
    let context = Context::load_for_change("maintain_workflow_events_partitions")?;
    let report = create::missing(&context, 0, settings)?;
    create::record(&context, "maintain", &report, settings)?;
    Ok(Some(report))
}
