//! Compiles the clock that servers under test can be given.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

const SOURCE: &str = "src/clock.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    let library = Path::new(&out).join("clock.so");
    // A library of before must not stay if this fails.
    let _ = fs::remove_file(&library);
    let status = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&library)
        .arg(SOURCE)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{SOURCE} can't be compiled");
}
