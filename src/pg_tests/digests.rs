//! The digest of a table's rows: the same whatever order they and their columns stand in, and whatever a session has set.

use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

use super::{number, run, text, texts};

/// The functions below, which SQL calls so that they see what statements before have done.
#[pg_schema]
mod digests {
    use super::Oid;
    use crate::db::rows;
    use crate::domain::instant::Instant;
    use crate::domain::partition::Range;
    use pgrx::datum::TimestampWithTimeZone;
    use pgrx::prelude::*;

    #[pg_extern(volatile)]
    fn digest_of(
        relation: Oid,
        from: default!(Option<TimestampWithTimeZone>, "NULL"),
        until: default!(Option<TimestampWithTimeZone>, "NULL"),
    ) -> String {
        let at = |at: TimestampWithTimeZone| Instant(at.into_inner());
        let range = from.zip(until).map(|(from, until)| Range::between(at(from), at(until)));
        let digest = rows::digest(relation, range).unwrap();
        format!("{} {digest}", digest.rows())
    }
}

fn digest(table: &str) -> String {
    text(&format!("SELECT digests.digest_of('{table}'::regclass)"))
}

const COLUMNS: &str = "id bigint, run uuid, ts timestamptz, text text, payload jsonb, number float8, \
     long interval, raw bytea, price money, list text[], day date";

const ROWS: &str = "SELECT n AS id, md5(n::text)::uuid AS run, timestamptz '2026-01-01' + n * interval '1.5 h' AS ts, \
     CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'ä' || n END AS text, \
     jsonb_build_object('n', n, 'long', repeat(md5(n::text), n % 20)) AS payload, n / 3.0::float8 AS number, \
     n * interval '-1 month 2.5 s' AS long, decode(md5(n::text), 'hex') AS raw, n::money AS price, \
     ARRAY['a,b', NULL, n::text] AS list, date '2026-01-01' + n AS day";

pub fn depend_on_no_order_and_no_setting() {
    run(&format!(
        "CREATE TABLE plain ({COLUMNS}); CREATE TABLE other (day date, gone int, list text[], price money, raw bytea, \
             long interval, number float8, payload jsonb, text text, ts timestamptz, run uuid, id bigint); \
         INSERT INTO plain {ROWS} FROM generate_series(1, 2000) n; \
         ALTER TABLE other DROP gone; ALTER TABLE other ALTER text SET STORAGE EXTERNAL; \
         INSERT INTO other (id, run, ts, text, payload, number, long, raw, price, list, day) \
             {ROWS} FROM generate_series(2000, 1, -1) n; \
         ALTER TABLE other ADD nothing text"
    ));
    let expected = digest("plain");
    assert!(expected.starts_with("2000 "), "{expected}");
    assert_eq!(digest("other"), expected);
    let oid = text("SELECT 'plain'::regclass::oid::text");
    let settings = [
        ("DateStyle", "SQL, DMY"),
        ("TimeZone", "Asia/Kolkata"),
        ("IntervalStyle", "iso_8601"),
        ("extra_float_digits", "-3"),
        ("bytea_output", "escape"),
        ("search_path", "pg_temp"),
    ];
    for (name, value) in settings {
        run(&format!("SET LOCAL {name} = '{value}'"));
        let given = text(&format!("SELECT digests.digest_of({oid})"));
        assert_eq!(given, expected, "{name}");
    }
    // They come back.
    assert_eq!(text("SELECT current_setting('bytea_output')"), "escape");
}

pub fn find_one_altered_missing_or_added_row() {
    run(&format!(
        "CREATE TABLE plain ({COLUMNS}); INSERT INTO plain {ROWS} FROM generate_series(1, 300) n"
    ));
    let before = digest("plain");
    let changes = [
        "DELETE FROM plain WHERE id = 7",
        "INSERT INTO plain SELECT * FROM plain WHERE id = 7",
        "UPDATE plain SET text = '' WHERE id = 5",
        "UPDATE plain SET text = NULL WHERE id = 6",
        "UPDATE plain SET number = number + 1e-10 WHERE id = 8",
        "UPDATE plain SET ts = ts + interval '1 us' WHERE id = 9",
        "UPDATE plain a SET id = b.id FROM plain b WHERE (a.id, b.id) IN ((10, 11), (11, 10))",
    ];
    for change in changes {
        run(&format!("CREATE TABLE kept AS SELECT * FROM plain; {change}"));
        assert_ne!(digest("plain"), before, "{change}");
        run(
            "TRUNCATE plain; INSERT INTO plain SELECT * FROM kept ORDER BY random(); DROP TABLE kept",
        );
        assert_eq!(digest("plain"), before);
    }
}

pub fn hide_no_row_and_choose_by_range() {
    run(&format!(
        "CREATE TABLE plain ({COLUMNS}); INSERT INTO plain {ROWS} FROM generate_series(1, 300) n; \
         CREATE TABLE part ({COLUMNS}); INSERT INTO part SELECT * FROM plain \
             WHERE ts >= '2026-01-05' AND ts < '2026-01-06'"
    ));
    let [all, part] = ["plain", "part"].map(digest);
    let range = "SELECT digests.digest_of('plain'::regclass, '2026-01-05', '2026-01-06')";
    assert_eq!(text(range), part);
    assert_eq!(number("SELECT count(*) FROM part"), 16);
    run("CREATE ROLE digest_owner; ALTER TABLE plain OWNER TO digest_owner; \
         ALTER TABLE plain ENABLE ROW LEVEL SECURITY; ALTER TABLE plain FORCE ROW LEVEL SECURITY; \
         GRANT USAGE ON SCHEMA digests TO digest_owner; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA digests TO digest_owner; SET LOCAL ROLE digest_owner");
    assert_eq!(texts("SELECT id::text FROM plain"), [""; 0]);
    assert_eq!(digest("plain"), all);
}
