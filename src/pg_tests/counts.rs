//! Native counts against the plain query, and counts that are wrong on purpose against both.

use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

use super::{make_bare_log, number, run, text};
use crate::pg::btree::Tid;
use crate::pg::btree_leaves::{self, Leaves};
use crate::pg::index;
use crate::pg::relation::Relation;
use crate::pg::visibility_map::Current;
use crate::read::partition_count::{self, Count};

/// What is done to a partition, one after the other. The first state is the only one in which the visibility map says of
/// each page that all see it.
const STATES: [(&str, &str); 9] = [
    ("all visible", ""),
    ("own rows", "INSERT INTO part_1 (run_id, ts, type, payload)
        SELECT gen_random_uuid(), '2026-01-05', 't' || n % 3, '{}' FROM generate_series(1, 5000) n"),
    ("rows deleted", "DELETE FROM part_1 WHERE id % 701 = 0"),
    ("HOT updates", "UPDATE part_1 SET payload = '{}' WHERE id % 301 = 1"),
    ("the same again", "UPDATE part_1 SET payload = '{\"a\": 1}' WHERE id % 301 = 1"),
    ("other updates", "UPDATE part_1 SET type = 'x' || type WHERE id % 451 = 2"),
    ("a subtransaction rolled back", "
        DO $$ BEGIN
            INSERT INTO part_1 (run_id, ts, type, payload)
                SELECT gen_random_uuid(), '2026-01-05', 't' || n % 3, '{}' FROM generate_series(1, 2000) n;
            DELETE FROM part_1 WHERE id % 97 = 3;
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN END $$"),
    ("a subtransaction kept", "
        DO $$ BEGIN
            UPDATE part_1 SET type = 'y' WHERE id % 997 = 4;
            DELETE FROM part_1 WHERE id % 997 = 5;
        EXCEPTION WHEN division_by_zero THEN END $$"),
    ("wide keys", "UPDATE part_1 SET type = (SELECT string_agg(md5(n::text || id), '') FROM generate_series(1, 60) n)
                   WHERE id % 401 = 6"),
];

/// A log with a partition of many pages, loaded so that all are visible to all, as after VACUUM.
fn make_log() {
    make_bare_log();
    run("SET TimeZone = 'UTC';
         CREATE TABLE part_1 PARTITION OF workflow_events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE part_2 PARTITION OF workflow_events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_run_id_fkey");
    load();
}

fn load() {
    let directory = text("SELECT current_setting('data_directory')");
    let file = format!("{directory}/counts.copy");
    run(&format!(
        "COPY (SELECT n, gen_random_uuid(), timestamptz '2026-01-02' + n * interval '1 s', 't' || n % 4,
                      jsonb_build_object('n', n, 'long', repeat('x', 200)), now() FROM generate_series(100001, 160000) n)
             TO '{file}';
         COPY part_1 FROM '{file}' (FREEZE)"
    ));
    std::fs::remove_file(&file).unwrap();
}

fn open(partition: Oid) -> Relation {
    Relation::open(partition).unwrap()
}

/// The functions below, which SQL calls so that they see what statements before have done.
#[pg_schema]
mod counts {
    use super::{
        Count, Current, Leaves, Oid, Spi, Tid, btree_leaves, index, open, partition_count,
    };
    use crate::pg::visibility_map::{Copy, Map};
    use pgrx::prelude::*;

    #[pg_extern(volatile)]
    fn natively(partition: Oid) -> Option<i64> {
        partition_count::native(partition).map(|rows| rows.try_into().unwrap())
    }

    #[pg_extern(volatile)]
    fn pages_not_visible_to_all(partition: Oid) -> i64 {
        Copy::take(&open(partition)).unwrap().count_unset().into()
    }

    /// Counts, and changes the table when it is settled which pages are counted by themselves.
    #[pg_extern(volatile)]
    fn during(partition: Oid, change: &str) -> i64 {
        let table = open(partition);
        let count = Count::begin(&table).unwrap();
        Spi::run(change).unwrap();
        count.finish(&mut Current::of(&table)).unwrap().try_into().unwrap()
    }

    /// The visibility map as it was before the leaves were read: what must not be trusted.
    struct Stale(Copy);

    impl Map for Stale {
        fn word(&mut self, number: usize) -> u64 {
            self.0.word(number)
        }
    }

    /// As `during`, but trusts the map that was copied at the beginning.
    #[pg_extern(volatile)]
    fn during_with_stale_map(partition: Oid, change: &str) -> i64 {
        let table = open(partition);
        let count = Count::begin(&table).unwrap();
        let mut stale = Stale(Copy::take(&table).unwrap());
        Spi::run(change).unwrap();
        count.finish(&mut stale).unwrap().try_into().unwrap()
    }

    /// Counts, but takes the row pointer at the beginning of each entry of the index for its only one. Where it has a list,
    /// that pointer is none: it says where the list is.
    #[pg_extern(volatile)]
    fn without_lists(partition: Oid) -> i64 {
        fn first(entry: &[u8]) -> Option<&[Tid]> {
            entry.first_chunk().map(std::slice::from_ref)
        }
        let table = open(partition);
        let count = Count::begin(&table).unwrap();
        count.finish_with(&mut Current::of(&table), first).unwrap().try_into().unwrap()
    }

    /// The row pointers in the smallest index, and how many there would be if each entry had one.
    #[pg_extern(volatile)]
    fn pointers_and_entries(partition: Oid) -> Vec<i64> {
        let table = open(partition);
        let (index, _) = index::smallest_btree(&table).unwrap();
        let mut leaves = Leaves::begin(&index, false).unwrap();
        let (mut pointers, mut entries) = (0, 0);
        while leaves.advance().unwrap() {
            for tids in leaves.entries(btree_leaves::tids).unwrap() {
                let tids = tids.unwrap().len() as i64;
                pointers += tids;
                entries += tids.min(1);
            }
        }
        vec![pointers, entries]
    }
}

fn natively(partition: &str) -> Option<i64> {
    Spi::get_one(&format!("SELECT counts.natively('{partition}'::regclass)")).unwrap()
}

fn plainly(partition: &str) -> i64 {
    number(&format!("SELECT count(*) FROM {partition}"))
}

fn pages_not_visible_to_all(partition: &str) -> i64 {
    number(&format!("SELECT counts.pages_not_visible_to_all('{partition}'::regclass)"))
}

pub fn equal_the_plain_query() {
    make_log();
    for (state, change) in STATES {
        run(change);
        let plain = plainly("part_1");
        assert_eq!(natively("part_1"), Some(plain), "{state}");
        let unset = pages_not_visible_to_all("part_1");
        let pages =
            number("SELECT pg_relation_size('part_1') / current_setting('block_size')::int");
        let is_expected = match state {
            // The table may have been extended by some more than were needed.
            "all visible" => unset < 100,
            _ => (40..pages).contains(&unset),
        };
        assert!(is_expected, "{state}: {unset} of {pages} pages");
        assert_eq!(natively("part_2"), Some(0), "{state}");
    }
    let counted =
        number("SELECT sum(row_count)::bigint FROM get_workflow_events_partition_stats()");
    assert_eq!(counted, plainly("workflow_events"));
    run("DELETE FROM part_1");
    assert_eq!(natively("part_1"), Some(0));
    run("TRUNCATE part_1");
    assert_eq!(natively("part_1"), Some(0));
}

/// Rows that come meanwhile, into pages that were visible to all: the map has to be asked after the leaf was read.
pub fn bite_where_a_stale_map_is_trusted() {
    make_log();
    // Makes room in pages that are visible to all, without touching the map: the rows are loaded into a table with room.
    run("ALTER TABLE part_1 SET (fillfactor = 50); TRUNCATE part_1");
    load();
    run("ALTER TABLE part_1 RESET (fillfactor)");
    assert!(pages_not_visible_to_all("part_1") < 100);
    let before = plainly("part_1");
    // New versions of rows go to the page of the old ones, and have entries of their own. (51: rows of other pages.)
    let change = |n: i64| format!("'UPDATE part_1 SET type = type || ''!'' WHERE id % 100 = {n}'");
    let sql =
        |function: &str, n| format!("SELECT counts.{function}('part_1'::regclass, {})", change(n));
    assert_eq!(number(&sql("during", 1)), before);
    assert_eq!(plainly("part_1"), before);
    let wrong = number(&sql("during_with_stale_map", 51));
    assert!(wrong > before, "{wrong} instead of {before}");
    assert_eq!(natively("part_1"), Some(before));
}

/// An entry of an index over few values stands for many rows.
pub fn bite_where_posting_lists_are_ignored() {
    make_log();
    let rows = plainly("part_1");
    let counted =
        Spi::get_one::<Vec<i64>>("SELECT counts.pointers_and_entries('part_1'::regclass)");
    let [pointers, entries] = counted.unwrap().unwrap().try_into().unwrap();
    assert_eq!(pointers, rows);
    assert!(entries < rows / 10, "{entries} entries for {rows} rows");
    // The same walk without that rule is found by comparing it with the query, in each state.
    for (state, change) in STATES {
        run(change);
        let plain = plainly("part_1");
        let wrong = number("SELECT counts.without_lists('part_1'::regclass)");
        assert!(wrong < plain, "{state}: {wrong} instead of {plain}");
        assert_eq!(natively("part_1"), Some(plain), "{state}");
    }
}

/// Of the indexes, only those with an entry for each row are used. No row was changed since it was loaded: else a new index
/// would not be used by this transaction anyway.
pub fn use_complete_indexes_alone() {
    make_log();
    run("DROP INDEX workflow_events_type_idx; CREATE INDEX ON part_1 ((type <> 't1'))");
    let rows = plainly("part_1");
    // The new index is the smallest, and complete.
    let pointers = "SELECT (counts.pointers_and_entries('part_1'::regclass))[1]";
    assert_eq!(number(pointers), rows);
    let incomplete = [
        "DROP INDEX part_1_expr_idx; CREATE INDEX lacking ON part_1 (type) WHERE type = 't1'",
        "CREATE INDEX ON part_1 USING hash (type); CREATE INDEX ON part_1 USING brin (ts)",
    ];
    for change in incomplete {
        run(change);
        assert_eq!(natively("part_1"), Some(rows), "{change}");
    }
}

/// Where the query would do more than count the rows of a table, it is run.
pub fn are_left_to_the_query_where_it_would_do_more() {
    make_log();
    assert_eq!(natively("workflow_events"), None);
    run("CREATE TEMPORARY TABLE short (i int) ON COMMIT DROP; CREATE UNLOGGED TABLE fast (i int);
         CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one; CREATE VIEW seen AS SELECT * FROM part_2;
         CREATE FOREIGN DATA WRAPPER counted; CREATE SERVER counted FOREIGN DATA WRAPPER counted;
         CREATE FOREIGN TABLE far (i int) SERVER counted;
         CREATE ROLE regress_counter; GRANT SELECT ON part_1 TO regress_counter;
         GRANT SELECT (id) ON part_2 TO regress_counter;
         GRANT USAGE ON SCHEMA counts TO regress_counter;
         GRANT EXECUTE ON FUNCTION counts.natively TO regress_counter");
    for relation in ["short", "fast", "kept", "seen", "far", "workflow_events_type_idx"] {
        assert_eq!(natively(relation), None, "{relation}");
    }
    run("SET ROLE regress_counter");
    assert_eq!(natively("part_1"), Some(plainly("part_1")));
    assert_eq!(natively("part_2"), None);
    run("RESET ROLE; ALTER TABLE part_1 ENABLE ROW LEVEL SECURITY");
    assert!(natively("part_1").is_some());
    run("SET ROLE regress_counter");
    assert_eq!(natively("part_1"), None);
    run("RESET ROLE; ALTER TABLE part_1 DISABLE ROW LEVEL SECURITY; CREATE SCHEMA closed;
         ALTER TABLE part_1 SET SCHEMA closed; SET ROLE regress_counter");
    let oid = number("SELECT c.oid::bigint FROM pg_class c WHERE relname = 'part_1'");
    assert_eq!(natively(&oid.to_string()), None);
    run("RESET ROLE");
    assert!(natively("closed.part_1").is_some());
}
