//! A crash, a cancel or a change at any moment: the rows are in the partition, and the next archive is whole.

use std::fs;
use std::path::Path;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use process::{DEADLINE, poll_until};

use crate::stage::*;

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Begins to archive, and sends a signal to the backend when its file has that many bytes. The error it ends with, if it is told.
fn interrupt(stage: &Stage, temporary: &Path, bytes: u64, how: Signal) -> Option<String> {
    let mut session = stage.server.connect(DATABASE);
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let sql = format!("SELECT archive_workflow_events_partition('{}')", stage.old);
    let archiving = thread::spawn(move || session.batch_execute(&sql));
    poll_until(DEADLINE, || (size(temporary) >= bytes).then_some(())).expect("the file grows");
    if how == Signal::SIGKILL {
        crash(&stage.server, pid);
    } else {
        kill(Pid::from_raw(pid), how).unwrap();
    }
    let error = archiving.join().unwrap().expect_err("it was interrupted");
    error.code().map(|code| code.code().to_owned())
}

#[test]
fn a_backend_that_ends_while_it_writes_leaves_nothing_in_the_way() {
    let stage = Stage::large(30);
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    let temporary = directory.join(format!("{}.csv.tmp", stage.old));
    for (bytes, how) in [
        (1, Signal::SIGKILL),
        (3_000_000, Signal::SIGTERM),
        (6_000_000, Signal::SIGKILL),
        (13_000_000, Signal::SIGINT),
        (12_000_000, Signal::SIGKILL),
    ] {
        if temporary.exists() {
            fs::remove_file(&temporary).unwrap();
        }
        let code = interrupt(&stage, &temporary, bytes, how);
        if how == Signal::SIGINT {
            assert_eq!(code.as_deref(), Some("57014"));
            assert_eq!(names(&directory), Vec::<String>::new());
        }
        assert!(!directory.join(format!("{}.csv", stage.old)).exists());
        assert_eq!(stage.noted(), []);
        stage.assert_same_rows(&stage.old);
    }
    // What a crash has left is no obstacle.
    fs::write(&temporary, "rest").unwrap();
    give_away(&stage, &temporary);
    let archived = stage.archive();
    assert_eq!(archived.2, 300);
    assert_eq!(names(&directory), [format!("{}.csv", stage.old)]);
}

/// Makes a file the server's user's, as one that the server has written is.
fn give_away(stage: &Stage, path: &Path) {
    let data: String = stage.server.ask("SHOW data_directory");
    let owner = fs::metadata(data).unwrap();
    use std::os::unix::fs::MetadataExt;
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// The file is in place, and the transaction isn't committed.
#[test]
fn a_file_in_place_that_was_not_noted_is_taken_over() {
    let stage = Stage::plain(1_000);
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    let path = directory.join(format!("{}.csv", stage.old));
    for how in ["killed", "linked twice", "rolled back"] {
        let mut session = stage.server.connect(DATABASE);
        let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        session
            .batch_execute(&format!(
                "BEGIN; SELECT archive_workflow_events_partition('{}')",
                stage.old
            ))
            .unwrap();
        assert!(path.exists());
        if how == "rolled back" {
            session.batch_execute("ROLLBACK").unwrap();
        } else {
            crash(&stage.server, pid);
        }
        if how == "linked twice" {
            fs::hard_link(&path, directory.join(format!("{}.csv.tmp", stage.old))).unwrap();
        }
        assert_eq!(stage.noted(), []);
        let inode = |path: &Path| {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(path).unwrap().ino()
        };
        let before = inode(&path);
        let archived = stage.archive();
        assert_eq!((archived.1.as_str(), archived.2), (path.to_str().unwrap(), 1_000));
        assert_eq!(inode(&path), before);
        stage.server.run(DATABASE, "DELETE FROM meshhook_events.archived_partition");
    }
    // Rows that came after the crash: the file is another one's.
    stage.server.run(DATABASE, &format!("DELETE FROM {} WHERE payload ->> 'n' = '1'", stage.old));
    assert!(stage.archive().1.ends_with("_2.csv"));
}

#[test]
fn a_table_that_was_not_committed_has_nothing() {
    let stage = Stage::plain(1_000);
    stage.archive_to_table();
    let mut session = stage.server.connect(DATABASE);
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    session
        .batch_execute(&format!("BEGIN; SELECT archive_workflow_events_partition('{}')", stage.old))
        .unwrap();
    crash(&stage.server, pid);
    assert_eq!(stage.noted(), []);
    assert!(!stage.server.ask::<bool>("SELECT to_regclass('workflow_events_archive') IS NOT NULL"));
    stage.archive();
    stage.assert_same_rows("workflow_events_archive");
}

#[test]
fn a_change_in_the_middle_is_noticed() {
    for to_table in [true, false] {
        let stage = Stage::large(30);
        let directory = stage.server.make_directory("archive");
        if to_table {
            stage.archive_to_table()
        } else {
            stage.archive_to(&directory)
        }
        let sql = format!("SELECT archive_workflow_events_partition('{}')", stage.old);
        let insert = format!(
            "INSERT INTO workflow_events (run_id, ts, type, payload) SELECT '{}', ts, 'late', '{{}}' FROM kept LIMIT 1",
            stage.run
        );
        let (mut session, mut other) =
            (stage.server.connect(DATABASE), stage.server.connect(DATABASE));
        let archiving = thread::spawn(move || session.batch_execute(&sql));
        let mut inserted = 0;
        while !archiving.is_finished() {
            other.batch_execute(&insert).unwrap();
            inserted += 1;
        }
        let error = archiving.join().unwrap().expect_err("it has changed");
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(error.message().ends_with("was changed meanwhile"), "{error:?}");
        assert_eq!(names(&directory), Vec::<String>::new());
        assert_eq!(stage.noted(), []);
        assert_eq!(stage.archive().2, 300 + inserted);
    }
}

#[test]
fn two_at_once_make_one_archive() {
    let stage = Stage::large(20);
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    let archive = || {
        let mut session = stage.server.connect(DATABASE);
        let sql = format!("SELECT archive_workflow_events_partition('{}')", stage.old);
        thread::spawn(move || {
            session
                .batch_execute(&sql)
                .map_err(|e| e.as_db_error().unwrap().code().code().to_owned())
        })
    };
    let both = [archive(), archive()].map(|thread| thread.join().unwrap());
    assert!(both.iter().any(Result::is_ok), "{both:?}");
    assert!(
        both.iter().all(|result| result.as_ref().err().is_none_or(|code| code == "55006")),
        "{both:?}"
    );
    stage.archive();
    assert_eq!(names(&directory), [format!("{}.csv", stage.old)]);
}
