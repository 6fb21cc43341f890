//! The rules of the code's shape, held by looking at its text: who may import whom, where unsafe and
//! SQL may stand, how long a file may be, and that each file says what it owns.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the crate, and which others each may import.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("domain", &["domain"]),
    ("error", &["domain"]),
    ("pg", &["pg", "domain", "error"]),
    ("settings", &["pg", "domain"]),
    ("db", &["db", "pg", "domain", "error"]),
    ("read", &["read", "db", "pg", "domain", "error"]),
    ("storage", &["storage", "domain", "error"]),
    ("lifecycle", &["lifecycle", "db", "pg", "storage", "domain", "error", "settings"]),
    ("api", &["api", "lifecycle", "read", "pg", "error", "settings"]),
    ("worker", &["worker", "lifecycle", "db", "pg", "domain", "error", "settings"]),
    ("lib", &["api", "worker", "settings"]),
];

/// The longest that a file may be, in lines.
const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every file of `src`: its path below it, and its text.
fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let sources: BTreeMap<_, _> = files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(sources.len() > 30, "only {} files were found", sources.len());
    sources
}

/// The module that a file belongs to: its folder, or its name where it lies at the top.
fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The text without comments, so that a word in prose is no code.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The text before its unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

#[test]
fn imports_point_down() {
    let allowed: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = module(&file);
        if module == "pg_tests" {
            continue;
        }
        let allowed = allowed.get(module).unwrap_or_else(|| panic!("{file} is in no known module"));
        for piece in code(product(&text)).split("crate::").skip(1) {
            let word: String =
                piece.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !allowed.contains(&word.as_str()) {
                wrong.push(format!("{file} imports {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_domain_knows_neither_postgresql_nor_the_clock() {
    for (file, text) in sources().iter().filter(|(file, _)| module(file) == "domain") {
        for word in ["pgrx", "pg_sys", "unsafe {", "Utc::now", "SystemTime", "Instant::now"] {
            assert!(!code(text).contains(word), "{file} contains {word}");
        }
    }
    assert!(sources()["domain/mod.rs"].contains("#![forbid(unsafe_code)]"));
}

#[test]
fn sql_text_is_run_in_db_alone() {
    for (file, text) in &sources() {
        if !matches!(module(file), "db" | "pg_tests") {
            assert!(!code(text).contains("Spi::"), "{file} uses Spi");
        }
    }
}

#[test]
fn unsafe_stands_in_pg_and_where_a_pg_function_asks_for_it() {
    // A set-returning function hands its call down; a check hook is registered; entry points are named.
    let others = ["read/run_events/mod.rs", "api/events.rs", "settings.rs"];
    for (file, text) in &sources() {
        if module(file) != "pg" && !others.contains(&file.as_str()) {
            assert!(!code(text).contains("unsafe {"), "{file} has an unsafe block");
        }
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    for (file, text) in &sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if code.contains("unsafe {") || code.contains("unsafe impl") {
                let above = lines[i.saturating_sub(5)..i].join("\n");
                assert!(above.contains("SAFETY"), "{file}:{} has no SAFETY above", i + 1);
            }
        }
    }
}

#[test]
fn settings_are_read_at_the_edge() {
    for (file, text) in &sources() {
        if !matches!(module(file), "api" | "worker" | "settings" | "pg_tests") {
            assert!(!code(text).contains("Settings::current"), "{file} reads the settings");
        }
    }
}

#[test]
fn every_file_says_what_it_owns_and_is_not_too_long() {
    for (file, text) in &sources() {
        assert!(text.starts_with("//! "), "{file} does not begin with what it owns");
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{file} has {lines} lines");
    }
}

#[test]
fn nothing_is_left_open() {
    for (file, text) in &sources() {
        for word in ["TODO", "FIXME", "XXX", "unimplemented!", "todo!"] {
            assert!(!text.contains(word), "{file} contains {word}");
        }
    }
}

#[test]
fn every_regress_script_has_its_expected_output() {
    let directory = root().join("tests/pg_regress");
    let names = |folder: &str, extension: &str| {
        let mut names: Vec<String> = fs::read_dir(directory.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter_map(|name| name.strip_suffix(extension).map(str::to_owned))
            .collect();
        names.sort();
        names
    };
    let scripts = names("sql", ".sql");
    assert!(!scripts.is_empty(), "there are no regress scripts");
    assert_eq!(scripts, names("expected", ".out"));
}
