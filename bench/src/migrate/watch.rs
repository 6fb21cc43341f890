//! A look at the server again and again while a table is migrated: how much disk is used, and whether it is switched.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postgres::Client;
use process::Server;

use super::data::DATABASE;

/// How often it looks.
pub const EVERY: Duration = Duration::from_millis(100);

/// What was seen.
#[derive(Debug)]
pub struct Watched {
    /// How many bytes the databases took more than in the beginning, with temporary files, at the most.
    pub data: u64,
    /// How many bytes more `pg_wal` took.
    pub wal: u64,
    /// When the new table was first seen in its place.
    pub switched: Option<Instant>,
}

/// A thread that looks.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Watched>,
}

impl Watch {
    /// Begins. The direction is that of our migration, where it is one.
    pub fn start(server: &Server, direction: Option<&'static str>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut client = server.connect(DATABASE);
        let (data, is_over) = (server.data(), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let places: [PathBuf; 2] = [data.join("base"), data.join("pg_wal")];
            let before = places.each_ref().map(|place| size(place));
            let mut watched = Watched { data: 0, wal: 0, switched: None };
            loop {
                let [data, wal] = places.each_ref().map(|place| size(place));
                watched.data = watched.data.max(data.saturating_sub(before[0]));
                watched.wal = watched.wal.max(wal.saturating_sub(before[1]));
                if let (Some(direction), None) = (direction, watched.switched)
                    && is_switched(&mut client, direction)
                {
                    watched.switched = Some(Instant::now());
                }
                if is_over.load(Ordering::SeqCst) {
                    return watched;
                }
                thread::sleep(EVERY);
            }
        });
        Self { stop, thread }
    }

    /// Ends it, after a last look.
    pub fn end(self) -> Watched {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it only looks")
    }
}

fn is_switched(client: &mut Client, direction: &str) -> bool {
    let phases = client.query_one(
        "SELECT count(*) > 0 FROM meshhook_events.migration \
         WHERE direction = $1 AND phase IN ('verifying', 'cleaning up', 'done')",
        &[&direction],
    );
    phases.expect("the migration is asked for").get(0)
}

/// The bytes of all files below a directory. What is removed meanwhile is not there.
fn size(place: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(place) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(file) if file.is_dir() => size(&entry.path()),
        Ok(file) => file.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
