//! Which runs go on, and which of them have events in a partition.
//!
//! Both are asked as the owner of the table that is read, past row level security that is forced on the owner too: an
//! answer that leaves out a row would not be true.

use pgrx::Uuid;
use pgrx::pg_sys::{Oid, TEXTOID, UUIDOID};
use pgrx::spi::quote_literal;

use crate::db::catalog::{self, RUNS, Table};
use crate::db::ident::Qualified;
use crate::db::query;
use crate::error::{Error, Result};
use crate::pg::{identity, latest};

/// How it is told from a table of runs which of them go on.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The table of runs.
    pub runs: Oid,
    /// The role that owns it.
    pub owner: Oid,
    /// Its name, quoted.
    name: String,
    /// What is true of a run that goes on.
    condition: String,
    /// Whether the condition looks at `finished_at`.
    has_finished_at: bool,
    /// The part of the condition that looks at the status.
    status: Option<String>,
}

/// The rule for the event log's runs; `None` where nothing says whether a run goes on.
///
/// A run goes on that isn't said to have finished, by its status or by `finished_at`: where they disagree, its events are
/// kept.
///
/// # Errors
///
/// Where the server can't be asked.
pub fn rule(table: &Table, final_statuses: &[String]) -> Result<Option<Rule>> {
    let Some(runs) = catalog::find_table(table.schema_oid, RUNS)? else { return Ok(None) };
    let sql = "SELECT a.attname::text, a.atttypid, a.attnotnull, c.relowner \
               FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
               WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
                 AND a.attname IN ('id', 'status', 'finished_at')";
    let columns = query::read(sql, &[runs.into()], |row| {
        let column: (String, Oid, bool) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((column, row.get::<Oid>(4)?))
    })?;
    let column = |name: &str| columns.iter().find(|((of, ..), _)| of == name);
    let Some(((_, UUIDOID, _), owner)) = column("id") else { return Ok(None) };
    let status = column("status").map(|((_, type_oid, not_null), _)| {
        let value = if *type_oid == TEXTOID { "status" } else { "status::pg_catalog.text" };
        let goes_on = format!(
            "{value} OPERATOR(pg_catalog.<>) ALL ({}::pg_catalog.text[])",
            quote_literal(array_text(final_statuses))
        );
        // Written so that an index with this predicate can be used.
        if *not_null { goes_on } else { format!("{goes_on} OR status IS NULL") }
    });
    let has_finished_at = column("finished_at").is_some();
    let finished = has_finished_at.then(|| "finished_at IS NULL".to_owned());
    let conditions: Vec<String> = finished.into_iter().chain(status.clone()).collect();
    if conditions.is_empty() {
        return Ok(None);
    }
    let name = Qualified { schema: &table.schema, name: RUNS }.to_string();
    let condition = conditions.join(" OR ");
    Ok(Some(Rule { runs, owner: *owner, name, condition, has_finished_at, status }))
}

/// Texts as the literal of an array.
fn array_text(texts: &[String]) -> String {
    let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    format!("{{{}}}", texts.iter().map(quoted).collect::<Vec<_>>().join(","))
}

impl Rule {
    /// The runs that go on, as they are now, whatever snapshot the transaction has.
    ///
    /// # Errors
    ///
    /// What the server says of a table that can't be read.
    pub fn unfinished(&self) -> Result<Vec<Uuid>> {
        let sql = format!("SELECT id, 1::bigint FROM {} WHERE {}", self.name, self.condition);
        let rows = identity::run_as_seeing_all(self.owner, || latest::uuids(sql, &[]))?;
        Ok(rows.into_iter().map(|(run, _)| run).collect())
    }

    /// The statements that make the indexes by which the runs that go on are found without reading them all.
    #[must_use]
    pub fn indexes(&self) -> String {
        let index = |columns: &str, predicate: &str| {
            format!("CREATE INDEX CONCURRENTLY ON {} ({columns}) WHERE {predicate};", self.name)
        };
        let of_finish = self.has_finished_at.then(|| index("id", "finished_at IS NULL"));
        let of_status = self.status.as_deref().map(|condition| index("id", condition));
        of_finish.into_iter().chain(of_status).collect::<Vec<_>>().join(" ")
    }
}

/// The runs among `runs` that have events in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// How many there are.
    pub runs: u64,
    /// The one with the oldest event.
    pub oldest: Uuid,
}

/// Those of `runs` that have events in a table, as it is now; `None` where there are none. One look at the index on
/// (run_id, ts) a run.
///
/// To be called as the table's owner, seeing all rows.
///
/// # Errors
///
/// What the server says of a table that can't be read.
pub fn needing(table: Oid, runs: &[Uuid]) -> Result<Option<Needed>> {
    if runs.is_empty() {
        return Ok(None);
    }
    let name = catalog::qualified_name(table)?;
    let sql = format!(
        "SELECT r.id, pg_catalog.count(*) OVER () \
         FROM pg_catalog.unnest($1) r (id), \
         LATERAL (SELECT e.ts FROM {name} e WHERE e.run_id OPERATOR(pg_catalog.=) r.id \
                  ORDER BY e.ts LIMIT 1) first \
         ORDER BY first.ts, r.id LIMIT 1"
    );
    let found = latest::uuids(sql, runs)?;
    let needed = |(oldest, count): (Uuid, i64)| {
        let runs = u64::try_from(count)
            .map_err(|_| Error::Internal("a negative number of runs was counted".to_owned()))?;
        Ok(Needed { runs, oldest })
    };
    found.into_iter().next().map(needed).transpose()
}
