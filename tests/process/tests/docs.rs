//! The manual: every block of SQL in README.md and docs/*.md does what it says.
//!
//! The blocks of a file run in order, each in a psql session of its own, as the superuser, in a fresh cluster with the
//! extension preloaded and MeshHook's schema in the database. There is one run, [`RUN`]. Where no block of the file
//! says CREATE EXTENSION, the extension and the event log are there as well. A chapter named [`MIGRATION`] begins anew, in a
//! cluster whose event log is a plain table. A block fenced as `sql error 22023` must fail with that SQLSTATE; blocks of other
//! languages are not run.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use process::{Form, Server};

/// The run of the examples.
const RUN: &str = "6f1c24e0-6f9e-4c9b-8a56-5b1f0b0d7a51";

/// The chapter that is about plain tables.
const MIGRATION: &str = "Migration";

/// A fenced block of SQL.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// The heading that it stands under.
    chapter: String,
    /// The line of its first statement's line, counted from 1.
    line: usize,
    /// The SQLSTATE that it must fail with.
    error: Option<String>,
    sql: String,
}

/// The blocks of a Markdown text; an error where a fence looks like SQL and is not written as one.
fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut chapter = String::new();
    let mut open: Option<(String, Option<Block>)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        let ticks = trimmed.len() - trimmed.trim_start_matches('`').len();
        match &mut open {
            None if ticks >= 3 => {
                let words: Vec<_> = trimmed[ticks..].split(' ').collect();
                let error = match words[..] {
                    ["sql"] => Some(None),
                    ["sql", "error", sqlstate] if sqlstate.len() == 5 => {
                        Some(Some(sqlstate.to_owned()))
                    }
                    _ if words[0].to_lowercase().contains("sql") => {
                        return Err(format!(
                            "line {number}: neither \"sql\" nor \"sql error SQLSTATE\""
                        ));
                    }
                    _ => None,
                };
                let block = error.map(|error| Block {
                    chapter: chapter.clone(),
                    line: number + 1,
                    error,
                    sql: String::new(),
                });
                open = Some((trimmed[..ticks].to_owned(), block));
            }
            None if trimmed.starts_with('#') => {
                chapter = trimmed.trim_start_matches('#').trim().to_owned();
            }
            None => {}
            Some((fence, block)) if trimmed == fence => {
                blocks.extend(block.take());
                open = None;
            }
            Some((_, Some(block))) => {
                block.sql.push_str(line);
                block.sql.push('\n');
            }
            Some((_, None)) => {}
        }
    }
    match open {
        Some((_, Some(block))) => Err(format!("line {}: the block has no end", block.line - 1)),
        _ => Ok(blocks),
    }
}

/// Runs a block with psql, so that its messages have the line numbers of the file. What went wrong, if anything.
fn run(server: &Server, block: &Block) -> Result<(), String> {
    let mut child = server
        .command("psql")
        .args([
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--set=VERBOSITY=verbose",
            "--dbname=postgres",
            "--file=-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql can be started");
    let text = "\n".repeat(block.line - 1) + &block.sql;
    let mut stdin = child.stdin.take().expect("it is piped");
    // psql that stops at an error reads no further.
    let _ = stdin.write_all(text.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("psql can be waited for");
    let messages = String::from_utf8_lossy(&output.stderr);
    match (&block.error, output.status.success()) {
        (None, true) => Ok(()),
        (None, false) => Err(format!("the block failed\n{messages}")),
        (Some(_), true) => Err("the block did not fail".to_owned()),
        (Some(sqlstate), false) if messages.contains(&format!("ERROR:  {sqlstate}: ")) => Ok(()),
        (Some(_), false) => Err(format!("the block failed otherwise\n{messages}")),
    }
}

/// What is wrong with the blocks of a file.
fn problems(name: &str, blocks: &[Block]) -> Vec<String> {
    let (plain, others): (Vec<&Block>, Vec<&Block>) =
        blocks.iter().partition(|block| block.chapter == MIGRATION);
    let mut problems = Vec::new();
    if !others.is_empty() {
        problems.extend(problems_on(&with_schema(&others), name, &others));
    }
    if !plain.is_empty() {
        let server = Server::preloaded().start();
        server.set_up_plain("postgres", Form::Current);
        problems.extend(problems_on(&server, name, &plain));
    }
    problems
}

/// A server with MeshHook's schema; with the extension and the event log too, where none of these blocks makes them.
fn with_schema(blocks: &[&Block]) -> Server {
    let server = Server::preloaded().start();
    server.script("postgres", &process::fixture("meshhook.sql"));
    server.make_run("postgres");
    server.run("postgres", &format!("UPDATE workflow_runs SET id = '{RUN}'"));
    if !blocks.iter().any(|block| block.sql.contains("CREATE EXTENSION")) {
        server
            .run("postgres", "CREATE EXTENSION pg_meshhook_events; SELECT setup_workflow_events()");
    }
    server
}

fn problems_on(server: &Server, name: &str, blocks: &[&Block]) -> Vec<String> {
    let mut problems = Vec::new();
    for block in blocks {
        if let Err(problem) = run(server, block) {
            let problem = problem.replace("psql:<stdin>:", &format!("{name}:"));
            problems.push(format!("{name}:{}: {problem}", block.line));
        }
    }
    problems
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn check(path: &str) -> Vec<Block> {
    let text =
        fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let blocks = blocks(&text).unwrap_or_else(|problem| panic!("{path}: {problem}"));
    if !blocks.is_empty() {
        let problems = problems(path, &blocks);
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
    blocks
}

#[test]
fn the_readme_does_what_it_says() {
    assert_ne!(check("README.md"), [], "README.md has no block of SQL");
}

#[test]
fn the_manual_does_what_it_says() {
    let mut files: Vec<String> = fs::read_dir(root().join("docs"))
        .expect("there is a folder docs")
        .map(|entry| {
            entry.expect("it can be read").file_name().into_string().expect("a name is UTF-8")
        })
        .filter(|name| name.ends_with(".md"))
        .collect();
    files.sort();
    for file in files {
        check(&format!("docs/{file}"));
    }
}

#[test]
fn blocks_are_found_with_their_lines() {
    let text = "# T\n\n```sql\nSELECT 1;\n```\n```console\n# ls\n```\n## U v\n- x\n  ```sql error 22012\n  SELECT 1/0;\n  ```\n";
    let expected = [
        Block { chapter: "T".to_owned(), line: 4, error: None, sql: "SELECT 1;\n".to_owned() },
        Block {
            chapter: "U v".to_owned(),
            line: 12,
            error: Some("22012".to_owned()),
            sql: "  SELECT 1/0;\n".to_owned(),
        },
    ];
    assert_eq!(blocks(text).unwrap(), expected);
    for bad in
        ["```SQL\nSELECT 1;\n```\n", "```sql error\nSELECT 1/0;\n```\n", "```sql\nSELECT 1;\n"]
    {
        assert!(blocks(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_block_that_does_otherwise_is_named_with_its_line() {
    let text = "\n```sql\nSELECT 1;\nSELECT 1/0;\n```\n```sql error 22012\nSELECT 2;\n```\n\
                ```sql error 22012\nSELECT 1/0;\n```\n```sql error 22012\nSELECT 1/;\n```\n";
    let problems = problems("x.md", &blocks(text).unwrap());
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].contains("x.md:4: ERROR:  22012: division by zero"), "{problems:?}");
    assert!(problems[1].starts_with("x.md:7: the block did not fail"), "{problems:?}");
    assert!(problems[2].starts_with("x.md:13: the block failed otherwise"), "{problems:?}");
}
