//! Row level security of partitions: the parent's flags and policies.

use std::collections::BTreeSet;

use pgrx::PgSqlErrorCode as Sqlstate;
use pgrx::pg_sys::Oid;

use crate::db::ident::{Ident, Qualified};
use crate::db::query;
use crate::error::Result;
use crate::pg::{expression, subtransaction};

/// A row security policy as stored, its expressions as node trees.
struct StoredPolicy {
    relation: Oid,
    name: String,
    restrictive: bool,
    command: String,
    roles: String,
    using: Option<String>,
    check: Option<String>,
}

/// A policy's clauses as CREATE POLICY takes them, written out for one relation.
#[derive(Debug, PartialEq, Eq)]
struct RowPolicy {
    name: String,
    restrictive: bool,
    target: String,
    using: Option<String>,
    check: Option<String>,
}

/// The policies of `table` and of its partitions.
fn stored_policies(table: Oid) -> Result<Vec<StoredPolicy>> {
    let sql = "SELECT p.polrelid, p.polname::text, NOT p.polpermissive, \
               CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' \
                             WHEN 'd' THEN 'DELETE' ELSE 'ALL' END, \
               (SELECT pg_catalog.string_agg( \
                    CASE WHEN m.oid = 0 THEN 'PUBLIC' \
                         ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(m.oid)) END, \
                    ', ' ORDER BY m.oid) \
                FROM pg_catalog.unnest(p.polroles) m (oid)), \
               p.polqual::text, p.polwithcheck::text \
               FROM pg_catalog.pg_policy p \
               WHERE p.polrelid = $1 \
                  OR p.polrelid IN (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = $1) \
               ORDER BY p.polrelid, p.polname";
    query::read(sql, &[table.into()], |row| {
        Ok(StoredPolicy {
            relation: row.get(1)?,
            name: row.get(2)?,
            restrictive: row.get(3)?,
            command: row.get(4)?,
            roles: row.get(5)?,
            using: row.nullable(6)?,
            check: row.nullable(7)?,
        })
    })
}

impl StoredPolicy {
    fn target(&self) -> String {
        format!("FOR {} TO {}", self.command, self.roles)
    }

    /// The policy as one of `relation`, which has the same columns.
    fn written_for(&self, relation: Oid) -> Result<RowPolicy> {
        let write = |tree: &Option<String>| {
            tree.as_deref().map(|t| expression::written_for(self.relation, relation, t)).transpose()
        };
        Ok(RowPolicy {
            name: self.name.clone(),
            restrictive: self.restrictive,
            target: self.target(),
            using: write(&self.using)?,
            check: write(&self.check)?,
        })
    }

    /// A policy of the same name, command and roles that lets nothing through.
    fn closed(&self) -> RowPolicy {
        let nothing = || Some("false".to_owned());
        let (reads, writes) =
            (self.command != "INSERT", !matches!(&*self.command, "SELECT" | "DELETE"));
        RowPolicy {
            name: self.name.clone(),
            restrictive: self.restrictive,
            target: self.target(),
            using: if reads { nothing() } else { None },
            check: if writes { nothing() } else { None },
        }
    }
}

impl RowPolicy {
    fn create_on(&self, table: Qualified) -> Result<()> {
        let kind = if self.restrictive { "RESTRICTIVE" } else { "PERMISSIVE" };
        let clause = |word: &str, expression: &Option<String>| {
            expression.as_ref().map(|e| format!(" {word} ({e})")).unwrap_or_default()
        };
        let sql = format!(
            "CREATE POLICY {} ON {table} AS {kind} {}{}{}",
            Ident(&self.name),
            self.target,
            clause("USING", &self.using),
            clause("WITH CHECK", &self.check)
        );
        query::execute(&sql, &[])
    }
}

/// Turns row level security of `name` on, and forces it, where that of `parent` is.
pub fn turn_on(parent: Oid, name: Qualified) -> Result<()> {
    let flags =
        "SELECT relrowsecurity, relforcerowsecurity FROM pg_catalog.pg_class WHERE oid = $1";
    let (enabled, forced) =
        query::read_one(flags, &[parent.into()], |row| Ok((row.get(1)?, row.get(2)?)))?
            .unwrap_or((false, false));
    if enabled {
        query::execute(&format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"), &[])?;
    }
    if forced {
        query::execute(&format!("ALTER TABLE {name} FORCE ROW LEVEL SECURITY"), &[])?;
    }
    Ok(())
}

/// Turns row level security on as on the parent, and copies its policies.
///
/// A policy that can't be copied must not hold up the partition. Without a permissive one, fewer rows
/// are seen; in the place of a restrictive one, one that lets nothing through is made.
pub fn copy(parent: Oid, partition: Oid, name: Qualified) -> Result<Vec<String>> {
    turn_on(parent, name)?;
    let mut notes = Vec::new();
    for policy in stored_policies(parent)?.iter().filter(|policy| policy.relation == parent) {
        let copied = subtransaction::run(|| policy.written_for(partition)?.create_on(name));
        if let Err(error) = copied {
            let policy_name = &policy.name;
            let instead = if policy.restrictive {
                policy.closed().create_on(name)?;
                "; one that lets nothing through was made instead"
            } else {
                ""
            };
            notes.push(format!(
                "policy \"{policy_name}\" was not copied to partition \"{}\": {error}{instead}",
                name.name
            ));
        }
    }
    Ok(notes)
}

/// Makes an existing partition no more open to queries than its parent: row level security is turned
/// on and forced where the parent's is, and the parent's policies are copied where it has none.
pub fn close(parent: Oid, partition: Oid, name: Qualified) -> Result<Vec<String>> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = $1)";
    if query::read_one(sql, &[partition.into()], |row| row.get(1))?.unwrap_or(false) {
        turn_on(parent, name)?;
        return Ok(Vec::new());
    }
    copy(parent, partition, name)
}

/// The partitions of `table`, by OID, that have other policies than it has.
///
/// A policy that can't be written out for a partition counts as other.
pub fn partitions_with_other_policies(table: Oid) -> Result<BTreeSet<u32>> {
    let stored = stored_policies(table)?;
    let of = |relation: Oid| stored.iter().filter(move |policy| policy.relation == relation);
    let sql = "SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = $1";
    let partitions = query::read(sql, &[table.into()], |row| row.get::<Oid>(1))?;
    let mut differing = BTreeSet::new();
    for partition in partitions {
        let written = |relation: Oid| {
            subtransaction::run(|| {
                of(relation).map(|policy| policy.written_for(partition)).collect::<Result<Vec<_>>>()
            })
        };
        if of(table).next().is_none() && of(partition).next().is_none() {
            continue;
        }
        let differs = match (written(table), written(partition)) {
            // Somebody has the partition locked: that says nothing about its policies.
            (Err(error), _) | (_, Err(error))
                if error.sqlstate() == Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE =>
            {
                return Err(error);
            }
            (Ok(wanted), Ok(present)) => wanted != present,
            _ => true,
        };
        if differs {
            differing.insert(partition.to_u32());
        }
    }
    Ok(differing)
}
