//! Data directories: one is made by initdb for each test program, and copied for each server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use tempfile::TempDir;

use crate::install::Install;
use crate::os;

/// The file in a data directory that holds the harness's settings; it is included last, so that they win.
const CONF: &str = "harness.conf";

/// The template's directory, until the test program ends.
static TEMPLATE: Mutex<Option<TempDir>> = Mutex::new(None);

/// Makes a new data directory at `data` by copying the template.
pub fn create(install: &Install, data: &Path) {
    os::output(os::command("cp").arg("-a").arg(template(install)).arg(data));
}

/// The template's data directory, made at the first call.
fn template(install: &Install) -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let dir = os::temp_dir();
        let data = dir.path().join("template");
        install.initdb(&data);
        let conf = data.join("postgresql.conf");
        let text = fs::read_to_string(&conf).expect("initdb writes postgresql.conf");
        fs::write(&conf, format!("{text}\ninclude '{CONF}'\n"))
            .expect("postgresql.conf can be written");
        *TEMPLATE.lock().expect("nothing panics with the template locked") = Some(dir);
        // Statics are never dropped, so the directory has to be removed by the C library's exit.
        // SAFETY: the function is a plain one of this program, takes nothing and doesn't unwind.
        unsafe { nix::libc::atexit(remove_template) };
        data
    })
}

extern "C" fn remove_template() {
    if let Ok(mut template) = TEMPLATE.lock() {
        template.take();
    }
}

/// Writes the harness's settings into a data directory.
pub fn write_conf(data: &Path, settings: &BTreeMap<String, String>) {
    let mut text = String::new();
    for (key, value) in settings {
        let value = value.replace('\\', r"\\").replace('\'', "''");
        writeln!(text, "{key} = '{value}'").expect("a string takes everything");
    }
    let path = data.join(CONF);
    fs::write(&path, text).expect("the settings can be written");
    os::give(&path);
}
