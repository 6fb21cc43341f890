//! Compares with other ways to do the same, on one server, in one run, alternating; writes a table.
//!
//! Only ratios mean something elsewhere: the machine and the versions stand above the numbers.

mod replay;
mod stall;

use std::fmt::Write as _;

use process::Server;

fn main() {
    let mut server = Server::builder()
        .conf("shared_preload_libraries", "pg_meshhook_events")
        .conf("pg_meshhook_events.enabled", "off")
        .conf("shared_buffers", "512MB")
        .conf("autovacuum", "off")
        .start();
    let mut report = String::from("# Results\n\nMade by `make bench`.\n\n");
    let version: String = server.ask("SELECT version()");
    let _ = writeln!(report, "- {version}");
    let _ = writeln!(report, "- {} cores, {}", cores(), memory());
    stall::prepare(&server);
    let extension: String = server.ask_in(
        "bench",
        "SELECT extversion FROM pg_extension WHERE extname = 'pg_meshhook_events'",
    );
    let _ = writeln!(report, "- pg_meshhook_events {extension}\n");
    stall::compare(&server, &mut report);
    replay::compare(&server, &mut report);
    print!("{report}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/results.md");
    if let Err(error) = std::fs::write(path, report) {
        panic!("could not write {path}: {error}");
    }
    server.stop(process::Mode::Fast);
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
}

/// The machine's memory, as the kernel says it.
fn memory() -> String {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kb = info.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0);
    format!("{} GiB of memory", kb >> 20)
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
