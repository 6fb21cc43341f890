//! What a table may be like to be migrated.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;

use crate::db::ident::Qualified;
use crate::db::migration::capture::FUNCTION;
use crate::db::query;
use crate::domain::migration::Direction;
use crate::error::Result;

/// Something about a table that can't be carried over: what it is, and what to do.
pub type Objection = (String, &'static str);

/// The questions that each give what can't be carried over, with what to do about it. `$1` is the table.
const QUESTIONS: &[(&str, &str)] = &[
    (
        "SELECT pg_catalog.format('identity column \"%s\"', attname) FROM pg_catalog.pg_attribute \
         WHERE attrelid = $1 AND attidentity <> '' AND NOT attisdropped",
        "ALTER TABLE … ALTER COLUMN … DROP IDENTITY, and give the column a default of nextval() on a sequence of its \
         own.",
    ),
    (
        "SELECT pg_catalog.format('inheritance from or to table \"%s\"', \
                    CASE inhrelid WHEN $1 THEN inhparent ELSE inhrelid END::regclass) \
         FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid \
         WHERE (inhrelid = $1 OR inhparent = $1) AND NOT c.relispartition",
        "End the inheritance with ALTER TABLE … NO INHERIT.",
    ),
    (
        "SELECT 'a table that is not logged' FROM pg_catalog.pg_class WHERE oid = $1 AND relpersistence <> 'p'",
        "ALTER TABLE … SET LOGGED.",
    ),
    (
        "SELECT 'a typed table' FROM pg_catalog.pg_class WHERE oid = $1 AND reloftype <> 0",
        "ALTER TABLE … NOT OF.",
    ),
    (
        "SELECT pg_catalog.format('rule \"%s\"', rulename) FROM pg_catalog.pg_rewrite WHERE ev_class = $1",
        "Drop the rule, and make it again afterwards.",
    ),
    (
        "SELECT pg_catalog.format('constraint \"%s\"', conname) FROM pg_catalog.pg_constraint \
         WHERE conrelid = $1 AND (contype = 'x' OR contype = 'f' AND NOT convalidated)",
        "An exclusion constraint has to be dropped; a foreign key has to be validated first, with VALIDATE CONSTRAINT.",
    ),
    (
        "SELECT pg_catalog.format('foreign key \"%s\"', k.conname) FROM pg_catalog.pg_constraint k \
         JOIN pg_catalog.pg_class c ON c.oid = k.confrelid AND c.relkind = 'p' \
         WHERE k.conrelid = $1 AND k.contype = 'f'",
        "A foreign key to a partitioned table can't be turned off for the copying: drop it, and add it again afterwards.",
    ),
    (
        "SELECT pg_catalog.format('replica identity index \"%s\"', indexrelid::regclass) FROM pg_catalog.pg_index \
         WHERE indrelid = $1 AND indisreplident",
        "ALTER TABLE … REPLICA IDENTITY DEFAULT or FULL.",
    ),
    (
        "SELECT pg_catalog.format('publication \"%s\"', pubname) FROM pg_catalog.pg_publication WHERE puballtables",
        "It would send the copying to its subscribers. Make it one of single tables (FOR TABLE) for the time.",
    ),
    (
        "SELECT pg_catalog.format('publication \"%s\"', p.pubname) \
         FROM pg_catalog.pg_publication_namespace n JOIN pg_catalog.pg_publication p ON p.oid = n.pnpubid \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.pnnspid AND c.oid = $1",
        "It would send the copying to its subscribers. Make it one of single tables (FOR TABLE) for the time.",
    ),
    (
        "SELECT pg_catalog.format('view \"%s\"', c.oid::regclass) \
         FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_constraint k ON k.oid = d.refobjid AND k.conrelid = $1 \
         JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid JOIN pg_catalog.pg_class c ON c.oid = r.ev_class \
         WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_constraint'::regclass",
        "It depends on the primary key (GROUP BY id): drop it, and make it again afterwards.",
    ),
    (
        "SELECT pg_catalog.format('view \"%s\"', c.oid::regclass) \
         FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid \
         JOIN pg_catalog.pg_class c ON c.oid = r.ev_class AND c.relkind = 'v' \
         WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass \
           AND d.refobjid = $1 AND (c.relpersistence = 't' \
               OR NOT pg_catalog.has_schema_privilege(c.relowner, c.relnamespace, 'CREATE'))",
        "It has to be made anew as its owner, who may not create in its schema, or it is temporary: drop it, and make it \
         again afterwards.",
    ),
    (
        "SELECT pg_catalog.format('constraint \"%s\"', conname) FROM pg_catalog.pg_constraint \
         WHERE conrelid = $1 AND (condeferrable AND contype IN ('p', 'u') \
                                  OR contype = 'c' AND (NOT convalidated OR connoinherit))",
        "A key must not be deferrable; a check has to be validated (VALIDATE CONSTRAINT), and must not be NO INHERIT.",
    ),
    (
        "SELECT pg_catalog.format('subscription to table \"%s\"', s.srrelid::regclass) FROM pg_catalog.pg_subscription_rel s \
         WHERE s.srrelid = $1 OR s.srrelid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t)",
        "What is subscribed to is found by the table itself: migrate the publisher, or drop the subscription for the time.",
    ),
    (
        // Functions of PostgreSQL itself leave no trace there.
        "SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) \
         FROM pg_catalog.pg_depend d \
         WHERE d.refclassid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass, \
                                'pg_catalog.pg_opclass'::regclass) \
           AND (d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid IN ( \
                    SELECT oid FROM pg_catalog.pg_constraint WHERE conrelid = $1) \
             OR d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid IN ( \
                    SELECT oid FROM pg_catalog.pg_attrdef WHERE adrelid = $1) \
             OR d.classid = 'pg_catalog.pg_class'::regclass AND d.objid IN ( \
                    SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = $1)) \
           AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r JOIN pg_catalog.pg_class c ON c.relowner = r.oid \
                    WHERE c.oid = $1)",
        "It uses a function that isn't PostgreSQL's own, which would run while triggers are turned off. Drop it, and make \
         it again afterwards.",
    ),
    (
        "SELECT pg_catalog.format('column \"%s\"', a.attname) FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype = 'd' \
         JOIN pg_catalog.pg_constraint k ON k.contypid = t.oid \
         WHERE a.attrelid = $1 AND NOT a.attisdropped",
        "Its type is a domain with a check, which would run while triggers are turned off. Use the base type.",
    ),
];

/// Those that stand in the way of partitions alone.
const OF_PARTITIONS: &[(&str, &str)] = &[
    (
        "SELECT pg_catalog.format('unique index \"%s\"', i.indexrelid::regclass) FROM pg_catalog.pg_index i \
         WHERE i.indrelid = $1 AND i.indisunique AND NOT i.indisprimary AND NOT EXISTS ( \
             SELECT FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = $1 AND a.attname = 'ts' AND a.attnum = ANY (i.indkey::int2[]))",
        "What is unique in a partitioned table has to contain ts: add it, or drop the index.",
    ),
    (
        "SELECT pg_catalog.format('publication \"%s\"', p.pubname) FROM pg_catalog.pg_publication_rel r \
         JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid AND (p.pubupdate OR p.pubdelete) \
         WHERE r.prrelid = $1 AND r.prattrs IS NOT NULL AND NOT EXISTS ( \
             SELECT FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = $1 AND a.attname = 'ts' AND a.attnum = ANY (r.prattrs::int2[]))",
        "Its list of columns has to contain ts, which becomes part of the primary key.",
    ),
    (
        "SELECT pg_catalog.format('trigger \"%s\"', tgname) FROM pg_catalog.pg_trigger \
         WHERE tgrelid = $1 AND NOT tgisinternal AND (tgtype & 1) = 1 \
           AND (tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL)",
        "A trigger for rows of a partitioned table can't have transition tables. Drop it, and make it again as one for \
         statements.",
    ),
];

/// Those that stand in the way of a plain table alone.
const OF_PLAIN: &[(&str, &str)] = &[
    (
        "SELECT pg_catalog.format('partition \"%s\"', c.relname) FROM pg_catalog.pg_partition_tree($1) t \
         JOIN pg_catalog.pg_class c ON c.oid = t.relid AND c.relkind = 'f'",
        "Its rows are somebody else's: detach it.",
    ),
    (
        "SELECT pg_catalog.format('partition \"%s\"', c.relname) FROM pg_catalog.pg_partition_tree($1) t \
         JOIN pg_catalog.pg_class c ON c.oid = t.relid JOIN pg_catalog.pg_class p ON p.oid = $1 \
         WHERE c.relowner <> p.relowner",
        "It belongs to another role: ALTER TABLE … OWNER TO …",
    ),
    (
        "SELECT pg_catalog.format('trigger \"%s\" of partition \"%s\"', g.tgname, t.relid) \
         FROM pg_catalog.pg_partition_tree($1) t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.relid \
         WHERE t.relid <> $1 AND NOT g.tgisinternal AND g.tgparentid = 0 \
           AND g.tgname NOT LIKE 'pg\\_meshhook\\_events\\_capture%'",
        "Drop it, or make it one of workflow_events.",
    ),
];

/// What about a table can't be carried over; `None` where nothing.
pub fn objection(table: Oid, direction: Direction) -> Result<Option<Objection>> {
    let others = match direction {
        Direction::Migrate => OF_PARTITIONS,
        Direction::Undo => OF_PLAIN,
    };
    for (question, hint) in QUESTIONS.iter().chain(others) {
        let sql = format!("SELECT o.what::text FROM ({question}) o (what) ORDER BY 1 LIMIT 1");
        if let Some(what) = query::read_one(&sql, &[table.into()], |row| row.get(1))? {
            return Ok(Some((what, hint)));
        }
    }
    Ok(None)
}

/// A table that keeps rows.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Its OID.
    pub oid: Oid,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether it has the triggers that note changes.
    pub is_captured: bool,
    /// Whether they note those of all writers.
    pub is_captured_always: bool,
}

