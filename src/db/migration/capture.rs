//! The triggers that note which events are changed while they are copied. To be called as the extension's owner, who alone
//! may use their function.

use pgrx::pg_sys::Oid;

use crate::db::ident::{Ident, Qualified};
use crate::db::query;
use crate::error::Result;

/// The function of both.
pub const FUNCTION: &str = "meshhook_events.capture_change";

/// The trigger for single rows.
const TRIGGER: &str = "pg_meshhook_events_capture";

/// The one for all rows at once.
const ON_TRUNCATE: &str = "pg_meshhook_events_capture_truncate";

/// Which writers have their changes noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// All of them.
    All,
    /// All but those who have turned triggers off (`session_replication_role`), as the copying does.
    WithTriggers,
}

/// Makes them on a table that keeps rows itself. Locks it in SHARE ROW EXCLUSIVE mode.
pub fn create(table: Qualified, writers: Writers) -> Result<()> {
    let (trigger, on_truncate) = (Ident(TRIGGER), Ident(ON_TRUNCATE));
    query::execute(
        &format!(
            "CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {table} \
             FOR EACH ROW EXECUTE FUNCTION meshhook_events.capture_change()"
        ),
        &[],
    )?;
    query::execute(
        &format!(
            "CREATE OR REPLACE TRIGGER {on_truncate} AFTER TRUNCATE ON {table} \
             FOR EACH STATEMENT EXECUTE FUNCTION meshhook_events.capture_change()"
        ),
        &[],
    )?;
    match writers {
        Writers::All => note_all(table),
        Writers::WithTriggers => Ok(()),
    }
}

/// From now on changes by the copying are not noted there. Locks the table in SHARE ROW EXCLUSIVE mode.
pub fn spare_copying(table: Qualified) -> Result<()> {
    for name in [Ident(TRIGGER), Ident(ON_TRUNCATE)] {
        query::execute(&format!("ALTER TABLE {table} ENABLE TRIGGER {name}"), &[])?;
    }
    Ok(())
}

/// From now on changes by everybody are noted there. Locks the table in SHARE ROW EXCLUSIVE mode.
pub fn note_all(table: Qualified) -> Result<()> {
    for name in [Ident(TRIGGER), Ident(ON_TRUNCATE)] {
        query::execute(&format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"), &[])?;
    }
    Ok(())
}

/// Removes them, whatever they are called. Locks the table in ACCESS EXCLUSIVE mode.
pub fn drop(oid: Oid, table: Qualified) -> Result<()> {
    let sql = "SELECT tgname::text FROM pg_catalog.pg_trigger \
               WHERE tgrelid = $1 AND tgfoid = (SELECT pg_catalog.to_regproc($2)) ORDER BY 1";
    for name in query::read(sql, &[oid.into(), FUNCTION.into()], |row| row.get::<String>(1))? {
        query::execute(&format!("DROP TRIGGER {} ON {table}", Ident(&name)), &[])?;
    }
    Ok(())
}

/// The tables that have them, or one of them.
pub fn tables() -> Result<Vec<Oid>> {
    let sql = "SELECT DISTINCT tgrelid FROM pg_catalog.pg_trigger \
               WHERE tgfoid = (SELECT pg_catalog.to_regproc($1)) ORDER BY 1";
    query::read(sql, &[FUNCTION.into()], |row| row.get(1))
}

/// Whether a table, or one of its partitions, has them.
pub fn is_on_leaf_of(table: Oid) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger \
                              WHERE tgfoid = (SELECT pg_catalog.to_regproc($2)) AND (tgrelid = $1 OR tgrelid IN ( \
                                  SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t)))";
    Ok(query::read_one(sql, &[table.into(), FUNCTION.into()], |row| row.get(1))?.unwrap_or(false))
}
