//! Plan is execution: what the functions do to random catalogs is what the plan says.

use std::collections::BTreeSet;

use super::{Random, make_bare_log, run, texts};
use crate::db::{calendar, catalog};
use crate::domain::partition::{Partition, Range};
use crate::domain::plan;
use crate::lifecycle::context::Context;

/// How many random catalogs.
const CASES: u64 = 40;

/// Attaches random partitions around now: of any width, with holes, open at an end, partitioned
/// themselves, with a DEFAULT, beside tables that only look like partitions.
fn attach_random_partitions(random: &mut Random) {
    let mut day = -500 + random.below(60);
    let count = random.below(14);
    for i in 0..count {
        let lower = day + random.below(3) * random.below(30);
        let upper = lower + 1 + random.below(90);
        day = upper + 1;
        let hours = random.below(2) * random.below(24);
        let at = |day: i64| {
            format!(
                "'2026-11-01 00:00:00+00'::timestamptz + {day} * interval '24 hours' + {hours} * interval '1 hour'"
            )
        };
        let lower = if i == 0 && random.below(4) == 0 { "MINVALUE".to_owned() } else { at(lower) };
        let upper =
            if i + 1 == count && random.below(6) == 0 { "MAXVALUE".to_owned() } else { at(upper) };
        let sub = if random.below(5) == 0 { " PARTITION BY HASH (id)" } else { "" };
        run(&format!(
            "CREATE TABLE random_p{i} PARTITION OF workflow_events FOR VALUES FROM ({lower}) TO ({upper}){sub}"
        ));
    }
    if random.below(4) == 0 {
        run("CREATE TABLE random_rest PARTITION OF workflow_events DEFAULT");
    }
    for name in
        ["workflow_events_y2019m01_backup", "workflow_events_y2026m12", "workflow_events_y2019m02"]
    {
        if random.below(3) == 0 {
            run(&format!("CREATE TABLE {name} (LIKE workflow_events)"));
        }
    }
}

/// Every relation of the schema, by OID and name.
fn relations() -> BTreeSet<String> {
    texts("SELECT oid || ' ' || relname FROM pg_class WHERE relnamespace = current_schema::regnamespace AND relkind IN ('r', 'p')")
        .into_iter()
        .collect()
}

fn clear() {
    run("DROP TABLE workflow_events, workflow_runs CASCADE;
         DROP TABLE IF EXISTS workflow_events_y2019m01_backup, workflow_events_y2026m12, workflow_events_y2019m02");
}

pub fn maintenance_equals_its_plan_on_random_catalogs() {
    run("SET client_min_messages = error");
    for case in 0..CASES {
        let mut random = Random(case);
        make_bare_log();
        attach_random_partitions(&mut random);
        let context = Context::load().unwrap();
        let facts = context.facts().unwrap();
        let window = plan::window(&facts, &context.policy, 0).unwrap();
        let (creations, _) = plan::missing(&facts, window, &context.midnights());
        let before = relations();

        let made = texts("SELECT maintain_workflow_events_partitions()");

        let planned: Vec<String> = creations.iter().map(|c| c.name.clone()).collect();
        assert_eq!(made, planned, "case {case}");
        let after = Context::load().unwrap().facts().unwrap();
        for creation in &creations {
            let ranges: Vec<Option<Range>> = after
                .partitions
                .iter()
                .filter(|p| p.name == creation.name)
                .map(Partition::range)
                .collect();
            assert_eq!(ranges, [Some(creation.range)], "case {case}, {}", creation.name);
        }
        assert!(before.is_subset(&relations()), "case {case}: something went away");
        assert_eq!(plan::missing(&after, window, &context.midnights()).0, vec![], "case {case}");
        assert_eq!(texts("SELECT maintain_workflow_events_partitions()"), Vec::<String>::new());

        // Coverage is proved but for a month whose name is taken.
        let (now, _) = calendar::now("UTC").unwrap();
        let name_taken = before.iter().any(|r| r.ends_with(" workflow_events_y2026m12"));
        let holes = plan::uncovered(&after, now, window.1, &context.midnights());
        assert!(holes.is_empty() || name_taken, "case {case}: {holes:?}");
        clear();
    }
}

pub fn retention_equals_its_plan_on_random_catalogs() {
    run("SET client_min_messages = error");
    for case in 0..CASES {
        let mut random = Random(1_000 + case);
        make_bare_log();
        attach_random_partitions(&mut random);
        let months = 1 + u32::try_from(random.below(18)).unwrap();
        let context = Context::load().unwrap();
        let facts = context.facts().unwrap();
        let midnights = context.midnights();
        let (retirements, _) = plan::outdated(&facts, months, &midnights).unwrap();
        let going: BTreeSet<u32> = retirements.iter().map(|r| r.oid).collect();
        let kept: BTreeSet<u32> =
            facts.partitions.iter().map(|p| p.oid).filter(|oid| !going.contains(oid)).collect();
        let unattached = ["workflow_events_y2019m01_backup", "workflow_events_y2019m02"];
        let looks_alike = |relations: &BTreeSet<String>| {
            let of = |r: &&String| unattached.iter().any(|name| r.ends_with(&format!(" {name}")));
            relations.iter().filter(of).cloned().collect::<Vec<_>>()
        };
        let before = relations();

        let dropped = texts(&format!("SELECT drop_old_workflow_events_partitions({months})"));

        let planned: Vec<String> = retirements.iter().map(|r| r.name.clone()).collect();
        assert_eq!(dropped, planned, "case {case}");
        let table = catalog::events(&catalog::extension().unwrap()).unwrap();
        let left: BTreeSet<u32> =
            catalog::partitions(&table).unwrap().iter().map(|p| p.oid).collect();
        assert_eq!(left, kept, "case {case}");
        assert_eq!(looks_alike(&relations()), looks_alike(&before), "case {case}");
        clear();
    }
}
