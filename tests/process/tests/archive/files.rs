//! Files of CSV are PostgreSQL's own, and none is ever overwritten.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::stage::*;

#[test]
fn a_file_is_what_copy_writes_and_reads() {
    let stage = Stage::awkward();
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    let (kind, location, rows, size, digest) = stage.archive();
    let path = directory.join(format!("{}.csv", stage.old));
    assert_eq!((kind.as_str(), location.as_str()), ("csv", path.to_str().unwrap()));
    assert_eq!((rows, digest.len()), (406, 64));
    assert_eq!(names(&directory), [format!("{}.csv", stage.old)]);
    let file = fs::metadata(&path).unwrap();
    assert_eq!((file.size(), file.mode() & 0o7777), (size.cast_unsigned(), 0o600));

    // As the document has it. Ours is read back by COPY, and COPY's is read by us.
    let copied = directory.join("copied");
    let (old, copied) = (&stage.old, copied.display());
    stage.server.run(
        DATABASE,
        &format!(
            "SET TimeZone = 'UTC'; COPY {old} TO '{copied}' CSV HEADER; \
             CREATE TABLE back (LIKE {old}); COPY back FROM '{location}' CSV HEADER"
        ),
    );
    assert!(fs::read(directory.join("copied")).unwrap() == fs::read(&path).unwrap());
    stage.assert_same_rows("back");
    fs::rename(directory.join("copied"), &path).unwrap();
    assert_eq!(stage.archive().4, digest);
    assert_eq!(stage.noted().len(), 1);
}

#[test]
fn an_archive_that_is_there_is_given_as_it_is_while_it_is_whole() {
    let stage = Stage::awkward();
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    let first = stage.archive();
    assert_eq!(stage.archive(), first);
    assert_eq!(stage.noted().len(), 1);
    let path = directory.join(format!("{}.csv", stage.old));
    // A single bit, which leaves it readable.
    let mut bytes = fs::read(&path).unwrap();
    let place = bytes.windows(4).position(|four| four == b"many").unwrap();
    bytes[place] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let second = stage.archive();
    assert!(second.1.ends_with("_2.csv"), "{second:?}");
    assert_eq!((second.2, &second.4), (first.2, &first.4));
    assert_eq!(stage.noted().len(), 2);
    assert!(fs::read(&path).unwrap() == bytes, "it was overwritten");
    // Another row.
    stage.server.run(DATABASE, &format!("DELETE FROM {} WHERE type = 'NULL'", stage.old));
    let third = stage.archive();
    assert!(
        third.1.ends_with("_3.csv") && third.2 == first.2 - 1 && third.4 != first.4,
        "{third:?}"
    );
}

#[test]
fn what_others_have_put_there_stays() {
    let stage = Stage::plain(100);
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    let name = |suffix: &str| directory.join(format!("{}{suffix}", stage.old));
    fs::write(name(".csv"), "mine").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", name("_2.csv")).unwrap();
    std::os::unix::fs::symlink("/nowhere", name("_3.csv")).unwrap();
    fs::create_dir(name("_4.csv")).unwrap();
    fs::write(name("_5.csv"), "").unwrap();
    let archived = stage.archive();
    assert!(archived.1.ends_with("_6.csv"), "{archived:?}");
    assert_eq!(fs::read_to_string(name(".csv")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(name("_5.csv")).unwrap(), "");
    assert_eq!(names(&directory).len(), 6);
}

#[test]
fn a_full_disk_leaves_the_partition_and_no_file() {
    let stage = Stage::large(30);
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    let disk = process::SmallDisk::mount(&directory, 4_096);
    let error = if disk.is_some() {
        stage.archive_fails()
    } else {
        // Without the right to mount: a limit of the process, above what it writes of WAL and tables.
        let mut session = stage.server.connect(DATABASE);
        let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let limited = std::process::Command::new("prlimit")
            .args(["--fsize=20000000", "--pid", &pid.to_string()])
            .status();
        assert!(limited.unwrap().success());
        let sql = format!("SELECT archive_workflow_events_partition('{}')", stage.old);
        session.batch_execute(&sql).unwrap_err().as_db_error().unwrap().clone()
    };
    assert_eq!(error.code().code(), "53100", "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("Make room")), "{error:?}");
    if disk.is_some() {
        assert!(error.message().ends_with("No space left on device"), "{error:?}");
    }
    assert_eq!(names(&directory), Vec::<String>::new());
    assert_eq!(stage.noted(), []);
    stage.assert_same_rows(&stage.old);
    drop(disk);
    let archived = stage.archive();
    assert_eq!(archived.2, 300);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let stage = Stage::plain(100);
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    let code = || stage.archive_fails().code().code().to_owned();

    fs::set_permissions(&directory, fs::Permissions::from_mode(0o500)).unwrap();
    assert_eq!(code(), "42501");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();

    fs::rename(&directory, directory.with_extension("away")).unwrap();
    let error = stage.archive_fails();
    assert_eq!(error.code().code(), "58P01", "{error:?}");
    assert!(error.message().contains(directory.to_str().unwrap()), "{error:?}");
    assert!(error.hint().unwrap().contains("archive_directory"), "{error:?}");

    std::os::unix::fs::symlink(directory.with_extension("away"), &directory).unwrap();
    assert_eq!(code(), "42809");
    fs::remove_file(&directory).unwrap();
    fs::write(&directory, "").unwrap();
    assert_eq!(code(), "42809");
    fs::remove_file(&directory).unwrap();

    fs::rename(directory.with_extension("away"), &directory).unwrap();
    let temporary = directory.join(format!("{}.csv.tmp", stage.old));
    let secret = directory.join("secret");
    fs::write(&secret, "secret").unwrap();
    std::os::unix::fs::symlink(&secret, &temporary).unwrap();
    assert_eq!(code(), "42809");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(stage.noted(), []);
    fs::remove_file(&temporary).unwrap();
    assert_eq!(stage.archive().2, 100);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let stage = Stage::plain(100);
    let directory = stage.server.make_directory("archive");
    stage.archive_to(&directory);
    for name in ["../evil", ".hidden", "a/b"] {
        stage.server.run(DATABASE, &format!("ALTER TABLE {} RENAME TO \"{name}\"", stage.old));
        let error =
            fails(&stage.server, &format!("SELECT archive_workflow_events_partition('{name}')"));
        assert_eq!(error.code().code(), "42602", "{error:?}");
        stage.server.run(DATABASE, &format!("ALTER TABLE \"{name}\" RENAME TO {}", stage.old));
    }
    assert_eq!(names(&directory), Vec::<String>::new());
}
