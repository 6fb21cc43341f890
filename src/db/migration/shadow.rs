//! The table that is built beside the one in use, with all that it has to take over. To be called as their owner.

use pgrx::pg_sys::Oid;

use super::SHADOW;
use crate::db::catalog::Table;
use crate::db::foreign_key::ForeignKey;
use crate::db::ident::{Ident, List, Literal, Qualified};
use crate::db::{ddl, query};
use crate::domain::migration::Direction;
use crate::domain::name::STANDARD_INDEXES;
use crate::error::{Error, Result};

/// Makes the table itself, with columns, defaults, checks and comments, and its primary key.
pub fn create(live: &Table, direction: Direction, ts_is_nullable: bool) -> Result<()> {
    let shadow = Qualified { schema: &live.schema, name: SHADOW };
    let like = format!(
        "CREATE TABLE {shadow} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY)",
        live.qualified()
    );
    let (partitioning, key) = match direction {
        Direction::Migrate => (" PARTITION BY RANGE (ts)", "id, ts"),
        Direction::Undo => ("", "id"),
    };
    let (_, tablespace) = ddl::storage(live.oid)?;
    let within = tablespace.map(|name| format!(" TABLESPACE {}", Ident(&name))).unwrap_or_default();
    query::execute(&format!("{like}{partitioning}{within}"), &[])?;
    copy_column_settings(live)?;
    let name = primary_key(0);
    query::execute(
        &format!("ALTER TABLE {shadow} ADD CONSTRAINT {} PRIMARY KEY ({key})", Ident(&name)),
        &[],
    )?;
    if direction == Direction::Undo && ts_is_nullable {
        query::execute(&format!("ALTER TABLE {shadow} ALTER COLUMN ts DROP NOT NULL"), &[])?;
    }
    Ok(())
}

/// Copies what ANALYZE is told about single columns, which LIKE doesn't.
fn copy_column_settings(live: &Table) -> Result<()> {
    let shadow = Qualified { schema: &live.schema, name: SHADOW };
    let sql = "SELECT attname::text, COALESCE(attstattarget, -1)::integer, ARRAY( \
                   SELECT o.option_name || '=' || o.option_value FROM pg_catalog.pg_options_to_table(attoptions) o \
                   WHERE o.option_name IN ('n_distinct', 'n_distinct_inherited')) \
               FROM pg_catalog.pg_attribute \
               WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let columns = query::read(sql, &[live.oid.into()], |row| {
        Ok((row.get::<String>(1)?, row.get::<i32>(2)?, row.get::<Vec<String>>(3)?))
    })?;
    for (name, target, options) in columns {
        let column = format!("ALTER TABLE {shadow} ALTER COLUMN {}", Ident(&name));
        if target >= 0 {
            query::execute(&format!("{column} SET STATISTICS {target}"), &[])?;
        }
        if !options.is_empty() {
            query::execute(&format!("{column} SET ({})", options.join(", ")), &[])?;
        }
    }
    Ok(())
}

fn primary_key(number: usize) -> String {
    format!("{SHADOW}_{number}")
}

/// An index of the table in use.
struct Index {
    oid: Oid,
    name: String,
    is_primary: bool,
    /// What follows `ADD CONSTRAINT` and its name, where it belongs to one.
    constraint: Option<String>,
    definition: String,
    is_unique: bool,
    columns: Option<Vec<String>>,
}

fn indexes(table: Oid) -> Result<Vec<Index>> {
    let sql = "SELECT c.oid, c.relname::text, i.indisprimary, pg_catalog.pg_get_constraintdef(k.oid), \
                      pg_catalog.pg_get_indexdef(c.oid), i.indisunique, \
                      CASE WHEN i.indpred IS NULL AND i.indexprs IS NULL AND m.amname = 'btree' \
                                AND i.indnatts = i.indnkeyatts THEN \
                          (SELECT pg_catalog.array_agg(a.attname::text ORDER BY p.n) \
                           FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS p (attnum, n) \
                           JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = p.attnum) END \
               FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
               JOIN pg_catalog.pg_am m ON m.oid = c.relam \
               LEFT JOIN pg_catalog.pg_constraint k \
                   ON k.conindid = c.oid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x') \
               WHERE i.indrelid = $1 AND (i.indisvalid OR i.indisprimary) \
               ORDER BY NOT i.indisprimary, c.relname";
    query::read(sql, &[table.into()], |row| {
        Ok(Index {
            oid: row.get(1)?,
            name: row.get(2)?,
            is_primary: row.get(3)?,
            constraint: row.nullable(4)?,
            definition: row.get(5)?,
            is_unique: row.get(6)?,
            columns: row.nullable(7)?,
        })
    })
}

