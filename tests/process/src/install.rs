//! The PostgreSQL installation under test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::os;

/// An installation, as its `pg_config` describes it.
#[derive(Clone, Debug)]
pub struct Install {
    bindir: PathBuf,
    version: u32,
}

impl Install {
    /// The installation that the environment variable `PG_CONFIG` names.
    ///
    /// # Panics
    ///
    /// Without the variable: a test that can't run has failed.
    pub fn from_env() -> Self {
        let pg_config = env::var_os("PG_CONFIG").expect(
            "PG_CONFIG is not set: it must name the pg_config of the server to test (scripts/test sets it)",
        );
        let ask = |option: &str| os::output(Command::new(&pg_config).arg(option));
        // "PostgreSQL 15.20 (Debian …)" or "PostgreSQL 18beta1"
        let text = ask("--version");
        let version = text
            .trim_start_matches("PostgreSQL ")
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("pg_config --version says {text:?}"));
        Self { bindir: PathBuf::from(ask("--bindir").trim_end()), version }
    }

    /// The major version: 15 to 18.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The path of one of its programs, such as `psql`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// Makes a data directory. Sessions are trusted, the superuser is `postgres`, the locale is C.
    pub(crate) fn initdb(&self, data: &Path) {
        os::output(os::command(self.program("initdb")).arg("--pgdata").arg(data).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]));
    }
}
