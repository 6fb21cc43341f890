//! What depends on the table itself: views, which are made anew for the other, and what can't be carried over.

use pgrx::pg_sys::Oid;

use crate::db::ident::Qualified;
use crate::db::query;
use crate::error::Result;

/// A view on the table.
#[derive(Clone, Debug)]
pub struct View {
    /// The role that owns it.
    pub owner: Oid,
    schema: String,
    name: String,
    options: Option<Vec<String>>,
    definition: String,
}

/// The views that show a table, by name, as they are now.
pub fn views(table: Oid) -> Result<Vec<View>> {
    let sql = "SELECT DISTINCT n.nspname::text, c.relname::text, c.reloptions, pg_catalog.pg_get_viewdef(c.oid), c.relowner \
               FROM pg_catalog.pg_depend d \
               JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.ev_type = '1' \
               JOIN pg_catalog.pg_class c ON c.oid = r.ev_class AND c.relkind = 'v' \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass \
                 AND d.refobjid = $1 ORDER BY 1, 2";
    query::read(sql, &[table.into()], |row| {
        Ok(View {
            schema: row.get(1)?,
            name: row.get(2)?,
            options: row.nullable(3)?,
            definition: row.get(4)?,
            owner: row.get(5)?,
        })
    })
}

impl View {
    /// Makes it anew, as it was when it was read, for the table that has the name now. Its owner and privileges stay.
    ///
    /// To be called as its owner: what its author has put into it runs when it is parsed.
    pub fn replace(&self) -> Result<()> {
        let view = Qualified { schema: &self.schema, name: &self.name };
        let options = self.options.as_ref().filter(|options| !options.is_empty());
        let with = options.map(|options| format!(" WITH ({})", options.join(", ")));
        let (with, definition) = (with.unwrap_or_default(), &self.definition);
        query::execute(&format!("CREATE OR REPLACE VIEW {view}{with} AS {definition}"), &[])
    }
}

/// Something that depends on a table, on one of its partitions or on the type of its rows, and can't be carried over, as
/// PostgreSQL describes it; `None` where there is nothing.
pub fn not_carried(table: Oid) -> Result<Option<String>> {
    let sql = "WITH own AS ( \
                   SELECT $1 AS oid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t), \
               types AS ( \
                   SELECT t.oid, t.typarray FROM pg_catalog.pg_type t JOIN own o ON o.oid = t.typrelid), \
               needed AS ( \
                   SELECT 'pg_catalog.pg_class'::regclass AS class, oid FROM own \
                   UNION ALL SELECT 'pg_catalog.pg_type'::regclass, oid FROM types \
                   UNION ALL SELECT 'pg_catalog.pg_type'::regclass, typarray FROM types) \
               SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) \
               FROM pg_catalog.pg_depend d JOIN needed n ON n.class = d.refclassid AND n.oid = d.refobjid \
               LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid \
               LEFT JOIN pg_catalog.pg_class v ON v.oid = r.ev_class \
               WHERE d.deptype = 'n' \
                 AND NOT (v.relkind IS NOT DISTINCT FROM 'v' AND r.ev_type = '1' AND d.refobjid = $1) \
                 AND NOT EXISTS ( \
                     SELECT FROM pg_catalog.pg_depend part \
                     WHERE part.classid = d.classid AND part.objid = d.objid \
                       AND part.refclassid = 'pg_catalog.pg_class'::regclass \
                       AND part.refobjid IN (SELECT oid FROM own) AND part.deptype IN ('a', 'i') \
                       AND r.oid IS NULL) \
               ORDER BY 1 LIMIT 1";
    query::read_one(sql, &[table.into()], |row| row.get(1))
}
