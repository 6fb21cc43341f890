//! What was archived comes back as it was, while clients go on.

use crate::stage::*;
use process::ms;

fn once() -> Vec<String> {
    vec!["restored".to_owned()]
}

#[test]
fn a_file_comes_back_as_it_was() {
    let stage = Stage::awkward();
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    let first = stage.archive();
    let error =
        fails(&stage.server, &format!("SELECT restore_workflow_events_partition('{}')", stage.old));
    assert_eq!(error.code().code(), "42P17", "{error:?}");
    stage.drop_old();
    // Settings of the session change nothing of what a text means.
    stage.server.run(DATABASE, "ALTER ROLE postgres SET DateStyle = 'German'; ALTER ROLE postgres SET IntervalStyle = 'sql_standard'; ALTER ROLE postgres SET TimeZone = 'Asia/Tokyo'");
    assert_eq!(stage.restore(), (once(), 0));
    stage.assert_same_rows(&stage.old);
    stage.assert_is_as_others();
    assert_eq!(names(&directory), [format!("{}.csv", stage.old)]);
    assert_eq!(stage.archive().4, first.4);
    let tasks: Vec<String> = stage.server.all(DATABASE, "SELECT task FROM meshhook_events.maintenance_log WHERE task IN ('archive', 'restore') ORDER BY id");
    assert_eq!(tasks, ["archive", "restore", "archive"]);
}

#[test]
fn a_part_of_the_table_comes_back_as_it_was() {
    let stage = Stage::awkward();
    stage.archive_to_table();
    stage.archive();
    stage.drop_old();
    assert_eq!(stage.restore(), (once(), 0));
    stage.assert_same_rows(&stage.old);
    stage.assert_is_as_others();
    stage.assert_same_rows("workflow_events_archive");
}

#[test]
fn columns_that_came_since_have_their_default() {
    for to_table in [true, false] {
        let stage = Stage::plain(100);
        if to_table {
            stage.archive_to_table()
        } else {
            stage.archive_to(&stage.server.make_directory("archive"))
        }
        stage.archive();
        stage.drop_old();
        stage.server.run(DATABASE, "ALTER TABLE workflow_events ADD COLUMN since int NOT NULL DEFAULT 5, ADD COLUMN twice int GENERATED ALWAYS AS (10) STORED");
        assert_eq!(stage.restore(), (once(), 0));
        assert_eq!(
            stage.server.ask::<i64>(&format!(
                "SELECT count(*) FROM {} WHERE since = 5 AND twice = 10",
                stage.old
            )),
            100
        );
        stage.assert_is_as_others();
        // The partition has a generated column now.
        if to_table {
            assert_eq!(stage.archive_fails().code().code(), "42703");
            stage.server.run(
                DATABASE,
                "ALTER TABLE workflow_events_archive ADD COLUMN since int, ADD COLUMN twice int",
            );
        }
        stage.archive();
        stage.drop_old();
        assert_eq!(stage.restore(), (once(), 0));
        assert_eq!(
            stage
                .server
                .ask::<i64>(&format!("SELECT count(*) FROM {} WHERE twice = 10", stage.old)),
            100
        );
    }
}

#[test]
fn events_whose_run_is_gone_are_left_out() {
    for rows in [100, 1_100] {
        let stage = Stage::plain(rows);
        let server = &stage.server;
        let other = server.make_run(DATABASE);
        server.run(DATABASE, &format!("UPDATE {} SET run_id = '{other}' WHERE (payload ->> 'n')::int % 10 = 0; TRUNCATE kept; INSERT INTO kept SELECT * FROM {0} WHERE run_id <> '{other}'", stage.old));
        stage.archive_to(&server.make_directory("archive"));
        stage.archive();
        stage.drop_old();
        server.run(DATABASE, &format!("DELETE FROM workflow_runs WHERE id = '{other}'"));
        let stages =
            if rows == 100 { once() } else { vec!["prepared".to_owned(), "restored".to_owned()] };
        assert_eq!(stage.restore(), (stages, i64::from(rows / 10)));
        stage.assert_same_rows(&stage.old);
        stage.assert_is_as_others();
    }
}

