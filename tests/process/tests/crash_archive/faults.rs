//! Something else is wrong than a crash while the worker archives: the month stays, the ledger says why, and when that is over
//! the next pass goes on.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use process::{SmallDisk, Whose};

use crate::stage::*;

const WORKER: Whose<'_> = Whose::Title("pg_meshhook_events worker");

/// The worker has looked in vain: the month is there, and the ledger has this to say.
fn is_kept(stage: &Stage, why: &str) {
    stage.server.look(DATABASE);
    assert!(stage.exists() && stage.has_partition());
    let last = "SELECT status || ': ' || message FROM meshhook_events.maintenance_log \
                WHERE origin = 'worker' AND task = 'retire' ORDER BY id DESC LIMIT 1";
    let last: String = stage.ask(last);
    let is_said = last.starts_with("warning: ") && last.contains(&stage.old) && last.contains(why);
    assert!(is_said, "{last} instead of {why}");
    let noted = "SELECT count(*) FROM meshhook_events.archived_partition";
    assert_eq!(stage.ask::<i64>(noted), 0);
}

fn is_archived(stage: &Stage) {
    stage.heal();
    stage.assert_archived();
}

#[test]
fn a_full_disk_and_a_directory_that_cannot_be_used() {
    const ENOSPC: i32 = 28;
    let stage = Stage::new(600, 600);
    let full = "No space left on device";

    stage.prepare();
    match SmallDisk::mount(&stage.directory, 256) {
        Some(disk) => {
            is_kept(&stage, full);
            assert_eq!(files(&stage.directory), Vec::<String>::new());
            drop(disk);
        }
        // Without the right to mount: the second write fails.
        None => {
            let under = [stage.directory.to_str().unwrap(), ""];
            stage.server.stop_after(4, WORKER, under, Some(ENOSPC));
            is_kept(&stage, full);
            stage.server.let_go();
        }
    }
    is_archived(&stage);

    stage.prepare();
    let away = stage.directory.with_extension("away");
    fs::rename(&stage.directory, &away).unwrap();
    is_kept(&stage, "No such file or directory");
    fs::rename(&away, &stage.directory).unwrap();
    is_archived(&stage);

    stage.prepare();
    fs::set_permissions(&stage.directory, Permissions::from_mode(0o500)).unwrap();
    is_kept(&stage, "Permission denied");
    fs::set_permissions(&stage.directory, Permissions::from_mode(0o700)).unwrap();
    is_archived(&stage);
}

#[test]
fn each_call_that_fails() {
    const EIO: i32 = 5;
    let stage = Stage::new(600, 600);
    let mut calls = Vec::new();
    for fault_at in 0.. {
        stage.prepare();
        let under = [stage.directory.to_str().unwrap(), ""];
        stage.server.stop_after(fault_at, WORKER, under, Some(EIO));
        stage.server.look(DATABASE);
        let seen = stage.server.calls();
        stage.server.let_go();
        if seen.len() <= fault_at {
            stage.assert_archived();
            break;
        }
        stage.assert_safe();
        calls.push(seen[fault_at].clone());
        is_archived(&stage);
    }
    println!("{}", calls.join("\n"));
    assert!(calls.len() >= 9, "{calls:?}");
}