/// Makes the indexes of the table in use, and the standard ones that it lacks; gives pairs of names: the one that an index
/// has for now, and the one that it gets.
pub fn create_indexes(live: &Table, direction: Direction) -> Result<Vec<(String, String)>> {
    let shadow = Qualified { schema: &live.schema, name: SHADOW };
    let mut pairs = Vec::new();
    let present = indexes(live.oid)?;
    for (number, index) in present.iter().enumerate() {
        let name = primary_key(number);
        match &index.constraint {
            _ if index.is_primary => {}
            Some(definition) => {
                let sql =
                    format!("ALTER TABLE {shadow} ADD CONSTRAINT {} {definition}", Ident(&name));
                query::execute(&sql, &[])?;
            }
            None => {
                let unique = if index.is_unique { "UNIQUE " } else { "" };
                let what = tail(index, live, unique)?;
                let sql = format!("CREATE {unique}INDEX {} ON {shadow} {what}", Ident(&name));
                query::execute(&sql, &[])?;
            }
        }
        let made = Qualified { schema: &live.schema, name: &name };
        copy_comment("INDEX", &made.to_string(), index.oid, "pg_class")?;
        pairs.push((name, index.name.clone()));
    }
    if direction == Direction::Migrate {
        for standard in STANDARD_INDEXES {
            let wanted = standard.name_on(crate::db::catalog::EVENTS);
            let has = |index: &Index| {
                index.name == wanted
                    || index.columns.as_deref().is_some_and(|columns| columns == standard.columns)
            };
            if present.iter().any(has) {
                continue;
            }
            let name = primary_key(pairs.len());
            let sql =
                format!("CREATE INDEX {} ON {shadow} ({})", Ident(&name), List(standard.columns));
            query::execute(&sql, &[])?;
            pairs.push((name, standard.name_on(crate::db::catalog::EVENTS)));
        }
    }
    Ok(pairs)
}

/// What follows the table's name in the definition of an index.
fn tail<'a>(index: &'a Index, live: &Table, unique: &str) -> Result<&'a str> {
    let prefix = format!("CREATE {unique}INDEX {} ON ", Ident(&index.name));
    let rest = index.definition.strip_prefix(&prefix);
    let rest = rest.map(|rest| rest.strip_prefix("ONLY ").unwrap_or(rest));
    rest.and_then(|rest| rest.strip_prefix(&format!("{} ", live.qualified())))
        .ok_or_else(|| Error::Internal(format!("\"{}\" is no index definition", index.definition)))
}

/// Copies the comment on something to its counterpart, `what` in COMMENT ON.
fn copy_comment(what: &str, name: &str, from: Oid, catalog: &str) -> Result<()> {
    let sql = "SELECT pg_catalog.obj_description($1, $2::name)";
    let comment =
        query::read_one(sql, &[from.into(), catalog.into()], |row| row.nullable::<String>(1))?;
    match comment.flatten() {
        Some(comment) => {
            query::execute(&format!("COMMENT ON {what} {name} IS {}", Literal(&comment)), &[])
        }
        None => Ok(()),
    }
}

/// Copies the comment on the table, and those on its policies.
pub fn copy_comments(live: &Table) -> Result<()> {
    let shadow = Qualified { schema: &live.schema, name: SHADOW };
    copy_comment("TABLE", &shadow.to_string(), live.oid, "pg_class")?;
    let sql =
        "SELECT oid, polname::text FROM pg_catalog.pg_policy WHERE polrelid = $1 ORDER BY polname";
    for (oid, name) in
        query::read(sql, &[live.oid.into()], |row| Ok((row.get::<Oid>(1)?, row.get::<String>(2)?)))?
    {
        copy_comment("POLICY", &format!("{} ON {shadow}", Ident(&name)), oid, "pg_policy")?;
    }
    Ok(())
}

/// A trigger that a user has made.
struct Trigger {
    oid: Oid,
    name: String,
    definition: String,
    enabled: String,
}

fn triggers(table: Oid) -> Result<Vec<Trigger>> {
    let sql = "SELECT oid, tgname::text, pg_catalog.pg_get_triggerdef(oid), tgenabled::text \
               FROM pg_catalog.pg_trigger \
               WHERE tgrelid = $1 AND NOT tgisinternal AND tgparentid = 0 \
                 AND tgname NOT LIKE 'pg\\_meshhook\\_events\\_capture%' ORDER BY tgname";
    query::read(sql, &[table.into()], |row| {
        Ok(Trigger {
            oid: row.get(1)?,
            name: row.get(2)?,
            definition: row.get(3)?,
            enabled: row.get(4)?,
        })
    })
}