impl Leaf {
    /// Its qualified name.
    #[must_use]
    pub fn qualified(&self) -> Qualified<'_> {
        Qualified { schema: &self.schema, name: &self.name }
    }
}

/// The tables that keep the rows of a table: itself, or the leaves of its partition tree.
pub fn leaves(table: Oid) -> Result<Vec<Leaf>> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, \
                      COALESCE((SELECT pg_catalog.min(g.tgenabled::text) FROM pg_catalog.pg_trigger g \
                                WHERE g.tgrelid = c.oid AND g.tgfoid = (SELECT pg_catalog.to_regproc($2)) \
                                HAVING pg_catalog.count(*) = 2 \
                                   AND pg_catalog.count(DISTINCT g.tgenabled) = 1), '-') \
               FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'f') \
                 AND (c.oid = $1 OR c.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t)) \
               ORDER BY c.relname";
    query::read(sql, &[table.into(), FUNCTION.into()], |row| {
        let enabled: String = row.get(4)?;
        Ok(Leaf {
            oid: row.get(1)?,
            schema: row.get(2)?,
            name: row.get(3)?,
            is_captured: matches!(enabled.as_str(), "A" | "O"),
            is_captured_always: enabled == "A",
        })
    })
}

/// Whether a column may be NULL.
pub fn is_nullable(table: Oid, column: &str) -> Result<bool> {
    let sql = "SELECT NOT attnotnull FROM pg_catalog.pg_attribute \
               WHERE attrelid = $1 AND attname = $2::name AND NOT attisdropped";
    Ok(query::read_one(sql, &[table.into(), column.into()], |row| row.get(1))?.unwrap_or(false))
}

