//! Archives in the format parquet, written and read by the extension `pg_parquet` through COPY.
//!
//! To be called as the log's owner, who needs what COPY asks for: `pg_write_server_files` and `pg_read_server_files` for files,
//! `parquet_object_store_write` and `parquet_object_store_read` for object stores.

use crate::db::ident::{List, Literal, Qualified};
use crate::db::query;
use crate::error::Result;
use crate::pg::subtransaction;

/// Whether `pg_parquet` is there.
pub fn is_available() -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_parquet')";
    Ok(query::read_one(sql, &[], |row| row.get(1))?.unwrap_or(false))
}

/// Writes the rows of a table to a path or URI.
pub fn write(table: Qualified, columns: &[&str], to: &str) -> Result<()> {
    let (columns, to) = (List(columns), Literal(to));
    let sql = format!("COPY (SELECT {columns} FROM {table}) TO {to} WITH (FORMAT 'parquet')");
    query::execute(&sql, &[])
}

/// Reads rows from a path or URI into a table.
pub fn read(table: Qualified, columns: &[&str], from: &str) -> Result<()> {
    let (columns, from) = (List(columns), Literal(from));
    let sql =
        format!("COPY {table} ({columns}) FROM {from} WITH (FORMAT 'parquet', MATCH_BY 'name')");
    query::execute(&sql, &[])
}

/// Whether there is a parquet file at a URI, as far as it can be told.
pub fn exists(uri: &str) -> Result<bool> {
    let sql = "SELECT n.nspname::text FROM pg_catalog.pg_extension e \
               JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::regclass \
                   AND d.refobjid = e.oid AND d.classid = 'pg_catalog.pg_proc'::regclass \
               JOIN pg_catalog.pg_proc p ON p.oid = d.objid AND p.proname = 'file_metadata' \
               JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE e.extname = 'pg_parquet'";
    let Some(schema) = query::read_one(sql, &[], |row| row.get::<String>(1))? else {
        return Ok(false);
    };
    let function = Qualified { schema: &schema, name: "file_metadata" };
    let sql = format!("SELECT true FROM {function}($1) LIMIT 1");
    // What isn't there can't be read, and says so by an error.
    let found =
        subtransaction::run(|| query::read_one(&sql, &[uri.into()], |row| row.get::<bool>(1)));
    Ok(found.is_ok_and(|found| found.is_some()))
}