/// Makes the triggers of the table in use. The copying fires none of them; those that fire whoever writes are made so at
/// the switch ([`enable_triggers`]).
pub fn create_triggers(live: &Table) -> Result<()> {
    let shadow = Qualified { schema: &live.schema, name: SHADOW };
    for trigger in triggers(live.oid)? {
        let on = format!(" ON {} ", live.qualified());
        // The first place after its name: a condition comes later.
        let name = Ident(&trigger.name).to_string();
        let end_of_name = trigger.definition.find(&name).map(|at| at + name.len());
        let table =
            end_of_name.and_then(|at| trigger.definition.get(at..)?.find(&on).map(|n| at + n));
        let (before, after) =
            table.and_then(|at| trigger.definition.split_at_checked(at)).ok_or_else(|| {
                Error::Internal(format!("\"{}\" is no trigger definition", trigger.definition))
            })?;
        let after = after.strip_prefix(&on).unwrap_or(after);
        query::execute(&format!("{before} ON {shadow} {after}"), &[])?;
        if trigger.enabled == "D" {
            query::execute(&format!("ALTER TABLE {shadow} DISABLE TRIGGER {name}"), &[])?;
        }
        copy_comment("TRIGGER", &format!("{name} ON {shadow}"), trigger.oid, "pg_trigger")?;
    }
    Ok(())
}

/// Has no trigger of a table fire while it is copied to; [`enable_triggers`] has them fire as before.
pub fn calm_triggers(table: Oid, name: Qualified) -> Result<()> {
    let calmed = triggers(table)?;
    for trigger in calmed.iter().filter(|trigger| matches!(trigger.enabled.as_str(), "A" | "R")) {
        let trigger = Ident(&trigger.name);
        query::execute(&format!("ALTER TABLE {name} ENABLE TRIGGER {trigger}"), &[])?;
    }
    Ok(())
}

/// Has the triggers of `table` fire for the same writers as those of `model`, where that isn't the usual.
pub fn enable_triggers(model: Oid, table: Qualified) -> Result<()> {
    for trigger in triggers(model)? {
        let how = match trigger.enabled.as_str() {
            "A" => "ALWAYS",
            "R" => "REPLICA",
            _ => continue,
        };
        let name = Ident(&trigger.name);
        query::execute(&format!("ALTER TABLE {table} ENABLE {how} TRIGGER {name}"), &[])?;
    }
    Ok(())
}

/// Adds the foreign keys of the table in use. Locks the tables that they point to in SHARE ROW EXCLUSIVE mode.
pub fn add_foreign_keys(live: &Table, keys: &[ForeignKey]) -> Result<()> {
    let shadow = Qualified { schema: &live.schema, name: SHADOW };
    keys.iter().try_for_each(|key| key.add_to(shadow))
}

/// The triggers by which changes of the tables that foreign keys of `table` point to reach it: the name of each table, and
/// of its trigger.
fn actions(table: Oid) -> Result<Vec<(String, String)>> {
    let sql = "SELECT t.tgrelid, t.tgname::text \
               FROM pg_catalog.pg_constraint k \
               JOIN pg_catalog.pg_trigger t ON t.tgconstraint = k.oid AND t.tgrelid = k.confrelid \
               WHERE k.conrelid = $1 AND k.contype = 'f' ORDER BY 1, 2";
    let triggers =
        query::read(sql, &[table.into()], |row| Ok((row.get::<Oid>(1)?, row.get::<String>(2)?)))?;
    triggers
        .into_iter()
        .map(|(referenced, trigger)| Ok((crate::db::catalog::qualified_name(referenced)?, trigger)))
        .collect()
}

/// Turns on or off what the foreign keys of a table do when the row goes that they point to. Locks the tables that they
/// point to in SHARE ROW EXCLUSIVE mode; for superusers.
pub fn set_actions(table: Oid, on: bool) -> Result<()> {
    let word = if on { "ENABLE" } else { "DISABLE" };
    for (referenced, trigger) in actions(table)? {
        let trigger = Ident(&trigger);
        query::execute(&format!("ALTER TABLE {referenced} {word} TRIGGER {trigger}"), &[])?;
    }
    Ok(())
}
