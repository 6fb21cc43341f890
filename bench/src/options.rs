//! What is run: everything, unless environment variables ask for less.
//!
//! - `BENCH_PARTS`: some of `stall,cron,idle,replay,count,undo,migrate`.
//! - `BENCH_ROUNDS`: how often each short combination is run (3). Combinations that hold a transaction for
//!   half a minute or longer are run once.
//! - `BENCH_HOLDS`: for how many seconds transactions are held (`6,60`).
//! - `BENCH_EVENTS`: how many events are migrated (5000000).
//! - `BENCH_MIGRATIONS`: how often each way to migrate them is run (3). The report says how often it was.

use std::env;
use std::time::Duration;

const PARTS: [&str; 7] = ["stall", "cron", "idle", "replay", "count", "undo", "migrate"];
const ROUNDS: usize = 3;
const HOLDS: [u64; 2] = [6, 60];
const EVENTS: i64 = 5_000_000;
const MIGRATIONS: usize = 3;

/// From here on, holding a transaction takes too long to do it more than once.
const LONG: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    parts: Vec<String>,
    rounds: usize,
    holds: Vec<Duration>,
    events: i64,
    migrations: usize,
}

impl Options {
    fn full() -> Self {
        Self {
            parts: PARTS.map(str::to_owned).into(),
            rounds: ROUNDS,
            holds: HOLDS.map(Duration::from_secs).into(),
            events: EVENTS,
            migrations: MIGRATIONS,
        }
    }

    pub fn from_env() -> Self {
        let mut options = Self::full();
        if let Ok(parts) = env::var("BENCH_PARTS") {
            options.parts = parts.split(',').map(str::to_owned).collect();
            for part in &options.parts {
                assert!(
                    PARTS.contains(&part.as_str()),
                    "BENCH_PARTS names {part:?}, not of {PARTS:?}"
                );
            }
        }
        if let Ok(rounds) = env::var("BENCH_ROUNDS") {
            options.rounds =
                rounds.parse().ok().filter(|rounds| *rounds > 0).expect("BENCH_ROUNDS is a number");
        }
        if let Ok(holds) = env::var("BENCH_HOLDS") {
            let seconds =
                holds.split(',').map(|s| s.parse().expect("BENCH_HOLDS are whole seconds"));
            options.holds = seconds.map(Duration::from_secs).collect();
        }
        if let Ok(events) = env::var("BENCH_EVENTS") {
            options.events =
                events.parse().ok().filter(|events| *events > 0).expect("BENCH_EVENTS is a number");
        }
        if let Ok(times) = env::var("BENCH_MIGRATIONS") {
            options.migrations = times
                .parse()
                .ok()
                .filter(|times| *times > 0)
                .expect("BENCH_MIGRATIONS is a number");
        }
        options
    }

    /// Whether the parts that are run are run in full, so that their results may replace earlier ones.
    pub fn may_replace(&self) -> bool {
        let full = Self::full();
        // These two make one section.
        let is_divided = self.has("stall") != self.has("cron");
        let has_all_events = self.events == full.events || !self.has("migrate");
        self.rounds == full.rounds && self.holds == full.holds && has_all_events && !is_divided
    }

    pub fn is_every_part(&self) -> bool {
        PARTS.iter().all(|part| self.has(part))
    }

    pub fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|p| p == part)
    }

    pub fn holds(&self) -> &[Duration] {
        &self.holds
    }

    pub fn events(&self) -> i64 {
        self.events
    }

    pub fn migrations(&self) -> usize {
        self.migrations
    }

    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// How often a combination is run that holds a transaction that long.
    pub fn rounds_of(&self, hold: Duration) -> usize {
        if hold < LONG { self.rounds } else { 1 }
    }
}
