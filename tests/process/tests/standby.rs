//! Standbys: nothing is maintained there, everything that reads works, and a promoted one takes over.

use std::time::Instant;

use process::{HANDFUL, Mode, Server, figure, ms};

/// A primary with an event log of three events of a run, and a standby of it.
fn pair() -> (Server, Server, String) {
    let primary = Server::with_idle_worker();
    let run = primary.make_run("postgres");
    primary.run(
        "postgres",
        &format!(
            "INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT '{run}', now() + n * interval '1 month', 'e' || n, '{{}}' FROM generate_series(-1, 1) n"
        ),
    );
    let standby = primary.standby();
    standby.catch_up_with(&primary);
    (primary, standby, run)
}

#[test]
fn nothing_is_maintained_on_a_standby() {
    let (primary, standby, _) = pair();
    primary.drop_month("postgres", 2);
    standby.catch_up_with(&primary);
    assert_eq!(standby.launcher(), None);
    let mut client = standby.connect("postgres");
    let rows = client.query("SELECT maintain_workflow_events_partitions()", &[]).unwrap();
    assert!(rows.is_empty());
    let psql = standby.psql("postgres", "SELECT maintain_workflow_events_partitions()");
    assert!(psql.success && psql.stdout.is_empty(), "{psql:?}");
    assert!(psql.stderr.contains("NOTICE") && psql.stderr.contains("standby"), "{psql:?}");
    for call in [
        "SELECT create_workflow_events_partition(current_date)",
        "SELECT create_workflow_events_partition(now())",
        "SELECT drop_old_workflow_events_partitions()",
        "SELECT setup_workflow_events()",
    ] {
        let error = client.batch_execute(call).expect_err(call);
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "25006", "{call}: {error}");
        assert!(error.hint().is_some(), "{call}: {error:?}");
    }
}

#[test]
fn everything_that_reads_works_on_a_standby() {
    let (_primary, standby, run) = pair();
    let types: Vec<String> =
        standby.all("postgres", &format!("SELECT type FROM get_workflow_run_events('{run}')"));
    assert_eq!(types, ["e-1", "e0", "e1"]);
    let counted = "SELECT sum(row_count)::bigint FROM get_workflow_events_partition_stats()";
    assert_eq!(standby.ask::<i64>(counted), 3);
    let listed = "SELECT count(*) FROM workflow_events_partition_info";
    assert_eq!(standby.ask::<i64>(listed), standby.partitions("postgres").len() as i64);
    // The health check tries no insert, and says so.
    let failed = "SELECT concat_ws(' ', check_name, detail) FROM verify_workflow_events() WHERE status = 'failed'";
    assert_eq!(standby.all::<String>("postgres", failed), Vec::<String>::new());
    let probes =
        "SELECT DISTINCT status FROM verify_workflow_events() WHERE check_name LIKE 'event_%'";
    assert_eq!(standby.all::<String>("postgres", probes), ["warning"]);
}

#[test]
fn a_promoted_standby_takes_over() {
    let (mut primary, standby, _) = pair();
    // What the primary can no longer do.
    primary.set_conf("pg_meshhook_events.enabled", "off");
    primary.reload();
    let missing = primary.drop_month("postgres", 2);
    standby.catch_up_with(&primary);
    primary.stop(Mode::Fast);
    assert!(!standby.partitions("postgres").contains(&missing));

    let begin = Instant::now();
    standby.promote();
    standby.wait_for_partition("postgres", &missing);
    let case = "standby: promoted";
    figure(case, "until what was missing is made (wanted: 60 s)", ms(begin.elapsed()));
    standby.wait_until_idle();
    assert_eq!(standby.attempts("postgres")[0].status, "ok");
    // And goes on.
    let missing = standby.drop_month("postgres", 3);
    assert_eq!(standby.pass("postgres").status, "ok");
    assert!(standby.partitions("postgres").contains(&missing));
    figure(case, "lines in the log", standby.assert_quiet(HANDFUL));
}
