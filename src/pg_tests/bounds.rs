//! Bounds, clocks and literals against what PostgreSQL says of them.

use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

use super::{Random, run, text, texts};
use crate::db::calendar;
use crate::domain::bound_text;
use crate::domain::instant::Instant;
use crate::domain::partition::Extent;
use crate::pg::{bound, inheritance, time_zone};

pub fn are_read_as_postgresql_writes_them() {
    run("SET TimeZone = 'UTC';
         CREATE TABLE log (ts timestamptz) PARTITION BY RANGE (ts)");
    let bounds = [
        "FROM (MINVALUE) TO ('-infinity')",
        "FROM ('-infinity') TO ('1000-01-01 00:00:00+00 BC')",
        "FROM ('0001-12-31 00:00:00+00 BC') TO ('0001-01-01 00:00:00+00')",
        "FROM ('1999-12-31 23:59:59.999999+00') TO ('2000-01-01 00:00:00+00')",
        "FROM ('2000-01-01 00:00:00+00') TO ('2000-01-01 00:00:00.000001+00')",
        "FROM ('2025-01-01 00:00:00+00') TO ('2025-02-01 00:00:00+00')",
        "FROM ('9999-12-01 00:00:00+00') TO ('10000-01-01 00:00:00+00')",
        "FROM ('infinity') TO (MAXVALUE)",
    ];
    for (i, bound) in bounds.iter().enumerate() {
        run(&format!("CREATE TABLE log_{i} PARTITION OF log FOR VALUES {bound}"));
    }
    run("CREATE TABLE log_rest PARTITION OF log DEFAULT;
         CREATE TABLE two_keys (a int, b int) PARTITION BY RANGE (a, b);
         CREATE TABLE two_keys_1 PARTITION OF two_keys FOR VALUES FROM (1, 1) TO (2, 2);
         CREATE TABLE number_key (a int) PARTITION BY RANGE (a);
         CREATE TABLE number_key_1 PARTITION OF number_key FOR VALUES FROM (1) TO (2)");
    let extent = |name: &str| {
        let oid = Spi::get_one::<Oid>(&format!("SELECT '{name}'::regclass::oid")).unwrap().unwrap();
        bound::extent_of(oid)
    };
    for (i, bound) in bounds.iter().enumerate() {
        let Some(Extent::Range(range)) = extent(&format!("log_{i}")) else {
            panic!("{bound} was not read as a range")
        };
        assert_eq!(range.to_string(), *bound);
        let written = text(&format!(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'log_{i}'"
        ));
        assert_eq!(format!("FOR VALUES {range}"), written);
    }
    assert_eq!(extent("log_rest"), Some(Extent::Default));
    assert_eq!(extent("log"), None, "not a partition");
    assert_eq!(bound::extent_of(Oid::from(4_000_000_000)), None, "no relation");
    assert!(matches!(extent("two_keys_1"), Some(Extent::Unreadable(_))));
    assert!(matches!(extent("number_key_1"), Some(Extent::Unreadable(_))));
    // The quick reader reads what is usual, and the scan gives the same as the system cache for all.
    let usual = text("SELECT relpartbound::text FROM pg_class WHERE relname = 'log_5'");
    assert_eq!(bound_text::read(&usual).map(Extent::Range), extent("log_5"));
    let log = Spi::get_one::<Oid>("SELECT 'log'::regclass::oid").unwrap().unwrap();
    let children = inheritance::children(log);
    assert_eq!(children.len(), bounds.len() + 1);
    for child in children {
        assert_eq!(Some(child.extent), bound::extent_of(child.oid), "{:?}", child.name);
    }
}

pub fn clocks_agree_with_postgresql() {
    let zones = texts("SELECT name FROM pg_timezone_names ORDER BY md5(name) LIMIT 40");
    assert_eq!(zones.len(), 40);
    let mut random = Random(1);
    for zone in &zones {
        for _ in 0..25 {
            // 1900 to 2100, in whole seconds.
            let second = random.below(6_300_000_000) - 3_155_000_000;
            let civil = time_zone::civil_time(zone, second * 1_000_000).unwrap();
            let theirs = text(&format!(
                "SELECT ((timestamptz '2000-01-01 00:00:00+00' + {second} * interval '1 second') \
                 AT TIME ZONE '{zone}')::text"
            ));
            assert_eq!(civil.to_string(), theirs, "{zone}, second {second}");
        }
    }
    assert!(time_zone::exists("UTC") && time_zone::exists("Europe/Berlin"));
    assert!(!time_zone::exists("Mars/Olympus") && !time_zone::exists(""));
}

pub fn literals_are_independent_of_settings() {
    for (i, style) in ["SQL, DMY", "German", "Postgres, MDY", "ISO, YMD"].iter().enumerate() {
        run(&format!("SET DateStyle = '{style}'; SET TimeZone = 'Asia/Tokyo'"));
        for (y, m) in [(1, 1), (1582, 10), (2025, 3), (9999, 12)] {
            let date = chrono::NaiveDate::from_ymd_opt(y, m, 1).unwrap();
            for zone in ["UTC", "America/New_York", "Pacific/Kiritimati"] {
                let instant = calendar::midnight(date, zone).unwrap();
                let read = format!("SELECT '{instant}'::timestamptz");
                let back = Spi::get_one::<TimestampWithTimeZone>(&read).unwrap().unwrap();
                assert_eq!(Instant(back.into_inner()), instant, "{instant} under style {i}");
            }
        }
    }
}
