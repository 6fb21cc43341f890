//! A partition is never more open than its parent: privileges, row level security, replica identity.
//!
//! `LIKE` copies none of these, and a partition can be queried directly, past what protects the
//! parent. They are brought into line before the partition is attached, when nobody sees it yet.
//!
//! Publications need nothing: a partition is published through its parent (manual, CREATE
//! PUBLICATION), and storage parameters neither: a partitioned table has none.

use pgrx::pg_sys::Oid;

use crate::db::catalog::Table;
use crate::db::ident::{Ident, Qualified};
use crate::db::{query, row_security};
use crate::error::{Error, Result};

/// Brings `partition`, a table made like the event log, into line with it. Gives, as text, what could
/// not be copied; the partition is then less open than its parent.
pub fn copy(table: &Table, partition: Oid, name: Qualified) -> Result<Vec<String>> {
    copy_privileges(table.oid, partition, name)?;
    copy_column_privileges(table.oid, name)?;
    let notes = row_security::copy(table.oid, partition, name)?;
    copy_replica_identity(table.oid, name)?;
    Ok(notes)
}

/// Takes all privileges on a table, and on its columns, from everybody but its owner.
pub fn close_to_others(table: Oid, name: Qualified) -> Result<()> {
    let mut grantees: Vec<_> = grants(table)?.into_iter().map(|grant| grant.grantee).collect();
    let sql = "SELECT DISTINCT r.rolname::text FROM pg_catalog.pg_attribute a \
               CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) x \
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee \
               WHERE a.attrelid = $1 AND NOT a.attisdropped AND (x.grantee = 0 OR r.oid IS NOT NULL)";
    grantees.extend(query::read(sql, &[table.into()], |row| row.nullable::<String>(1))?);
    grantees.sort();
    grantees.dedup();
    let owner = query::read_one(
        "SELECT pg_catalog.pg_get_userbyid(relowner)::text FROM pg_catalog.pg_class WHERE oid = $1",
        &[table.into()],
        |row| row.get::<String>(1),
    )?;
    for grantee in grantees.into_iter().filter(|grantee| *grantee != owner) {
        let grantee = Grantee(grantee);
        query::execute(&format!("REVOKE ALL ON TABLE {name} FROM {grantee} CASCADE"), &[])?;
    }
    Ok(())
}

/// Brings a partition that was taken out of sight back into line with its parent; what it has of its own is kept. Gives, as
/// text, what could not be copied.
pub fn open_again(table: &Table, partition: Oid, name: Qualified) -> Result<Vec<String>> {
    copy_privileges(table.oid, partition, name)?;
    copy_column_privileges(table.oid, name)?;
    row_security::close(table.oid, partition, name)
}

/// A role in GRANT and REVOKE.
struct Grantee(Option<String>);

impl std::fmt::Display for Grantee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(role) => write!(f, "{}", Ident(role)),
            None => f.write_str("PUBLIC"),
        }
    }
}

/// One entry of an access control list.
#[derive(PartialEq, Eq)]
struct Grant {
    grantee: Option<String>,
    privilege: String,
    grantable: bool,
}

/// The access control list of a table, with the default written out.
fn grants(table: Oid) -> Result<Vec<Grant>> {
    let sql = "SELECT r.rolname::text, x.privilege_type, pg_catalog.bool_or(x.is_grantable) \
               FROM pg_catalog.pg_class c \
               CROSS JOIN LATERAL pg_catalog.aclexplode( \
                   COALESCE(c.relacl, pg_catalog.acldefault('r', c.relowner))) x \
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee \
               WHERE c.oid = $1 AND (x.grantee = 0 OR r.oid IS NOT NULL) \
               GROUP BY 1, 2 ORDER BY 1 NULLS FIRST, 2";
    query::read(sql, &[table.into()], |row| {
        Ok(Grant { grantee: row.nullable(1)?, privilege: row.get(2)?, grantable: row.get(3)? })
    })
}

/// Default privileges (`ALTER DEFAULT PRIVILEGES`) may have opened the new table to more roles than
/// the parent: they are taken away, and the parent's are given.
fn copy_privileges(parent: Oid, partition: Oid, name: Qualified) -> Result<()> {
    let (wanted, present) = (grants(parent)?, grants(partition)?);
    if wanted == present {
        return Ok(());
    }
    let mut grantees: Vec<_> = present.iter().map(|grant| grant.grantee.clone()).collect();
    grantees.dedup();
    for grantee in grantees {
        query::execute(&format!("REVOKE ALL ON TABLE {name} FROM {}", Grantee(grantee)), &[])?;
    }
    for grant in wanted {
        let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
        let (privilege, grantee) = (keyword(&grant.privilege)?, Grantee(grant.grantee));
        query::execute(&format!("GRANT {privilege} ON TABLE {name} TO {grantee}{option}"), &[])?;
    }
    Ok(())
}

/// A privilege's or command's name as a keyword.
fn keyword(word: &str) -> Result<&str> {
    if !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b' ') {
        Ok(word)
    } else {
        Err(Error::Internal(format!("\"{word}\" is not the name of a privilege")))
    }
}

