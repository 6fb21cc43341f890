//! What a table is, as lines of text that can be compared: everything that the catalog says of it and of what hangs on it.

use crate::server::Server;

/// Queries that give such lines, of which `TABLE` is the table's `regclass`.
const LINES: [&str; 14] = [
    "SELECT line FROM pg_class c, LATERAL (VALUES \
         ('kind ' || c.relkind::text), \
         ('owner ' || pg_get_userbyid(c.relowner)), \
         ('row security ' || c.relrowsecurity || ', forced ' || c.relforcerowsecurity), \
         ('replica identity ' || c.relreplident::text), \
         ('persistence ' || c.relpersistence::text), \
         ('tablespace ' || c.reltablespace), \
         ('options ' || coalesce(c.reloptions::text, 'none')), \
         ('comment ' || coalesce(obj_description(c.oid, 'pg_class'), 'none'))) AS l(line) WHERE c.oid = TABLE",
    "SELECT 'privilege ' || ACL FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a \
     WHERE c.oid = TABLE GROUP BY a.grantee",
    "SELECT concat_ws(' ', 'column', row_number() OVER (ORDER BY attnum), attname, format_type(atttypid, atttypmod), \
         CASE WHEN attnotnull THEN 'not null' END, 'default ' || pg_get_expr(adbin, adrelid), nullif(attidentity::text, ''), \
         nullif(attgenerated::text, ''), 'storage ' || attstorage::text, 'compression ' || nullif(attcompression::text, ''), \
         'statistics ' || nullif(attstattarget, -1), \
         (SELECT string_agg(o, ', ') FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'), \
         'comment ' || col_description(attrelid, attnum)) \
     FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
     WHERE attrelid = TABLE AND attnum > 0 AND NOT attisdropped",
    "SELECT 'privilege on column ' || attname || ' ' || ACL FROM pg_attribute, aclexplode(attacl) a \
     WHERE attrelid = TABLE AND NOT attisdropped GROUP BY attname, a.grantee",
    // Not those of NOT NULL, which are constraints from 18 on: the columns say it.
    "SELECT concat_ws(' ', 'constraint', conname, pg_get_constraintdef(oid), 'validated ' || convalidated, \
         'comment ' || obj_description(oid, 'pg_constraint')) \
     FROM pg_constraint WHERE conrelid = TABLE AND contype <> 'n'",
    "SELECT concat_ws(' ', 'referenced by', conrelid::regclass, conname) FROM pg_constraint WHERE confrelid = TABLE",
    "SELECT concat_ws(' ', 'index', replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON '), 'valid ' || indisvalid, \
         'clustered ' || nullif(indisclustered, false), 'comment ' || obj_description(indexrelid, 'pg_class')) \
     FROM pg_index WHERE indrelid = TABLE",
    "SELECT concat_ws(' ', 'policy', polname, polpermissive, polroles::regrole[], polcmd, pg_get_expr(polqual, polrelid), 'check', \
         pg_get_expr(polwithcheck, polrelid), 'comment ' || obj_description(oid, 'pg_policy')) \
     FROM pg_policy WHERE polrelid = TABLE",
    "SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(oid), 'enabled ' || tgenabled::text, \
         'comment ' || obj_description(oid, 'pg_trigger')) FROM pg_trigger WHERE tgrelid = TABLE AND NOT tgisinternal",
    // Those of foreign keys, on both sides and in partitions: deletes cascade only through those that are enabled.
    "SELECT concat_ws(' ', 'trigger of a constraint that is not enabled', tgrelid::regclass, tgname) \
     FROM pg_trigger WHERE tgenabled <> 'O' AND tgisinternal \
       AND (tgrelid = TABLE OR tgconstraint IN (SELECT oid FROM pg_constraint WHERE conrelid = TABLE))",
    "SELECT concat_ws(' ', 'publication', pubname, 'where ' || pg_get_expr(prqual, prrelid), 'columns ' || prattrs::text) \
     FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid WHERE prrelid = TABLE",
    "SELECT concat_ws(' ', 'sequence', s.oid::regclass, 'of ' || attname, 'owner ' || pg_get_userbyid(s.relowner), \
         format_type(seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle, \
         (SELECT string_agg(acl, '; ' ORDER BY acl) FROM (SELECT ACL FROM aclexplode(s.relacl) a GROUP BY a.grantee) x(acl))) \
     FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_sequence ON seqrelid = s.oid \
     JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid \
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = TABLE AND d.deptype = 'a'",
    // Views on views as well.
    "WITH RECURSIVE v(oid) AS ( \
         SELECT TABLE::oid UNION \
         SELECT r.ev_class FROM v JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid \
             AND d.classid = 'pg_rewrite'::regclass JOIN pg_rewrite r ON r.oid = d.objid) \
     SELECT concat_ws(' ', 'view', c.oid::regclass, pg_get_viewdef(c.oid), c.reloptions, 'owner ' || pg_get_userbyid(c.relowner), \
         (SELECT string_agg(acl, '; ' ORDER BY acl) FROM (SELECT ACL FROM aclexplode(c.relacl) a GROUP BY a.grantee) x(acl)), \
         'comment ' || obj_description(c.oid, 'pg_class')) \
     FROM v JOIN pg_class c USING (oid) WHERE c.oid <> TABLE",
    "SELECT concat_ws(' ', 'statistics', pg_get_statisticsobjdef(oid)) FROM pg_statistic_ext WHERE stxrelid = TABLE",
];

/// The privileges of one grantee, as a term of SQL.
const ACL: &str = "(CASE a.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(a.grantee) END || ': ' || \
                   string_agg(a.privilege_type || CASE WHEN a.is_grantable THEN '*' ELSE '' END, ',' ORDER BY a.privilege_type))";

impl Server {
    /// What the catalog says of a table, in order: its columns, constraints, indexes, privileges, policies, triggers,
    /// publications, views and comments. Two tables are alike when these are equal.
    pub fn definition(&self, database: &str, table: &str) -> Vec<String> {
        let mut client = self.connect(database);
        // Names with their schemas, whatever can be seen.
        client.batch_execute("SET search_path = pg_catalog").expect("it may be set");
        let table = format!("'{table}'::pg_catalog.regclass");
        let mut lines: Vec<String> = LINES
            .iter()
            .flat_map(|lines| {
                let query = lines.replace("TABLE", &table).replace("ACL", ACL);
                let rows = client.query(&query, &[]);
                rows.unwrap_or_else(|error| panic!("{query}: {error:?}\n{}", self.log()))
            })
            .map(|row| row.get(0))
            .collect();
        lines.sort();
        lines
    }
}
