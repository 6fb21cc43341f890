//! Compares with other ways to do the same, on one server, in one run, alternating; writes a table.
//!
//! A run in which something is not as it should be (a partition that was not made, a row that is gone) panics
//! and reports nothing. A run of some parts alone
//! replaces their sections in the kept report; one that was made shorter leaves it alone.

mod count;
mod idle;
mod migrate;
mod options;
mod replay;
mod report;
mod stall;
mod undo;

use options::Options;
use process::{SELDOM, Server};

fn main() {
    let options = Options::from_env();
    let mut server = Server::builder()
        .conf("shared_preload_libraries", "pg_meshhook_events, pg_cron")
        .conf("pg_meshhook_events.schedule", SELDOM)
        // The worker keeps out of every other database.
        .conf("pg_meshhook_events.databases", &[stall::WORKER_DATABASE, idle::DATABASE].join(","))
        .conf("cron.database_name", "postgres")
        .conf("cron.use_background_workers", "on")
        .conf("timezone", "UTC")
        .conf("shared_buffers", "512MB")
        .conf("max_wal_size", "4GB")
        .conf("checkpoint_timeout", "1h")
        .conf("autovacuum", "off")
        .start();
    let mut text = report::head(&server);
    stall::prepare(&server, &mut text);
    if options.has("stall") || options.has("cron") {
        stall::compare(&server, &options, &mut text);
    }
    if options.has("idle") {
        idle::measure(&mut server, &mut text);
    }
    server.stop(process::Mode::Fast);
    if ["replay", "count", "undo"].into_iter().any(|part| options.has(part)) {
        read(&options, &mut text);
    }
    if options.has("migrate") {
        migrate(&options, &mut text);
    }
    print!("{text}");
    keep(&text, &options);
}

/// Writes the results into the kept ones, where they may stand there.
fn keep(text: &str, options: &Options) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/results.md");
    let earlier = std::fs::read_to_string(path).unwrap_or_default();
    let merged = report::merge(&earlier, text, options.is_every_part());
    match merged.filter(|_| options.may_replace()) {
        Some(merged) => {
            if let Err(error) = std::fs::write(path, merged) {
                panic!("could not write {path}: {error}");
            }
        }
        None => println!("\n(made shorter, or elsewhere, so bench/results.md is as it was)"),
    }
}

/// Compares ways to migrate, in a server whose `pg_wal` shows what WAL is kept for.
fn migrate(options: &Options, text: &mut String) {
    let mut server = Server::builder()
        .conf("shared_preload_libraries", "pg_meshhook_events")
        .conf("pg_meshhook_events.enabled", "off")
        .conf("timezone", "UTC")
        .conf("shared_buffers", "2GB")
        .conf("max_wal_size", "4GB")
        .conf("wal_recycle", "off")
        .conf("checkpoint_timeout", "1h")
        .conf("autovacuum", "off")
        .start();
    migrate::compare(&server, options, text);
    server.stop(process::Mode::Fast);
}

/// Compares ways to read, in a server that keeps all events in its own buffers.
fn read(options: &Options, text: &mut String) {
    let mut server = Server::builder()
        .conf("shared_preload_libraries", "pg_meshhook_events")
        .conf("pg_meshhook_events.schedule", SELDOM)
        .conf("pg_meshhook_events.databases", undo::DATABASE)
        .conf("log_min_messages", "debug1")
        .conf("timezone", "UTC")
        .conf("shared_buffers", "4GB")
        .conf("max_wal_size", "8GB")
        .conf("checkpoint_timeout", "1h")
        .conf("autovacuum", "off")
        .start();
    if options.has("replay") {
        replay::compare(&server, text);
    }
    if options.has("count") {
        count::compare(&server, text);
    }
    if options.has("undo") {
        undo::compare(&server, text);
    }
    server.stop(process::Mode::Fast);
}
