//! Compiles the libraries that servers under test can be given: a clock, and stops.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

const LIBRARIES: [&str; 2] = ["clock", "stops"];

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    for name in LIBRARIES {
        let source = format!("src/{name}.c");
        println!("cargo::rerun-if-changed={source}");
        let library = Path::new(&out).join(format!("{name}.so"));
        // A library of before must not stay if this fails.
        let _ = fs::remove_file(&library);
        let status = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&library)
            .arg(&source)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{source} can't be compiled");
    }
}