/// The type of a column.
pub fn type_of(table: Oid, column: &str) -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute \
               WHERE attrelid = $1 AND attname = $2::name AND NOT attisdropped";
    query::read_one(sql, &[table.into(), column.into()], |row| row.get(1))
}

/// An event without a finite `ts`, and that; to be called as the table's owner. Reads the whole table.
pub fn event_without_ts(table: Qualified) -> Result<Option<(i64, Option<TimestampWithTimeZone>)>> {
    let sql =
        format!("SELECT id, ts FROM {table} WHERE pg_catalog.isfinite(ts) IS NOT TRUE LIMIT 1");
    query::read_one(&sql, &[], |row| Ok((row.get(1)?, row.nullable(2)?)))
}

/// Virtual transactions, other than this one, that may have a snapshot in this database.
pub fn transactions_with_snapshots() -> Result<Vec<String>> {
    query::read("SELECT pg_catalog.pg_stat_clear_snapshot()", &[], |_| Ok(()))?;
    query::read(WITH_SNAPSHOTS, &[], |row| row.get(1))
}

const WITH_SNAPSHOTS: &str = "SELECT DISTINCT l.virtualtransaction FROM pg_catalog.pg_locks l \
    JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
    WHERE l.locktype = 'virtualxid' AND l.granted AND a.datname = pg_catalog.current_database() \
      AND a.backend_xmin IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid() \
      AND a.backend_type NOT IN ('autovacuum worker', 'walsender')";