fn copy_column_privileges(parent: Oid, name: Qualified) -> Result<()> {
    let sql = "SELECT a.attname::text, r.rolname::text, x.privilege_type, x.is_grantable \
               FROM pg_catalog.pg_attribute a \
               CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) x \
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee \
               WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
                 AND (x.grantee = 0 OR r.oid IS NOT NULL)";
    let statements = query::read(sql, &[parent.into()], |row| {
        let (column, grantee): (String, _) = (row.get(1)?, Grantee(row.nullable(2)?));
        let privilege: String = row.get(3)?;
        let option = if row.get(4)? { " WITH GRANT OPTION" } else { "" };
        let (privilege, column) = (keyword(&privilege)?, Ident(&column));
        Ok(format!("GRANT {privilege} ({column}) ON TABLE {name} TO {grantee}{option}"))
    })?;
    statements.iter().try_for_each(|statement| query::execute(statement, &[]))
}

/// Copies `REPLICA IDENTITY FULL` and `NOTHING`; an index as identity needs [`adopt_identity_index`].
fn copy_replica_identity(parent: Oid, name: Qualified) -> Result<()> {
    let sql = "SELECT relreplident::text FROM pg_catalog.pg_class WHERE oid = $1";
    let identity = match query::read_one(sql, &[parent.into()], |row| row.get::<String>(1))? {
        Some(letter) if letter == "f" => "FULL",
        Some(letter) if letter == "n" => "NOTHING",
        _ => return Ok(()),
    };
    query::execute(&format!("ALTER TABLE {name} REPLICA IDENTITY {identity}"), &[])
}

/// Where an index is the parent's replica identity, makes the index that attaching has paired with it
/// the partition's.
pub fn adopt_identity_index(table: &Table, partition: Oid, name: Qualified) -> Result<()> {
    let sql = "SELECT c.relname::text FROM pg_catalog.pg_index p \
               JOIN pg_catalog.pg_inherits h ON h.inhparent = p.indexrelid \
               JOIN pg_catalog.pg_index i ON i.indexrelid = h.inhrelid AND i.indrelid = $2 \
               JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
               WHERE p.indrelid = $1 AND p.indisreplident";
    let arguments = [table.oid.into(), partition.into()];
    match query::read_one(sql, &arguments, |row| row.get::<String>(1))? {
        Some(index) => {
            let index = Ident(&index);
            query::execute(&format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}"), &[])
        }
        None => Ok(()),
    }
}

/// A partition that differs from its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The partition's OID.
    pub oid: u32,
    /// The partition's name.
    pub partition: String,
    /// What differs, separated by commas.
    pub what: String,
}

impl Difference {
    /// Whether rows may be seen in the partition that can't be seen through the event log.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.what.contains("row level security") || self.what.contains("policies")
    }
}

/// The partitions that are not protected as the event log is.
pub fn differences(table: &Table) -> Result<Vec<Difference>> {
    let sql = "WITH state AS ( \
                 SELECT c.oid, c.relname::text AS name, c.relowner, c.relrowsecurity, \
                   c.relforcerowsecurity, c.relreplident, \
                   (SELECT pg_catalog.array_agg(x::text ORDER BY x::text) FROM ( \
                      SELECT g.grantee, g.privilege_type, pg_catalog.bool_or(g.is_grantable) \
                      FROM pg_catalog.aclexplode( \
                          COALESCE(c.relacl, pg_catalog.acldefault('r', c.relowner))) g \
                      GROUP BY 1, 2) x) AS acl, \
                   (SELECT pg_catalog.array_agg(x::text ORDER BY x::text) FROM ( \
                      SELECT a.attname, g.grantee, g.privilege_type, pg_catalog.bool_or(g.is_grantable) \
                      FROM pg_catalog.pg_attribute a \
                      CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) g \
                      WHERE a.attrelid = c.oid GROUP BY 1, 2, 3) x) AS column_acl \
                 FROM pg_catalog.pg_class c \
                 WHERE c.oid = $1 \
                    OR c.oid IN (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = $1)) \
               SELECT s.name, pg_catalog.concat_ws(', ', \
                   CASE WHEN s.relowner <> p.relowner THEN 'owner' END, \
                   CASE WHEN s.acl IS DISTINCT FROM p.acl THEN 'privileges' END, \
                   CASE WHEN s.column_acl IS DISTINCT FROM p.column_acl \
                        THEN 'privileges on columns' END, \
                   CASE WHEN (s.relrowsecurity, s.relforcerowsecurity) \
                          <> (p.relrowsecurity, p.relforcerowsecurity) \
                        THEN 'row level security' END, \
                   CASE WHEN s.relreplident <> p.relreplident THEN 'replica identity' END) AS what, s.oid \
               FROM state s JOIN state p ON p.oid = $1 AND s.oid <> p.oid \
               ORDER BY s.name";
    let all = query::read(sql, &[table.oid.into()], |row| {
        Ok(Difference {
            oid: row.get::<Oid>(3)?.to_u32(),
            partition: row.get(1)?,
            what: row.get(2)?,
        })
    })?;
    let other_policies = row_security::partitions_with_other_policies(table.oid)?;
    let with_policies = all.into_iter().map(|difference| {
        if !other_policies.contains(&difference.oid) {
            return difference;
        }
        let separator = if difference.what.is_empty() { "" } else { ", " };
        Difference { what: format!("{}{separator}policies", difference.what), ..difference }
    });
    Ok(with_policies.filter(|difference| !difference.what.is_empty()).collect())
}
