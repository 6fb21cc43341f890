//! A disk that is too small, or becomes full: the table is untouched, the error says so, and going on works.

use std::fs;
use std::path::PathBuf;

use postgres::error::DbError;
use process::{Form, MIGRATE, Server, SmallDisk, Whose};

use crate::stage::*;

/// The database on the small disk.
const SMALL: &str = "small";

/// A server with a plain log in a database of its own that lies on a disk of so many megabytes; `None` where this machine
/// lets nobody mount one.
fn on_small_disk(megabytes: u32) -> Option<(Server, PathBuf, SmallDisk)> {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("autovacuum", "off")
        .start();
    let directory = server.make_directory("small");
    let disk = SmallDisk::mount(&directory, megabytes * 1024)?;
    server.run(DATABASE, &format!("CREATE TABLESPACE small LOCATION '{}'", directory.display()));
    server.run(DATABASE, &format!("CREATE DATABASE {SMALL} TABLESPACE small"));
    server.set_up_plain(SMALL, Form::Current);
    Some((server, directory, disk))
}

/// Says that this was not tried.
fn cannot_mount() {
    println!("this machine lets nobody mount a file system: the case was left out");
}

fn call(server: &Server, settings: &str, database: &str) -> Result<(), Option<Box<DbError>>> {
    server.call(database, process::OWNER, settings, MIGRATE).end()
}

fn is_full(answer: Result<(), Option<Box<DbError>>>) -> Box<DbError> {
    let error = answer.expect_err("the disk is full").expect("the server says so");
    assert_eq!(error.code().code(), "53100", "{error:?}");
    error
}

#[test]
fn too_little_room_is_known_beforehand() {
    let Some((server, directory, _disk)) = on_small_disk(64) else { return cannot_mount() };
    let before = server.definition(SMALL, "public.workflow_events");
    let rows = server.rows_of(SMALL, "workflow_events");
    // Less than the table has.
    let filler = directory.join("filler");
    let most = usize::try_from(free(&directory)).expect("it is little") - 256 * 1024;
    fs::write(&filler, vec![1; most]).expect("there is room");
    let left = free(&directory);
    let size: i64 = server.ask_in(SMALL, "SELECT pg_total_relation_size('workflow_events')");
    assert!(
        left < u64::try_from(size).expect("it is positive"),
        "{left} bytes are left, {size} are needed"
    );
    let error = is_full(call(&server, "", SMALL));
    assert!(error.message().contains("workflow_events"), "{error:?}");
    assert!(error.hint().is_some(), "{error:?}");
    assert_eq!(server.definition(SMALL, "public.workflow_events"), before);
    assert_eq!(server.migration_leftovers(SMALL), Vec::<String>::new());
    fs::remove_file(&filler).expect("it is there");
    call(&server, "", SMALL).unwrap_or_else(|error| panic!("{error:?}\n{}", server.log()));
    assert_eq!(server.rows_of(SMALL, "workflow_events"), rows);
}

/// How many bytes are left on the disk of a directory.
fn free(directory: &std::path::Path) -> u64 {
    let output = std::process::Command::new("df")
        .args(["--block-size=1", "--output=avail"])
        .arg(directory)
        .output()
        .expect("df is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("df says it")
}

#[test]
fn a_disk_that_becomes_full_while_it_is_copied() {
    let Some((server, directory, _disk)) = on_small_disk(96) else { return cannot_mount() };
    let rows = server.rows_of(SMALL, "workflow_events");
    let under_way = server.call(SMALL, process::OWNER, SLOWLY, MIGRATE);
    server.wait_for_phase(SMALL, "copying");
    let filler = directory.join("filler");
    // Until nothing more can be written.
    let _ = fs::write(&filler, vec![1; 96 * 1024 * 1024]);
    is_full(under_way.end());
    // The table is there for everybody.
    assert_eq!(server.rows_of(SMALL, "workflow_events"), rows);
    let progress = server.migration(SMALL).expect("it is known");
    assert!(!progress.is_over, "{progress:?}");
    let kind: String = server.ask_in(
        SMALL,
        "SELECT relkind::text FROM pg_class WHERE oid = 'workflow_events'::regclass",
    );
    assert_eq!(kind, "r");
    // As long as it is full, it fails again.
    is_full(call(&server, "", SMALL));
    fs::remove_file(&filler).expect("it is there");
    call(&server, "", SMALL).unwrap_or_else(|error| panic!("{error:?}\n{}", server.log()));
    assert_eq!(server.rows_of(SMALL, "workflow_events"), rows);
    assert_eq!(server.migration_leftovers(SMALL), Vec::<String>::new());
}

/// The same where nothing can be mounted: every file that the backend would make fails.
#[test]
fn no_file_can_be_made_while_it_is_copied() {
    const ENOSPC: i32 = 28;
    let stage = Stage::of(
        Form::Older,
        Server::preloaded().stops().conf("pg_meshhook_events.enabled", "off"),
    );
    let under_way = stage.begin(SLOWLY, MIGRATE);
    stage.server.wait_for_phase(DATABASE, "copying");
    stage.server.stop_after(0, Whose::Pid(under_way.pid), ["base/", ""], Some(ENOSPC));
    is_full(under_way.end());
    stage.server.let_go();
    assert!(!stage.is_partitioned());
    stage.assert_same_rows();
    stage.migrate();
    stage.assert_same_rows();
}
