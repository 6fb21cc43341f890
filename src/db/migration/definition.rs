//! How a table is defined, as text: whether it was altered while it is copied.

use pgrx::pg_sys::Oid;

use crate::db::query;
use crate::error::{Error, Result};

/// Everything about a table that another has to have to take its place: columns, constraints, indexes, protection,
/// triggers, comment.
pub fn of(table: Oid) -> Result<String> {
    let sql = "SELECT pg_catalog.string_agg(d.line, E'\\n' ORDER BY d.line) FROM ( \
          SELECT pg_catalog.concat_ws(' ', 'table', c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity, \
                     c.relreplident, c.reloptions::text, pg_catalog.obj_description(c.oid, 'pg_class')) AS line \
          FROM pg_catalog.pg_class c WHERE c.oid = $1 \
        UNION ALL \
          SELECT pg_catalog.concat_ws(' ', 'column', a.attnum, a.attname, \
                     pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attcollation, a.attgenerated, \
                     a.attidentity, a.attacl, d.adbin::text) \
          FROM pg_catalog.pg_attribute a \
          LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
          WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
        UNION ALL \
          SELECT pg_catalog.concat_ws(' ', 'constraint', k.conname, pg_catalog.pg_get_constraintdef(k.oid)) \
          FROM pg_catalog.pg_constraint k WHERE k.conrelid = $1 AND k.contype IN ('c', 'p', 'u', 'f', 'x') \
        UNION ALL \
          SELECT pg_catalog.concat_ws(' ', 'index', pg_catalog.pg_get_indexdef(i.indexrelid)) \
          FROM pg_catalog.pg_index i WHERE i.indrelid = $1 \
        UNION ALL \
          SELECT pg_catalog.concat_ws(' ', 'policy', p.polname, p.polcmd, p.polpermissive, p.polroles::text, \
                     p.polqual::text, p.polwithcheck::text) \
          FROM pg_catalog.pg_policy p WHERE p.polrelid = $1 \
        UNION ALL \
          SELECT pg_catalog.concat_ws(' ', 'trigger', pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled) \
          FROM pg_catalog.pg_trigger t \
          WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgname NOT LIKE 'pg\\_meshhook\\_events\\_capture%' \
        ) d";
    query::read_one(sql, &[table.into()], |row| row.nullable(1))?
        .flatten()
        .ok_or_else(|| Error::Internal(format!("there is no table with OID {}", table.to_u32())))
}
