//! Processes and users: commands as the user that owns clusters, and which processes are alive.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

/// Who owns clusters when we are root; `None` when we are an ordinary user, who owns them himself.
static OWNER: LazyLock<Option<User>> = LazyLock::new(|| {
    Uid::effective().is_root().then(|| {
        User::from_name("postgres")
            .expect("the user database can be read")
            .expect("tests run as root need the user \"postgres\" to run servers as")
    })
});

/// A command that will run as the owner of clusters, without the caller's connection settings.
///
/// It starts in `/`, because the owner may be locked out of the current directory.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    for name in [
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGDATABASE",
        "PGDATA",
        "PGSERVICE",
        "PGOPTIONS",
        "PGPASSFILE",
        // With it pgrx adds a backtrace to the DETAIL of errors.
        "RUST_BACKTRACE",
    ] {
        command.env_remove(name);
    }
    if let Some(owner) = OWNER.as_ref() {
        // The standard library also drops our supplementary groups.
        command
            .uid(owner.uid.as_raw())
            .gid(owner.gid.as_raw())
            .env("HOME", "/")
            .env("USER", &owner.name);
    }
    command
}

/// Runs a command to its end and gives its standard output.
pub fn output(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed with {}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

/// A new directory that belongs to the owner of clusters. Its path is short: a socket's has at most 107 bytes.
pub fn temp_dir() -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix("pgmh-")
        .tempdir()
        .expect("a temporary directory can be made");
    give(dir.path());
    dir
}

/// Makes a file or directory of ours the owner's.
pub fn give(path: &Path) {
    if let Some(owner) = OWNER.as_ref() {
        chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
            .expect("root may give files away");
    }
}

/// Sends a signal to one process; that it is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// Whether a process runs. A dead one that its parent hasn't asked after doesn't.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The direct children of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| stat(pid).is_some_and(|(state, of)| of == parent && state != 'Z'))
        .collect()
}

/// State and parent of a process, from /proc/PID/stat: `pid (name) state parent …`, where a name may hold anything.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
