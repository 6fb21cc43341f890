//! The functions behind the procedures that migrate; those are in `sql/finalize.sql`, because PL/pgSQL alone commits.

use pgrx::prelude::*;

#[pg_schema]
mod meshhook_events {
    use pgrx::pg_sys::panic::ErrorReport;
    use pgrx::prelude::*;

    use crate::api::required;
    use crate::error::Error;
    use crate::lifecycle::migrate::begin::{self, Begun};
    use crate::lifecycle::migrate::{self, Direction, Next, Taker};
    use crate::settings::{Settings, WorkerSettings};

    /// Begins a migration in that direction, goes on with the one that is under way, or turns it round; whether the caller
    /// is to take its steps.
    ///
    /// # Errors
    ///
    /// 22004 for NULL, 42809 where the table is the other kind already, 0A000 where something can't be carried over, 42P16
    /// without a primary key, 53100 without room, 55006 where another session is at it, 42501 where the caller may not act
    /// as the owner, 25006 where nothing can be written.
    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn begin_migration(
        direction: Option<&str>,
        in_background: Option<bool>,
    ) -> Result<bool, ErrorReport> {
        let word = required(direction, "direction")?;
        let unknown =
            || Error::Argument { argument: "direction", problem: "is neither migrate nor undo" };
        let direction = Direction::parse(word).ok_or_else(unknown)?;
        let begun = begin::begin(
            direction,
            in_background,
            Settings::current(),
            &WorkerSettings::current(),
        )?;
        if begun == Begun::InBackground {
            notice!("the background worker does it: see workflow_events_migration_progress");
        }
        Ok(begun == Begun::Here)
    }

    /// Takes one step of the migration that is under way: how many milliseconds to wait before the next, -1 where it
    /// failed, NULL where it has ended. What it failed with is kept.
    ///
    /// `goes_on`: the caller takes the next step at once if there is nothing to wait for. A step that is to be followed by
    /// the switch leaves its locks on the log to that.
    ///
    /// # Errors
    ///
    /// 55006 where another session is at it, 42501 where the caller may not act as the owner, 25006 where nothing can be
    /// written.
    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn migration_step(
        goes_on: default!(Option<bool>, "false"),
    ) -> Result<Option<i32>, ErrorReport> {
        let taker = Taker::Session { goes_on: goes_on.unwrap_or(false) };
        Ok(match migrate::step(taker, Settings::current())? {
            Next::Step(pause_ms) | Next::Again(pause_ms, _) => Some(pause_ms),
            Next::Failed(_) => Some(-1),
            Next::End => None,
        })
    }

    /// Raises what the last step of the migration failed with; does nothing where it did not fail.
    ///
    /// # Errors
    ///
    /// That.
    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn raise_migration_failure() -> Result<(), ErrorReport> {
        match migrate::failure()? {
            Some(failure) => Err(Error::Server(failure).into()),
            None => Ok(()),
        }
    }
}