#[test]
fn a_large_one_comes_back_in_two_calls_and_runs_are_deleted_meanwhile() {
    let stage = Stage::plain(10_000);
    let server = &stage.server;
    let [before, between, after] = [0; 3].map(|_| server.make_run(DATABASE));
    let parts: Vec<String> = [&before, &between, &after]
        .iter()
        .enumerate()
        .map(|(i, run)| {
            format!(
                "UPDATE {} SET run_id = '{run}' WHERE (payload ->> 'n')::int % 100 = {i}",
                stage.old
            )
        })
        .collect();
    server.run(DATABASE, &parts.join("; "));
    server.run(DATABASE, &format!("TRUNCATE kept; INSERT INTO kept SELECT * FROM {} WHERE run_id NOT IN ('{before}', '{between}')", stage.old));
    stage.archive_to_table();
    stage.archive();
    stage.drop_old();
    let delete = |run: &str| {
        server.run(
            DATABASE,
            &format!("SET lock_timeout = '5s'; DELETE FROM workflow_runs WHERE id = '{run}'"),
        )
    };
    delete(&before);
    let call = format!("SELECT status FROM restore_workflow_events_partition('{}')", stage.old);
    let mut session = server.connect(DATABASE);
    let status: String = session.query_one(&call, &[]).unwrap().get(0);
    assert_eq!(status, "prepared");
    // No part of the log yet, but it goes with its runs already.
    assert!(!server.partitions(DATABASE).contains(&stage.old));
    delete(&between);
    assert_eq!(
        server
            .ask::<i64>(&format!("SELECT count(*) FROM {} WHERE run_id = '{between}'", stage.old)),
        0
    );
    let begin = std::time::Instant::now();
    let row = session.query_one(&call.replace("status", "status, left_out"), &[]).unwrap();
    println!("10,000 rows are attached in {} ms", ms(begin.elapsed()));
    assert_eq!((row.get::<_, String>(0).as_str(), row.get::<_, i64>(1)), ("restored", 200));
    stage.assert_same_rows(&stage.old);
    stage.assert_is_as_others();
    assert_eq!(
        server.ask::<Option<u32>>("SELECT restoring FROM meshhook_events.archived_partition"),
        None
    );
    delete(&after);
    assert_eq!(
        server.ask::<i64>(&format!("SELECT count(*) FROM {} WHERE run_id = '{after}'", stage.old)),
        0
    );
}

#[test]
fn a_table_that_was_begun_and_is_gone_is_begun_anew() {
    let stage = Stage::plain(1_100);
    stage.archive_to_table();
    stage.archive();
    stage.drop_old();
    let call = format!("SELECT restore_workflow_events_partition('{}')", stage.old);
    stage.server.run(DATABASE, &call);
    stage.drop_old();
    assert_eq!(stage.restore().0, ["prepared", "restored"]);
    stage.assert_same_rows(&stage.old);
    stage.drop_old();
    stage.server.run(DATABASE, &format!("CREATE TABLE {} ()", stage.old));
    assert_eq!(fails(&stage.server, &call).code().code(), "42P07");
}

#[test]
fn a_file_that_was_changed_or_cut_off_is_not_taken() {
    let stage = Stage::plain(100);
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    stage.archive();
    stage.drop_old();
    let path = directory.join(format!("{}.csv", stage.old));
    let whole = std::fs::read_to_string(&path).unwrap();
    let call = format!("SELECT restore_workflow_events_partition('{}')", stage.old);
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    for (text, code) in [
        (whole[..whole.len() - 1].to_owned(), "22P04"),
        (lines[..100].concat(), "XX001"),
        (whole.clone() + lines[1], "23505"),
        (whole.replacen("\"\"n\"\": 1", "\"\"n\"\": 2", 1), "XX001"),
        (whole.replacen("payload", "pay", 1), "22P04"),
        ("id\n\"".to_owned(), "22P04"),
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(fails(&stage.server, &call).code().code(), code);
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(fails(&stage.server, &call).code().code(), "58P01");
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert_eq!(fails(&stage.server, &call).code().code(), "42809");
    stage
        .server
        .run(DATABASE, "UPDATE meshhook_events.archived_partition SET location = '/etc/passwd'");
    assert_eq!(fails(&stage.server, &call).code().code(), "XX001");
    assert!(!stage.server.partitions(DATABASE).contains(&stage.old));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, whole).unwrap();
    stage.server.run(
        DATABASE,
        &format!("UPDATE meshhook_events.archived_partition SET location = '{}'", path.display()),
    );
    stage.restore();
    stage.assert_same_rows(&stage.old);
}
