//! Tests that run inside a server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bounds;
mod counts;
mod descents;
mod digests;
mod isolation;
mod plans;
mod reads;

use pgrx::prelude::*;

/// The in-server tests; pgrx runs each in a transaction that is rolled back.
#[pg_schema]
mod tests {
    use super::{bounds, counts, descents, digests, isolation, plans, reads};
    use pgrx::prelude::*;

    #[pg_test]
    fn bounds_are_read_as_postgresql_writes_them() {
        bounds::are_read_as_postgresql_writes_them();
    }

    #[pg_test]
    fn clocks_agree_with_postgresql() {
        bounds::clocks_agree_with_postgresql();
    }

    #[pg_test]
    fn descents_find_what_the_query_finds() {
        descents::find_what_the_query_finds();
    }

    #[pg_test]
    fn digests_depend_on_no_order_and_no_setting() {
        digests::depend_on_no_order_and_no_setting();
    }

    #[pg_test]
    fn digests_find_one_altered_missing_or_added_row() {
        digests::find_one_altered_missing_or_added_row();
    }

    #[pg_test]
    fn digests_hide_no_row_and_choose_by_range() {
        digests::hide_no_row_and_choose_by_range();
    }

    #[pg_test]
    fn literals_are_independent_of_settings() {
        bounds::literals_are_independent_of_settings();
    }

    #[pg_test]
    fn maintenance_equals_its_plan_on_random_catalogs() {
        plans::maintenance_equals_its_plan_on_random_catalogs();
    }

    #[pg_test]
    fn retention_equals_its_plan_on_random_catalogs() {
        plans::retention_equals_its_plan_on_random_catalogs();
    }

    #[pg_test]
    fn replays_equal_the_plain_query() {
        reads::replays_equal_the_plain_query();
    }

    #[pg_test]
    fn only_an_index_that_gives_all_rows_in_order_is_used() {
        reads::only_an_index_that_gives_all_rows_in_order_is_used();
    }

    #[pg_test]
    fn counts_equal_the_plain_query() {
        reads::counts_equal_the_plain_query();
    }

    #[pg_test]
    fn native_counts_equal_the_plain_query() {
        counts::equal_the_plain_query();
    }

    #[pg_test]
    fn counts_bite_where_a_stale_map_is_trusted() {
        counts::bite_where_a_stale_map_is_trusted();
    }

    #[pg_test]
    fn counts_bite_where_posting_lists_are_ignored() {
        counts::bite_where_posting_lists_are_ignored();
    }

    #[pg_test]
    fn counts_use_complete_indexes_alone() {
        counts::use_complete_indexes_alone();
    }

    #[pg_test]
    fn counts_are_left_to_the_query_where_it_would_do_more() {
        counts::are_left_to_the_query_where_it_would_do_more();
    }

    #[pg_test]
    fn settings_and_identity_come_back() {
        isolation::settings_and_identity_come_back();
    }

    #[pg_test]
    fn the_health_check_fires_triggers_as_the_application_does() {
        isolation::the_health_check_fires_triggers_as_the_application_does();
    }

    #[pg_test]
    fn a_failed_step_leaves_nothing() {
        isolation::a_failed_step_leaves_nothing();
    }

    #[pg_test]
    fn a_trial_leaves_nothing() {
        isolation::a_trial_leaves_nothing();
    }

    #[pg_test(error = "canceling statement due to statement timeout")]
    fn a_cancel_is_not_taken_for_a_failure_of_the_step() {
        isolation::a_cancel_is_not_taken_for_a_failure_of_the_step();
    }
}

/// A small generator of numbers (SplitMix64): the same sequence for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `n` - 1.
    fn below(&mut self, n: u64) -> i64 {
        i64::try_from(self.next() % n).unwrap()
    }
}

/// Runs statements.
fn run(sql: &str) {
    Spi::run(sql).unwrap();
}

/// One text.
fn text(sql: &str) -> String {
    Spi::get_one::<String>(sql).unwrap().unwrap_or_default()
}

/// One number.
fn number(sql: &str) -> i64 {
    Spi::get_one::<i64>(sql).unwrap().unwrap()
}

/// All texts of a column.
fn texts(sql: &str) -> Vec<String> {
    Spi::connect(|client| {
        let rows = client.select(sql, None, &[]).unwrap();
        rows.map(|row| row.get::<String>(1).unwrap().unwrap_or_default()).collect()
    })
}

/// Makes workflow_runs, and workflow_events without partitions, in the extension's schema.
fn make_bare_log() {
    run("CREATE TABLE workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), status text);
         CREATE TABLE workflow_events (
            id bigserial, run_id uuid NOT NULL REFERENCES workflow_runs ON DELETE CASCADE,
            ts timestamptz NOT NULL DEFAULT now(), type text NOT NULL, payload jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, ts)
         ) PARTITION BY RANGE (ts);
         CREATE INDEX workflow_events_run_id_idx ON workflow_events (run_id);
         CREATE INDEX workflow_events_run_ts_idx ON workflow_events (run_id, ts);
         CREATE INDEX workflow_events_type_idx ON workflow_events (type)");
}
