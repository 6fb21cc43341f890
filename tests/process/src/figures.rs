//! What tests have measured: written down for the table of `docs/torture.md`, and never judged.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, time::Duration};

use crate::install::Install;

/// The environment variable that asks for figures; they are written where it is set.
const ASKED: &str = "FIGURES";

/// Adds a line to the figures of this version of PostgreSQL, if they are asked for: which case, what was measured, and
/// what came out, with its unit.
pub fn figure(case: &str, what: &str, value: impl Display) {
    if env::var_os(ASKED).is_none() {
        return;
    }
    let dir = target().join("figures");
    fs::create_dir_all(&dir).expect("the folder of the figures can be made");
    let path = dir.join(format!("pg{}.tsv", Install::from_env().version()));
    let mut file = File::options().create(true).append(true).open(&path).expect("it can be opened");
    let line = format!("{case}\t{what}\t{value}\n");
    // In one write, so that lines of other threads stay apart.
    file.write_all(line.as_bytes()).expect("the figure can be written");
}

/// A time as a figure.
pub fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

/// Where cargo builds: the workspace's target folder, or where the environment says.
fn target() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    env::var_os("CARGO_TARGET_DIR").map_or_else(default, PathBuf::from)
}
