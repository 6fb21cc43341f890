//! Filling a table with rows that are given as text.

use pgrx::pg_sys::Oid;

use crate::db::ident::{Ident, List, Qualified};
use crate::db::query;
use crate::error::{Error, Result};
use crate::pg::{memory, server, table_rows};

/// How many rows are written at once, at most.
const ROWS_AT_ONCE: usize = 1_000;

/// How many bytes are gathered before they are written.
const BYTES_AT_ONCE: usize = 1 << 20;

/// A column that a value can be given for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its type, as PostgreSQL writes it, without modifier: what the table asks for is asked at the end.
    type_name: String,
}

/// The columns of a table that values can be given for, in order: those that aren't generated.
pub fn targets(table: Oid) -> Result<Vec<Target>> {
    // With -1 instead of NULL, "character" isn't taken for one of a single character.
    let sql = "SELECT attname::text, pg_catalog.format_type(atttypid, -1) FROM pg_catalog.pg_attribute \
               WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum";
    query::read(sql, &[table.into()], |row| {
        Ok(Target { name: row.get(1)?, type_name: row.get(2)? })
    })
}

/// Writes rows into a table, many at once.
pub struct Loader {
    statement: String,
    encoding: String,
    columns: Vec<Vec<Option<Vec<u8>>>>,
    rows: usize,
    bytes: usize,
}

impl Loader {
    /// For values of these columns, in their order.
    pub fn new(table: Qualified, targets: &[Target]) -> Result<Self> {
        let sql = "SELECT CASE pg_catalog.getdatabaseencoding()::text WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END";
        let encoding = query::read_one(sql, &[], |row| row.get(1))?
            .ok_or_else(|| Error::Internal("the database has no encoding".to_owned()))?;
        let (mut names, mut values, mut arrays, mut aliases) = (vec![], vec![], vec![], vec![]);
        let encoding_place = targets.len() + 1;
        for (place, target) in (1..).zip(targets) {
            names.push(Ident(&target.name).to_string());
            values.push(format!(
                "pg_catalog.convert_from(v.c{place}, ${encoding_place})::{}",
                target.type_name
            ));
            arrays.push(format!("pg_catalog.unnest(${place})"));
            aliases.push(format!("c{place}"));
        }
        let statement = format!(
            "INSERT INTO {table} ({}) SELECT {} FROM ROWS FROM ({}) AS v ({})",
            names.join(", "),
            values.join(", "),
            arrays.join(", "),
            aliases.join(", ")
        );
        Ok(Self {
            statement,
            encoding,
            columns: vec![Vec::new(); targets.len()],
            rows: 0,
            bytes: 0,
        })
    }

    /// Adds a row: a value for each column, in UTF-8; `None` is null.
    pub fn add<'a>(&mut self, values: impl IntoIterator<Item = Option<&'a [u8]>>) -> Result<()> {
        for (column, value) in self.columns.iter_mut().zip(values) {
            self.bytes += value.map_or(0, <[u8]>::len);
            column.push(value.map(<[u8]>::to_vec));
        }
        self.rows += 1;
        if self.rows >= ROWS_AT_ONCE || self.bytes >= BYTES_AT_ONCE { self.write() } else { Ok(()) }
    }

    /// Writes what is left.
    pub fn finish(mut self) -> Result<()> {
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        server::check_for_interrupts();
        memory::in_scratch(|| {
            let mut arguments: Vec<_> =
                self.columns.iter_mut().map(|column| std::mem::take(column).into()).collect();
            arguments.push(self.encoding.as_str().into());
            table_rows::with_text_settings(|| query::execute(&self.statement, &arguments))
        })?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

/// Copies all rows of a table into another.
pub fn copy(from: Qualified, to: Qualified, columns: &[&str]) -> Result<()> {
    let list = List(columns);
    query::execute(&format!("INSERT INTO {to} ({list}) SELECT {list} FROM {from}"), &[])
}

/// Has the planner know a table that was filled just now.
pub fn analyze(table: Qualified) -> Result<()> {
    query::execute(&format!("ANALYZE {table}"), &[])
}