/// Those of [`transactions_with_snapshots`] whose snapshot may be older than the end of a transaction, given by its number
/// as text: they don't see what it has done.
pub fn transactions_before(transaction: &str) -> Result<Vec<String>> {
    query::read("SELECT pg_catalog.pg_stat_clear_snapshot()", &[], |_| Ok(()))?;
    let sql = format!(
        "{WITH_SNAPSHOTS} AND pg_catalog.age(a.backend_xmin) >= pg_catalog.age($1::pg_catalog.xid)"
    );
    query::read(&sql, &[transaction.into()], |row| row.get(1))
}

/// A transaction that has kept its snapshot.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its virtual number.
    pub transaction: String,
    /// Its process.
    pub pid: i32,
    /// Whether it waits for a lock. On a table that is locked now, nearly all of those take a new snapshot when they have it.
    pub waits: bool,
}

/// Those of them that go on and have kept their snapshot: one that has none between two statements takes a new one for each.
pub fn still_running(transactions: &[String]) -> Result<Vec<Running>> {
    query::read("SELECT pg_catalog.pg_stat_clear_snapshot()", &[], |_| Ok(()))?;
    let sql = "SELECT DISTINCT l.virtualtransaction, l.pid, COALESCE(a.wait_event_type = 'Lock', false) \
               FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
               WHERE l.locktype = 'virtualxid' AND l.granted AND l.virtualtransaction = ANY ($1) \
                 AND a.backend_xmin IS NOT NULL";
    query::read(sql, &[transactions.to_vec().into()], |row| {
        Ok(Running { transaction: row.get(1)?, pid: row.get(2)?, waits: row.get(3)? })
    })
}

/// Processes, other than this one, that keep a snapshot between two statements: those of transactions that see everything
/// as it was at their beginning, and those with an open cursor.
pub fn idle_snapshots() -> Result<Vec<i32>> {
    // The statistics are otherwise those of the first look in the transaction.
    query::read("SELECT pg_catalog.pg_stat_clear_snapshot()", &[], |_| Ok(()))?;
    let sql = "SELECT pid FROM pg_catalog.pg_stat_activity \
               WHERE datname = pg_catalog.current_database() AND backend_xmin IS NOT NULL \
                 AND state IN ('idle in transaction', 'idle in transaction (aborted)') \
                 AND pid <> pg_catalog.pg_backend_pid() \
               ORDER BY pid";
    query::read(sql, &[], |row| row.get(1))
}

/// What would run in a statement that writes a table with triggers turned off, other than code of the server itself:
/// a trigger that fires all the same, a rule, an expression with another function. `None` where there is nothing, or
/// the owner is a superuser.
pub fn runs_while_copying(table: Oid) -> Result<Option<String>> {
    let sql = "WITH own AS ( \
                   SELECT $1 AS oid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t) \
               SELECT o.what FROM ( \
                   SELECT pg_catalog.format('trigger \"%s\"', tgname) FROM pg_catalog.pg_trigger \
                   WHERE tgrelid IN (SELECT oid FROM own) AND NOT tgisinternal AND tgenabled IN ('A', 'R') \
                 UNION ALL \
                   SELECT pg_catalog.format('rule \"%s\"', rulename) FROM pg_catalog.pg_rewrite \
                   WHERE ev_class IN (SELECT oid FROM own) \
                 UNION ALL \
                   SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_catalog.pg_depend d \
                   WHERE d.refclassid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass, \
                                          'pg_catalog.pg_opclass'::regclass) \
                     AND (d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid IN ( \
                              SELECT oid FROM pg_catalog.pg_constraint WHERE conrelid IN (SELECT oid FROM own)) \
                       OR d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid IN ( \
                              SELECT oid FROM pg_catalog.pg_attrdef WHERE adrelid IN (SELECT oid FROM own)) \
                       OR d.classid = 'pg_catalog.pg_class'::regclass AND d.objid IN ( \
                              SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid IN (SELECT oid FROM own))) \
               ) o (what) \
               WHERE NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r \
                          JOIN pg_catalog.pg_class c ON c.relowner = r.oid WHERE c.oid = $1) \
               ORDER BY 1 LIMIT 1";
    query::read_one(sql, &[table.into()], |row| row.get(1))
}

/// Keeps others from changing how a table and its partitions are defined, until the transaction ends.
pub fn keep_as_it_is(table: Qualified) -> Result<()> {
    query::execute(&format!("LOCK TABLE {table} IN ROW EXCLUSIVE MODE"), &[])
}
