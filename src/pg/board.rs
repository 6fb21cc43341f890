//! The board in shared memory through which workers answer the launcher and sessions wake it.
//!
//! It exists only where the library was preloaded.

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::{PGRXSharedMemory, PgLwLock, pg_guard, pg_shmem_init, pg_sys};

use crate::domain::queue::{Order, Task};
use crate::domain::retry::Outcome;

/// How many database workers run at once: enough for progress, and slots are left for others.
pub const SLOTS: usize = 2;

/// How many databases can ask to be looked at before the launcher has noted it; more, and it looks at
/// all of them.
const WAKE_REQUESTS: usize = 64;

/// What is known of a worker: what it is to do, and what it says. It registers itself when it starts, so that a
/// launcher that was started again meets the workers of the one before.
#[derive(Clone, Copy)]
struct Slot {
    pid: i32,
    database: u32,
    orders: [Order; Task::ALL.len()],
    /// Until it says otherwise, it has failed.
    outcomes: [Outcome; Task::ALL.len()],
    /// A number for what the last worker of the database had to say to the log, so that the next one doesn't
    /// repeat it; 0 where that was nothing.
    last_words: u64,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            pid: 0,
            database: 0,
            orders: Default::default(),
            outcomes: [Outcome::Failed; Task::ALL.len()],
            last_words: 0,
        }
    }
}

#[derive(Clone, Copy)]
struct Board {
    launcher_pid: i32,
    slots: [Slot; SLOTS],
    wake: [u32; WAKE_REQUESTS],
    wake_count: usize,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            launcher_pid: 0,
            slots: [Slot::default(); SLOTS],
            wake: [0; WAKE_REQUESTS],
            wake_count: 0,
        }
    }
}

// SAFETY: plain numbers, without pointers: the same bytes mean the same in every process.
unsafe impl PGRXSharedMemory for Board {}

// SAFETY: the name is used by no other lock of this library.
static BOARD: PgLwLock<Board> = unsafe { PgLwLock::new(c"pg_meshhook_events") };

/// Set in the postmaster when the board was asked for, and inherited by every process it forks.
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Asks for the board; to be called while libraries are preloaded.
pub fn request() {
    pg_shmem_init!(BOARD);
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Whether the library was preloaded, so that there is a launcher.
#[must_use]
pub fn exists() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// The launcher says that it is there.
pub fn announce_launcher(pid: i32) {
    BOARD.exclusive().launcher_pid = pid;
}

/// The launcher's process; 0 where it has never started, or the library was not preloaded.
#[must_use]
pub fn launcher_pid() -> i32 {
    if exists() { BOARD.share().launcher_pid } else { 0 }
}

/// A worker is about to be started in `slot`, with these orders.
pub fn prepare_slot(slot: usize, orders: [Order; Task::ALL.len()], last_words: u64) {
    if let Some(entry) = BOARD.exclusive().slots.get_mut(slot) {
        *entry = Slot { orders, last_words, ..Slot::default() };
    }
}

/// The worker in `slot` says which process it is, and which database it has been given; it gets its orders, and
/// the last words of the worker before it.
pub fn register(slot: usize, pid: i32, database: u32) -> ([Order; Task::ALL.len()], u64) {
    let mut board = BOARD.exclusive();
    board.slots.get_mut(slot).map_or_else(Default::default, |entry| {
        (entry.pid, entry.database) = (pid, database);
        (entry.orders, entry.last_words)
    })
}

/// The process `pid`, registered in `slot`, says how a task has ended.
pub fn report(slot: usize, pid: i32, task: Task, outcome: Outcome) {
    if let Some(entry) = BOARD.exclusive().slots.get_mut(slot).filter(|entry| entry.pid == pid) {
        for (place, _) in entry.outcomes.iter_mut().zip(Task::ALL).filter(|(_, t)| *t == task) {
            *place = outcome;
        }
    }
}

/// The process `pid`, registered in `slot`, leaves its last words and is about to end.
pub fn leave(slot: usize, pid: i32, last_words: u64) {
    if let Some(entry) = BOARD.exclusive().slots.get_mut(slot).filter(|entry| entry.pid == pid) {
        (entry.last_words, entry.pid) = (last_words, 0);
    }
}

/// How the tasks of the worker in `slot`, which has ended, went, and its last words.
#[must_use]
pub fn outcomes(slot: usize) -> ([Outcome; Task::ALL.len()], u64) {
    let slot = BOARD.share().slots.get(slot).copied().unwrap_or_default();
    (slot.outcomes, slot.last_words)
}

/// The processes of workers that are registered for `database` and still run.
#[must_use]
pub fn workers_of(database: u32) -> Vec<i32> {
    if !exists() {
        return Vec::new();
    }
    let slots = BOARD.share().slots;
    let of = slots.iter().filter(|slot| slot.database == database && slot.pid != 0);
    of.map(|slot| slot.pid).filter(|pid| super::process::is_worker_of(*pid, database)).collect()
}

/// The process and database of the worker that is registered in `slot` and still runs.
#[must_use]
pub fn running(slot: usize) -> Option<(i32, u32)> {
    let entry = *BOARD.share().slots.get(slot)?;
    super::process::is_worker_of(entry.pid, entry.database).then_some((entry.pid, entry.database))
}

/// Which databases asked to be looked at since the last call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WakeRequests {
    /// These.
    Databases(Vec<u32>),
    /// More than could be noted.
    All,
}

/// Takes the requests noted so far.
#[must_use]
pub fn take_wake_requests() -> WakeRequests {
    let mut board = BOARD.exclusive();
    let count = std::mem::take(&mut board.wake_count);
    board
        .wake
        .get(..count)
        .map_or(WakeRequests::All, |noted| WakeRequests::Databases(noted.to_vec()))
}

/// Asks the launcher to look at this database once the current transaction has committed; does
/// nothing where the library was not preloaded.
pub fn wake_launcher_at_commit() {
    if exists() {
        pgrx::register_xact_callback(pgrx::PgXactCallbackEvent::Commit, wake_launcher);
    }
}

fn wake_launcher() {
    let database = super::server::database().to_u32();
    let mut board = BOARD.exclusive();
    let count = board.wake_count;
    if let Some(entry) = board.wake.get_mut(count) {
        *entry = database;
    }
    board.wake_count = (count + 1).min(WAKE_REQUESTS + 1);
    let pid = board.launcher_pid;
    drop(board);
    super::process::wake(pid);
}
